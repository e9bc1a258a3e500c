"""Maps to one descriptor: pooling, regions, codebooks (survey Section VI-C).

Pure functions of maps (n, h, w, d), torch tensors or arrays, non-negative as after a rectifier;
each returns float32 (n, D). Normalise with :func:`l2n` before comparing by cosine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Maps = Tensor | NDArray[Any]


def _tensor(maps: Maps) -> Tensor:
    x = torch.as_tensor(np.asarray(maps) if isinstance(maps, np.ndarray) else maps)
    if x.ndim != 4:
        raise ValueError(f"maps must be (n, h, w, d), got {tuple(x.shape)}")
    return x.float()


def l2n(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Rows of unit length."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(epsilon)


def mac(maps: Maps) -> Tensor:
    """Maximum over positions (n, d): maximum activations of convolutions (Tolias et al. 2016)."""
    return _tensor(maps).amax(dim=(1, 2))


def spoc(maps: Maps, centred: bool = False) -> Tensor:
    """Sum over positions (n, d), with a Gaussian centre prior if ``centred`` (Babenko 2015)."""
    x = _tensor(maps)
    if not centred:
        return x.sum(dim=(1, 2))
    h, w = x.shape[1:3]
    sigma = min(h, w) / 3
    rows = torch.arange(h) - (h - 1) / 2
    columns = torch.arange(w) - (w - 1) / 2
    weight = torch.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / (2 * sigma**2))
    return torch.einsum("nhwd,hw->nd", x, weight)


def gem(maps: Maps, p: float = 3.0) -> Tensor:
    """Generalised mean (n, d): 1 is the mean, large p the maximum (Radenovic et al. 2018)."""
    return _tensor(maps).clamp_min(1e-6).pow(p).mean(dim=(1, 2)).pow(1 / p)


def crow(maps: Maps, a: float = 2.0, b: float = 2.0) -> Tensor:
    """Cross-dimensional weighting (n, d): salient places, rare channels (Kalantidis et al. 2016).

    A place weighs as its normalised sum of channels to the power 1 / b; a channel as the logarithm
    of all channels' share of non-zero places over its own.
    """
    x = _tensor(maps)
    total = x.sum(3)
    norm = total.pow(a).sum(dim=(1, 2), keepdim=True).pow(1 / a).clamp_min(1e-12)
    spatial = (total / norm).pow(1 / b)
    pooled = torch.einsum("nhwd,nhw->nd", x, spatial)
    share = (x > 0).float().mean(dim=(1, 2))
    channel = torch.log(share.sum(1, keepdim=True).clamp_min(1e-6) / share.clamp_min(1e-6))
    return pooled * torch.where(share > 0, channel, torch.zeros_like(channel))


def regions(h: int, w: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """Square regions (top, left, side) of R-MAC: at level l, l by l of them with 40 % overlap."""
    side = min(h, w)
    overlap, longest = 0.4, max(h, w)
    # How many steps along the longer side come nearest to the wanted overlap.
    steps = range(1, 7)
    error = [abs((side**2 - side * (longest - side) / s) / side**2 - overlap) for s in steps]
    extra = steps[int(np.argmin(error))] if longest > side else 0
    found = []
    for level in range(1, levels + 1):
        size = max(1, int(2 * side / (level + 1)))
        rows = level + (extra if h > w else 0)
        columns = level + (extra if w > h else 0)
        for top in _places(h, size, rows):
            for left in _places(w, size, columns):
                found.append((top, left, size))
    return found


def _places(length: int, size: int, count: int) -> list[int]:
    if count == 1:
        return [(length - size) // 2]
    return [int(i * (length - size) / (count - 1)) for i in range(count)]


def region_vectors(maps: Maps, levels: int = 3) -> Tensor:
    """MAC of each region, unit length (n, R, d)."""
    x = _tensor(maps)
    h, w = x.shape[1:3]
    parts = [
        x[:, t : t + s, left : left + s].amax(dim=(1, 2)) for t, left, s in regions(h, w, levels)
    ]
    return l2n(torch.stack(parts, 1))


def rmac(maps: Maps, levels: int = 3) -> Tensor:
    """Sum of the regions' vectors (n, d): regional maximum activations (Tolias et al. 2016)."""
    return region_vectors(maps, levels).sum(1)


