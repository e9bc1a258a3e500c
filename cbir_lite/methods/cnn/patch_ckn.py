"""Patch-CKN [116]: convolutional kernel networks for patches (survey Section IV-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import LocalAggregation, evenly

_IMAGES = 64
"""Images whose kernel maps are held at once."""
_SAMPLE, _PAIRS = 20_000, 256
_NOISE = 1e-2
"""Share of the strongest variance that whitening adds to all: flat sub-patches stay flat."""


def spherical_words(x: Tensor, words: int, generator: torch.Generator, steps: int = 10) -> Tensor:
    """K-means by cosine of unit rows (n, d): unit rows (words, d)."""
    centres = x[torch.randperm(len(x), generator=generator)[:words]].clone()
    for _ in range(steps):
        member = (x @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, member, x)
        # An empty word stays where it is.
        centres = torch.where(sums.any(1, keepdim=True), A.l2n(sums), centres)
    return centres


def kernel_map(x: Tensor, filters: Tensor, eta: Tensor, sigma: float) -> Tensor:
    """psi(x)_l = sqrt(eta_l) exp(-|x - w_l|^2 / sigma^2) of rows x (n, d), filters w (L, d)."""
    squares = x.square().sum(1, keepdim=True) + filters.square().sum(1) - 2 * x @ filters.T
    return eta.sqrt() * (-squares.clamp_min(0) / sigma**2).exp()


def kernel_error(x: Tensor, y: Tensor, filters: Tensor, eta: Tensor, sigma: float) -> Tensor:
    """Mean squared error of <psi(x), psi(y)> for exp(-|x - y|^2 / (2 sigma^2)), rows of pairs."""
    wanted = (-(x - y).square().sum(1) / (2 * sigma**2)).exp()
    found = (kernel_map(x, filters, eta, sigma) * kernel_map(y, filters, eta, sigma)).sum(1)
    return (found - wanted).square().mean()


def starting_eta(x: Tensor, y: Tensor, filters: Tensor, sigma: float) -> Tensor:
    """The one weight for all filters (L,) that has the least :func:`kernel_error`.

    With weights that are too small, learning would first draw all filters into one place.
    """
    one = torch.ones(len(filters))
    wanted = (-(x - y).square().sum(1) / (2 * sigma**2)).exp()
    found = (kernel_map(x, filters, one, sigma) * kernel_map(y, filters, one, sigma)).sum(1)
    return one * (wanted * found).sum() / found.square().sum()


def gaussian_pooling(length: int, stride: int) -> Tensor:
    """Weights (cells, length) of cells ``stride`` apart, Gaussians as wide as that; rows sum to 1.

    Every position is nearer than a stride to some cell.
    """
    cells = max(1, length // stride)
    centres = (torch.arange(cells) + 0.5) * length / cells - 0.5
    weight = torch.exp(-((torch.arange(length) - centres[:, None]) ** 2) / stride**2)
    return weight / weight.sum(1, keepdim=True)


@dataclass(kw_only=True, eq=False)
class PatchCKN(LocalAggregation):
    r"""Describe patches of an image by a map that approximates a kernel, learned without labels.

    A kernel compares two patches by comparing all their small sub-patches. It cannot be stored for
    every patch, but a convolution with few filters, a Gaussian of its outputs and pooling give
    vectors whose inner product is nearly the kernel. The filters are learned so that this holds for
    pairs of sub-patches, from nothing but images: contrast is normalised, colours and edges are
    whitened, and the width of the kernel is taken from the distances that occur. Patches of an
    image are then aggregated over a codebook. Real-valued: ``bits`` is the number of dimensions.

    :survey: Section IV-B
    :cite: none
    :source: [116] is not identified for certain: it is one of two papers of the same authors on
        Patch-CKN, of 2015 and 2017, whose abstracts were read. Kernel, approximation, objective,
        start from k-means, quantile of distances and Gaussian pooling were checked against a public
        implementation of the convolutional kernel networks on which they build (not the authors')
    :objective: \min_{w,\eta\ge0}\ \mathrm{mean}_{(x,y)}\Big(e^{-\|x-y\|^2/2\sigma^2}-\sum_l\eta_l
        e^{-\|x-w_l\|^2/\sigma^2}e^{-\|y-w_l\|^2/\sigma^2}\Big)^2,\quad
        \psi_l(z)=\|p_z\|\sqrt{\eta_l}\,e^{-\|\tilde p_z-w_l\|^2/\sigma^2},\quad
        \xi(u)\propto\sum_ze^{-\|z-u\|^2/\beta^2}\psi(z)
    :shapes: images x uint8 (n, h, w, c); sub-patches p (side x side x c), L filters; patches of
        cells x cells vectors xi; descriptors float32 (n, bits) of unit length
    :defaults: sub-patches of 3 x 3 pixels, 64 filters, sigma the 0.1 quantile of distances, patches
        of 3 x 3 cells, the 40 of most contrast of each image, 64 dimensions a patch, 16 words;
        chosen here except for the quantile, the size of sub-patches by the error of the kernel on
        training images
    :departures: one layer on whitened colours, where the papers also stack two and feed gradients;
        patches lie on a grid, and those of most contrast are kept, instead of regions that a
        detector finds and turns upright; images are shrunk to at most 48 pixels a side; filters
        start from spherical k-means and are learned by Adam; far fewer patches and words
    :fidelity: simplified
    """

    reads = "images"

    side: int = 3
    filters: int = 64
    quantile: float = 0.1
    cells: int = 3
    patches: int = 40
    longest: int = 48
    steps: int = 800
    lr: float = 1e-2

    # -- learning ------------------------------------------------------------------------------

    def prepare(self, x: NDArray[Any]) -> None:
        """Whitening, kernel width and filters of sub-patches; then the codebook of patches."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = evenly(len(x), 200)
        raw = self._sub_patches(self._small(self._check(x[rows], 0))).flatten(0, 2)
        raw = raw[torch.randperm(len(raw), generator=generator)[: 4 * _SAMPLE]]
        raw = raw - raw.mean(1, keepdim=True)
        # Sub-patches without contrast would all be one point, and the kernel's width nothing.
        contrast = raw.norm(dim=1)
        raw = raw[contrast >= contrast.max() * 0.05][:_SAMPLE]
        variances, axes = torch.linalg.eigh(raw.T @ raw / len(raw))
        keep = variances > variances[-1] * 1e-4
        whiten = axes[:, keep] / (variances[keep] + _NOISE * variances[-1]).sqrt()
        self.whiten_ = whiten.numpy()
        self._learn_filters(A.l2n(raw @ whiten), generator)
        super().prepare(x)

    def _learn_filters(self, unit: Tensor, generator: torch.Generator) -> None:
        x, y = (unit[torch.randint(len(unit), (_SAMPLE,), generator=generator)] for _ in range(2))
        distances = (x - y).norm(dim=1)
        self.sigma_ = float(distances[distances > 0].quantile(self.quantile))
        w = spherical_words(unit, self.filters, generator).requires_grad_()
        log_eta = starting_eta(x, y, w.detach(), self.sigma_).log().requires_grad_()
        optimiser = torch.optim.Adam([w, log_eta], lr=self.lr)
        self.errors_: list[float] = []
        for _ in range(self.steps):
            rows = torch.randint(_SAMPLE, (_PAIRS,), generator=generator)
            error = kernel_error(x[rows], y[rows], w, log_eta.exp(), self.sigma_)
            optimiser.zero_grad(set_to_none=True)
            error.backward()
            optimiser.step()
            self.errors_.append(float(error.detach()))
        self.filters_, self.eta_ = w.detach().numpy(), log_eta.detach().exp().numpy()

    def some(self, x: NDArray[Any]) -> Tensor:
        """Patches of images evenly spread over the training images: (n, patches, 1, D)."""
        return self.described(self._check(x[evenly(len(x), 400)], 0))

    # -- describing ----------------------------------------------------------------------------

    def aggregate(self, maps: Tensor) -> Tensor:
        """Residuals of an image's patches to the words (n, words local)."""
        return A.vlad(self.reduced(self.described(maps.numpy())), self.book)

    def described(self, images: NDArray[np.float32]) -> Tensor:
        """The patches of most contrast of images (n, h, w, c), pooled kernel maps (n, P, 1, D)."""
        blocks = (images[a : a + _IMAGES] for a in range(0, len(images), _IMAGES))
        return torch.cat([self._block_patches(block) for block in blocks])

    def _block_patches(self, images: NDArray[np.float32]) -> Tensor:
        xi = self.pooled_maps(images)
        g = min(self.cells, xi.shape[1], xi.shape[2])
        patches = xi.unfold(1, g, 1).unfold(2, g, 1).flatten(3).flatten(1, 2)
        count = min(self.patches, patches.shape[1])
        best = patches.square().sum(2).topk(count, dim=1).indices.sort(1).values
        chosen = patches.gather(1, best[..., None].expand(-1, -1, patches.shape[2]))
        return chosen[:, :, None]

    def pooled_maps(self, images: NDArray[np.float32]) -> Tensor:
        """xi (n, rows, columns, L) of images (n, h, w, c)."""
        raw = self._sub_patches(self._small(images))
        centred = (raw - raw.mean(3, keepdim=True)) @ torch.from_numpy(self.whiten_)
        length = centred.norm(dim=3, keepdim=True)
        filters, eta = torch.from_numpy(self.filters_), torch.from_numpy(self.eta_)
        flat = (centred / length.clamp_min(1e-6)).flatten(0, 2)
        psi = length * kernel_map(flat, filters, eta, self.sigma_).unflatten(0, raw.shape[:3])
        stride = max(1, round(max(psi.shape[1:3]) / 11))
        up, along = (gaussian_pooling(n, stride) for n in psi.shape[1:3])
        return torch.einsum("uh,nhwl,vw->nuvl", up, psi, along)

    def _small(self, images: NDArray[np.float32]) -> Tensor:
        """Images with values 0..1, at most ``longest`` pixels a side, (n, c, h, w)."""
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        h, w = x.shape[2:]
        if max(h, w) <= self.longest:
            return x
        scale = self.longest / max(h, w)
        return F.adaptive_avg_pool2d(x, (max(1, round(h * scale)), max(1, round(w * scale))))

    def _sub_patches(self, x: Tensor) -> Tensor:
        """Every sub-patch of x (n, c, h, w): (n, rows, columns, c side side)."""
        side = max(1, min(self.side, min(x.shape[2:]) // 3 + 1))
        rows = x.shape[2] - side + 1
        found = F.unfold(x, side).transpose(1, 2)
        return found.unflatten(1, (rows, -1))

    def _check(self, x: NDArray[Any], start: int) -> NDArray[np.float32]:
        if x.ndim != 4:
            raise ValueError(
                f"PatchCKN reads images (n, h, w, c) and got {x.shape}: load features of kind "
                "'images'"
            )
        return super()._check(x, start)
