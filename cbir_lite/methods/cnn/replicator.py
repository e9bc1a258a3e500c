"""Features selected and weighted by the replicator equation [215] (survey Section VII-E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation

_NUMBERS = 2**24
"""Numbers that the affinities of several regions may hold at once (64 MB)."""


def interest_regions(
    total: Tensor, median: float, radius: int, share: float
) -> tuple[Tensor, Tensor]:
    """Regions of interest of images, by their sums over channels ``total`` (n, h, w).

    From the largest sum downwards, a place is the centre of a region if its window of ``radius``
    overlaps no window before it and more than ``share`` of the window exceeds the median. Returns
    the image of each region (R,) and the places of its window above the median (R, h w).
    """
    n, h, w = total.shape
    flat = total.flatten(1)
    rows = torch.arange(h).repeat_interleave(w)
    columns = torch.arange(w).repeat(h)
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    window = apart <= radius
    high = flat > median
    dense = high.float() @ window.float() > share * window.sum(1)
    fit = dense & (flat >= median)
    taken, centres = torch.zeros_like(fit), torch.zeros_like(fit)
    images = torch.arange(n)
    for place in flat.argsort(dim=1, descending=True, stable=True).T:
        new = fit[images, place] & ~taken[images, place]
        centres[images, place] = new
        taken |= new[:, None] & (apart[place] <= 2 * radius)
    image, centre = centres.nonzero(as_tuple=True)
    return image, window[centre] & high[image]


def rewards(affinity: Tensor, members: Tensor, limit: int = 1000) -> Tensor:
    """How well every place (n, P) suits a set of ``members`` (n, P), by affinities (n, P, P).

    The replicator equation runs from equal shares of the members until their mean fitness grows by
    less than 1e-5 of itself; the reward is the affinity to the members by their shares. Where
    members have nothing in common, as where there are none, it is zero.
    """
    w = members / members.sum(1, keepdim=True).clamp_min(1)
    fitness = torch.einsum("npq,nq->np", affinity, w)
    mean = (w * fitness).sum(1)
    settled = torch.zeros_like(w)
    rows = mean.nonzero().flatten()
    affinity, w, mean = affinity[rows], w[rows], mean[rows]
    for _ in range(limit):
        if not len(rows):
            break
        w = A.replicate(affinity, w, 1)
        fitness = torch.einsum("npq,nq->np", affinity, w)
        settled[rows] = fitness
        grown = (w * fitness).sum(1)
        on = grown - mean >= 1e-5 * mean
        rows, mean, w = rows[on], grown[on], w[on]
        if not on.all():
            affinity = affinity[on]
    return settled


@dataclass(kw_only=True, eq=False)
class Replicator(Aggregation):
    r"""Places of the maps compete, and those survive that belong to the object together.

    The equation of evolutionary games lets a share grow where its fitness is above the mean. Places
    that fire more than the median of the training places, in dense windows around the strongest,
    are object; places below the median are background. Each of these sets plays the game, and
    a place in between goes to the side whose survivors it resembles more. What resembles the
    survivors of all regions is repeated everywhere (bursty), so it counts less in the sum of the
    object's features, where strong places count more. The sum is brought to unit length and
    compressed.

    :survey: Section VII-E
    :cite: pang2018replicator
    :source: the authors' MATLAB code (pangsm0415/ReSW: regions of interest, rewards, weights, the
        stopping rule, eta = 0.5) and the paper's abstract (the three steps)
    :objective: \max_{x\in\Delta}\ x^\top Ax,\quad x_i\leftarrow x_i\frac{(Ax)_i}{x^\top Ax},\quad
        r_{\mathcal S}=Ax_{\mathcal S};\quad f=\sum_{p\in F}e^{-r_F(p)}
        \Big(\tfrac{S_p}{\|S\|_2}\Big)^{1/2}\phi(p),\quad
        A_{pq}=\max\Big(0,\tfrac{(\phi_p-\mu)^\top(\phi_q-\mu)}{\|\phi_p-\mu\|\|\phi_q-\mu\|}\Big)
    :shapes: maps x (n, h, w, d); sums S and weights (n, h w); descriptors float32 (n, bits)
    :defaults: share = 0.5 as in the code; radius = 1 (the code has 2, on maps several times as
        wide); whiten = 0.5, as for all aggregations here, where the code whitens fully
    :departures: mean and median are those of the training maps, as are the axes; an image whose
        places all fire below the median keeps all of them, where the code leaves nothing; no
        query expansion; maps are those of this package's backbones
    :fidelity: simplified
    """

    radius: int = 1
    share: float = 0.5

    def prepare(self, x: NDArray[Any]) -> None:
        """Mean feature and median sum over channels, over the training places."""
        some = self.some(x)
        self.mean_ = some.mean((0, 1, 2)).numpy()
        self.median_ = float(some.sum(3).median())

    def affinity(self, maps: Tensor) -> Tensor:
        """Cosines of centred features (n, P, P) without negative ones and without a place's own."""
        unit = A.l2n(maps - torch.from_numpy(self.mean_)).flatten(1, 2)
        silent = maps.sum(3).flatten(1) == 0
        apart = ~torch.eye(silent.shape[1], dtype=torch.bool)
        apart = apart & ~(silent[:, :, None] & silent[:, None, :])
        return (unit @ unit.transpose(1, 2)).clamp_min(0) * apart

    def weights(self, maps: Tensor) -> Tensor:
        """Weights of the places (n, h w), zero on the background."""
        total = maps.sum(3)
        flat, affinity = total.flatten(1), self.affinity(maps)
        image, members = interest_regions(total, self.median_, self.radius, self.share)
        low = flat < self.median_
        inside = torch.zeros(low.shape).index_add_(0, image, members.float()) > 0
        every = rewards(affinity, inside)
        best = every.clone()
        step = max(1, _NUMBERS // flat.shape[1] ** 2)
        for a in range(0, len(image), step):
            part = image[a : a + step]
            found = rewards(affinity[part], members[a : a + step])
            best.scatter_reduce_(0, part[:, None].expand_as(found), found, "amax")
        between = ~low & ~inside & inside.any(1, keepdim=True)
        kept = ~low & ~(between & (rewards(affinity, low) > best))
        kept |= ~kept.any(1, keepdim=True)
        strong = A.l2n(flat.clamp_min(0)).sqrt()
        return (-every).exp() * strong * kept

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums of the places' features by their weights (n, d)."""
        return torch.einsum("npd,np->nd", maps.flatten(1, 2), self.weights(maps))