def scda(maps: Maps) -> Tensor:
    """Mean and maximum inside the object's mask (n, 2d) (Wei et al. 2017, [189]).

    The mask holds places whose sum of channels exceeds the mean, of which the largest connected
    part is kept.
    """
    from scipy.ndimage import label

    x = _tensor(maps)
    total = x.sum(3)
    mask = (total > total.mean(dim=(1, 2), keepdim=True)).numpy()
    for i, one in enumerate(mask):
        parts, count = label(one)
        if count > 1:
            mask[i] = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    inside = torch.from_numpy(mask)[..., None]
    size = inside.sum(dim=(1, 2)).clamp_min(1)
    mean = (x * inside).sum(dim=(1, 2)) / size
    top = torch.where(inside, x, torch.zeros_like(x)).amax(dim=(1, 2))
    return torch.cat([l2n(mean), l2n(top)], 1)


def part_weighted(
    maps: Maps, channels: NDArray[np.int64], a: float = 2.0, b: float = 2.0
) -> Tensor:
    """Part-based weighting (n, P d): sums weighted by P selected channels (Xu et al. 2018, [119]).

    ``channels`` (P,) act as detectors of parts; see :func:`varied_channels`.
    """
    x = _tensor(maps)
    parts = x[..., torch.as_tensor(channels)]
    norm = parts.pow(a).sum(dim=(1, 2), keepdim=True).pow(1 / a).clamp_min(1e-12)
    weight = (parts / norm).pow(1 / b)
    return torch.einsum("nhwd,nhwp->npd", x, weight).flatten(1)


def varied_channels(maps: Maps, count: int) -> NDArray[np.int64]:
    """The ``count`` channels whose mean activation varies most over images (the detectors)."""
    variance = _tensor(maps).mean(dim=(1, 2)).var(0)
    return np.sort(torch.argsort(variance, descending=True)[:count].numpy())


def bilinear(maps: Maps, project: Tensor) -> Tensor:
    """Compact bilinear pooling (n, D D): co-occurrence of projected channels, signed root.

    ``project`` (d, D) reduces the channels first. The survey's bilinear networks [74] and
    co-occurrence features [88] share this second-order statistic.
    """
    x = _tensor(maps).flatten(1, 2) @ project
    gram = torch.einsum("npd,npe->nde", x, x) / x.shape[1]
    return (gram.sign() * gram.abs().sqrt()).flatten(1)


class Codebook(NamedTuple):
    """Words and what a mixture knows of them.

    words (K, d); weights (K,) and variances (K, d) of the Gaussian mixture with diagonal
    covariances that Fisher vectors need.
    """

    words: Tensor
    weights: Tensor
    variances: Tensor


def learn_codebook(maps: Maps, words: int, seed: int = 0, sample: int = 20000) -> Codebook:
    """K-means words of local vectors, with the share and spread of each word's members."""
    from sklearn.cluster import MiniBatchKMeans

    x = _tensor(maps).flatten(0, 2)
    picked = np.random.default_rng(seed).permutation(len(x))[:sample]
    local = x[torch.from_numpy(picked)].numpy()
    if len(local) < words:
        raise ValueError(f"{len(local)} local vectors are too few for {words} words")
    means = MiniBatchKMeans(words, n_init=1, random_state=seed, batch_size=4096).fit(local)
    member = means.labels_
    count = np.bincount(member, minlength=words)
    spread = np.stack(
        [local[member == k].var(0) if count[k] > 1 else local.var(0) for k in range(words)]
    )
    return Codebook(
        torch.from_numpy(means.cluster_centers_.astype(np.float32)),
        torch.from_numpy(((count + 1) / (count + 1).sum()).astype(np.float32)),
        torch.from_numpy(spread.astype(np.float32)).clamp_min(1e-4),
    )


def nearest_words(maps: Maps, words: Tensor) -> Tensor:
    """The nearest word of every place, int64 (n, h, w): an assignment map."""
    x = _tensor(maps)
    nearest = torch.cdist(x.flatten(1, 2), words[None].expand(len(x), -1, -1)).argmin(2)
    return nearest.view(x.shape[:3])


def bag_of_words(maps: Maps, book: Codebook) -> Tensor:
    """Counts of the nearest words of local vectors (n, K) (Mohedano et al. 2016, [187])."""
    nearest = nearest_words(maps, book.words).flatten(1)
    return F.one_hot(nearest, len(book.words)).sum(1).float()


def vlad(maps: Maps, book: Codebook, sharpness: float | None = None) -> Tensor:
    """Sums of residuals to the words (n, K d), signed root, each word of unit length.

    With ``sharpness`` alpha, every local vector is shared between words by the softmax of
    -alpha times the squared distance: the assignment of NetVLAD (Arandjelovic et al. 2016).
    """
    x = _tensor(maps).flatten(1, 2)
    d2 = torch.cdist(x, book.words[None].expand(len(x), -1, -1)).square()
    if sharpness is None:
        assigned = F.one_hot(d2.argmin(2), len(book.words)).float()
    else:
        assigned = F.softmax(-sharpness * d2, dim=2)
    sums = torch.einsum("npk,npd->nkd", assigned, x) - assigned.sum(1)[..., None] * book.words
    sums = sums.sign() * sums.abs().sqrt()
    return l2n(sums).flatten(1)


def fisher_vector(maps: Maps, book: Codebook) -> Tensor:
    """Gradients of a mixture's likelihood by means and variances (n, 2 K d) (Perronnin 2010)."""
    x = _tensor(maps).flatten(1, 2)
    scale = book.variances.sqrt()
    z = (x[:, :, None, :] - book.words) / scale
    logits = book.weights.log() - 0.5 * (z.square() + book.variances.log()).sum(3)
    q = F.softmax(logits, dim=2)
    points = x.shape[1]
    mean = torch.einsum("npk,npkd->nkd", q, z) / (points * book.weights.sqrt())[:, None]
    spread = torch.einsum("npk,npkd->nkd", q, z.square() - 1)
    spread = spread / (points * (2 * book.weights).sqrt())[:, None]
    vector = torch.cat([mean.flatten(1), spread.flatten(1)], 1)
    return vector.sign() * vector.abs().sqrt()


class Whitening(NamedTuple):
    """Centre (d,) and projection (d, D)."""

    mean: Tensor
    projection: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (n, d) projected and brought to unit length (n, D)."""
        return l2n((x - self.mean) @ self.projection)


def learn_whitening(x: Tensor, dimensions: int) -> Whitening:
    """PCA whitening from rows (n, d): components of equal variance (Jegou and Chum 2012)."""
    mean = x.mean(0)
    _, s, vt = torch.linalg.svd(x - mean, full_matrices=False)
    if dimensions > len(s):
        raise ValueError(f"dimensions={dimensions} exceeds the rank {len(s)} of {tuple(x.shape)}")
    deviation = (s[:dimensions] / max(1, len(x) - 1) ** 0.5).clamp_min(1e-6)
    return Whitening(mean, vt[:dimensions].T / deviation)


def expand_queries(queries: Tensor, database: Tensor, k: int = 5, alpha: float = 3.0) -> Tensor:
    """Alpha query expansion: each query becomes the weighted mean of itself and its top k.

    Rows of unit length (n_q, d), (n, d); the weight of an item is its cosine to the power alpha.
    """
    cosine, nearest = (queries @ database.T).topk(min(k, len(database)), dim=1)
    weight = cosine.clamp_min(0).pow(alpha)
    return l2n(queries + torch.einsum("qk,qkd->qd", weight, database[nearest]))


def principal_whitening(x: Tensor, dimensions: int, power: float = 1.0) -> Whitening:
    """Principal components of rows (n, d), each divided by its deviation to ``power``.

    With power 1 the components are whitened as by :func:`learn_whitening`, with 0 they are only
    projected. The smaller of covariance and Gram matrix is decomposed. Directions in which the rows
    do not vary give zeros. Raises ``ValueError`` when there are fewer than ``dimensions`` columns.
    """
    n, d = x.shape
    if dimensions > d:
        raise ValueError(
            f"bits={dimensions} exceeds the {d} dimensions of the descriptor: use fewer bits"
        )
    mean = x.mean(0)
    centred = x - mean
    side = centred.T @ centred if d <= n else centred @ centred.T
    square, vectors = torch.linalg.eigh(side.double())
    square, vectors = square.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    varies = square > 1e-6 * square[0].clamp_min(1e-30)
    directions = vectors if d <= n else centred.T.double() @ vectors
    directions = directions / directions.norm(dim=0).clamp_min(1e-12) * varies
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    deviation = (square.clamp_min(0) / max(1, n - 1)).sqrt()
    scale = torch.where(varies, deviation, torch.ones_like(deviation)).pow(-power)
    projection = (directions * scale).to(x.dtype)
    if dimensions > projection.shape[1]:
        projection = F.pad(projection, (0, dimensions - projection.shape[1]))
    return Whitening(mean, projection)


def sum_mask(maps: Maps) -> Tensor:
    """Places (n, h, w) whose sum of channels is not below the image's median (Hoang 2017)."""
    total = _tensor(maps).sum(3)
    return total >= total.flatten(1).quantile(0.5, dim=1)[:, None, None]


def max_mask(maps: Maps) -> Tensor:
    """Places (n, h, w) at which some channel that fires has its maximum (Hoang 2017)."""
    x = _tensor(maps)
    n, h, w, _ = x.shape
    top, place = x.flatten(1, 2).max(1)
    hits = torch.zeros(n, h * w).scatter_add_(1, place, (top > 0).float())
    return (hits > 0).view(n, h, w)


def cooccurrence(maps: Maps, radius: int = 1) -> Tensor:
    """How strongly other channels fire around each activation (n, h, w, d) (Forcen 2020).

    Only activations above the image's mean count. Channel k at a place sees the sum of the other
    channels over the (2 radius + 1) by (2 radius + 1) window around it.
    """
    x = _tensor(maps)
    strong = torch.where(x > x.mean(dim=(1, 2, 3), keepdim=True), x, torch.zeros_like(x))
    size = 2 * radius + 1
    planes = strong.permute(0, 3, 1, 2)
    near = F.avg_pool2d(planes, size, 1, radius, count_include_pad=True) * size**2
    others = near.sum(1, keepdim=True) - near
    return (others * (planes > 0)).permute(0, 2, 3, 1)


def gaussian_around(maps: Maps, mask: Tensor) -> Tensor:
    """Weights (n, h, w) of a Gaussian around the centre of mass of a mask (Zhu 2019).

    The centre is the mean place inside the mask, weighed by the sum of channels; the spread along
    each axis is a third of the map, as with the fixed centre prior of :func:`spoc`.
    """
    total = _tensor(maps).sum(3) * mask
    h, w = total.shape[1:]
    mass = total.sum(dim=(1, 2)).clamp_min(1e-12)
    rows, columns = torch.arange(h).float(), torch.arange(w).float()
    top = (total.sum(2) @ rows) / mass
    left = (total.sum(1) @ columns) / mass
    up = (rows - top[:, None]) / (h / 3)
    side = (columns - left[:, None]) / (w / 3)
    return torch.exp(-0.5 * (up.square()[:, :, None] + side.square()[:, None, :]))


def triangulation(maps: Maps, words: Tensor) -> Tensor:
    """Directions from every word to every place (n, P, K d) (Jegou and Zisserman 2014)."""
    x = _tensor(maps).flatten(1, 2)
    return l2n(x[:, :, None, :] - words).flatten(2)


def democratic(vectors: Tensor, mask: Tensor, steps: int = 10) -> Tensor:
    """Weights (n, P) under which the kept rows (n, P, D) take equal part in their own sum.

    A dampened Sinkhorn scaling of the kernel (cosines, negative ones cut) towards equal row sums.
    """
    kept = mask.float()
    kernel = (vectors @ vectors.transpose(1, 2)).clamp_min(0) * kept[:, :, None] * kept[:, None]
    weight = kept.clone()
    for _ in range(steps):
        row = weight * torch.einsum("npq,nq->np", kernel, weight)
        weight = weight / row.clamp_min(1e-12).sqrt() * kept
    return weight


def robust_directions(
    maps: Maps, words: Tensor, rotations: Tensor, weights: tuple[float, ...] = (4.0, 2.0, 1.0)
) -> Tensor:
    """Whitened directions of residuals to the nearest words, summed by rank (n, K d) (Husain 2017).

    A place goes to as many nearest words as there are ``weights``; its residual is whitened by the
    word's rotation (K, d, d), brought to unit length and counts by the rank of the word.
    """
    x = _tensor(maps).flatten(1, 2)
    nearest = torch.cdist(x, words[None].expand(len(x), -1, -1)).argsort(2)[..., : len(weights)]
    share = torch.zeros(*x.shape[:2], len(words))
    share.scatter_(2, nearest, torch.tensor(weights[: nearest.shape[2]]).expand(nearest.shape))
    out = []
    for k, word in enumerate(words):
        direction = l2n((x - word) @ rotations[k])
        out.append(torch.einsum("np,npd->nd", share[..., k], direction))
    return torch.cat(out, 1)


def replicate(affinity: Tensor, start: Tensor, steps: int = 50) -> Tensor:
    """Shares (n, P) after the replicator equation w <- w (A w) / (w^T A w) from ``start``.

    For symmetric non-negative A (n, P, P) the mean fitness w^T A w never falls. Shares stay on the
    simplex; where all fitness is zero they stay as they are.
    """
    w = start / start.sum(1, keepdim=True).clamp_min(1e-12)
    for _ in range(steps):
        fitness = torch.einsum("npq,nq->np", affinity, w)
        mean = (w * fitness).sum(1, keepdim=True)
        w = torch.where(mean > 1e-12, w * fitness / mean.clamp_min(1e-12), w)
    return w
