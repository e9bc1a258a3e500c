"""Deep image retrieval [65]: proposed regions, one descriptor (survey Sections III.4, V-A, VII)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.features import aggregation as A
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.siamese._tuples import TupleLearner, in_blocks, require_maps, whitening


def foreground_overlap(maps: Tensor, places: list[tuple[int, int, int]]) -> Tensor:
    """Intersection over union (n, R) of regions with the box around each map's foreground.

    Foreground is where the sum over channels exceeds the image's mean.
    """
    total = maps.sum(3)
    mask = total > total.mean((1, 2), keepdim=True)
    h, w = mask.shape[1:]
    rows, columns = mask.any(2).float(), mask.any(1).float()
    none = rows.sum(1) == 0
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = h - rows.flip(1).argmax(1), w - columns.flip(1).argmax(1)
    area = (bottom - top) * (right - left)
    out = []
    for t, a, side in places:
        high = (bottom.clamp_max(t + side) - top.clamp_min(t)).clamp_min(0)
        wide = (right.clamp_max(a + side) - left.clamp_min(a)).clamp_min(0)
        out.append(high * wide / (area + side * side - high * wide))
    overlap = torch.stack(out, 1).float()
    return torch.where(none[:, None], torch.zeros_like(overlap), overlap)


class _Proposals(nn.Module):
    """Regions (n, R, d + 1), the last channel their overlap, to unit descriptors (n, bits)."""

    def __init__(self, x: Tensor, bits: int, width: int, count: int):
        super().__init__()
        self.count = count
        self.objectness = nn.Sequential(nn.Linear(x.shape[2] - 1, width), nn.ReLU())
        self.score = nn.Linear(width, 1)
        self.project = whitening(x[..., :-1].flatten(0, 1), bits)

    def scores(self, x: Tensor) -> Tensor:
        """Logits of objectness (n, R)."""
        return self.score(self.objectness(x[..., :-1])).squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Project the proposals with the highest scores, add them up."""
        chosen = self.scores(x).topk(min(self.count, x.shape[1]), 1).indices
        regions = F.normalize(self.project(x[..., :-1]), dim=2)
        kept = regions.gather(1, chosen[..., None].expand(-1, -1, regions.shape[2]))
        return F.normalize(kept.sum(1))


@dataclass(kw_only=True, eq=False)
class GordoDIR(TupleLearner):
    r"""Learn where to look with a region proposal network, and what to see with triplets.

    A rigid grid of regions covers much background. A small network scores regions by how well they
    cover the object, and only the best are pooled; their maxima are projected, brought to unit
    length and added up to one descriptor. The projection is trained by a triplet loss on mined
    negatives, the proposals by classification of regions into those that overlap the object's box
    and those that do not. Boxes come from the training images themselves, without annotation.

    :survey: Sections III.4, V-A, VII-D, VII-E
    :cite: gordo2016dir
    :source: the survey's row and sentences, the paper's abstract and a published summary (learned
        projection of regions, region proposal network, three streams, triplet loss)
    :objective: \sum\max(0,m+\|d_q-d_+\|^2-\|d_q-d_-\|^2)+\mathrm{BCE}\big(s_r,[IoU_r\ge t]\big),
        \quad d=\mathrm{norm}\Big(\sum_{r\in\mathrm{RPN}}\mathrm{norm}\big(W\max_{p\in r}\phi(p)
        +b\big)\Big)
    :shapes: maps x (n, h, w, d); R regions, their scores (n, R); descriptors float32 (n, bits)
    :defaults: m = 0.1; objects are regions with IoU of at least t = 0.4, the best 8 of the windows
        of 3 levels are pooled, all chosen here; 512 queries an epoch, 8 epochs; hidden layer of
        the scores width / 8; learning rate 3e-4
    :departures: boxes are drawn around what fires above the mean, where the paper follows keypoints
        matched between images; anchors are square windows of a grid, without regression of
        coordinates; both parts are trained at once; only the layers after the maps are trained
    :fidelity: simplified
    """

    epochs: int = 8
    queries: int = 512
    margin: float = 0.1
    overlap: float = 0.4
    proposals: int = 8
    levels: int = 3

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Unit vectors of regions and, as a last channel, their overlap, float32 (n, R, d + 1)."""
        require_maps(x, type(self).__name__)
        places = A.regions(x.shape[1], x.shape[2], self.levels)

        def regions(maps: NDArray[np.float32]) -> NDArray[np.float32]:
            m = torch.from_numpy(maps)
            vectors = A.region_vectors(m, self.levels)
            return torch.cat([vectors, foreground_overlap(m, places)[..., None]], 2).numpy()

        return in_blocks(x, regions)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Proposals and projection on regions x (n, R, d + 1)."""
        return _Proposals(
            torch.from_numpy(np.array(x)), self.bits, max(8, self.width // 8), self.proposals
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking of mined triplets, and objectness of all regions of the batch."""
        network = self.network_
        assert isinstance(network, _Proposals)
        near, far = self.tuples(network(batch.x)).squared()
        is_object = (batch.x[..., -1] >= self.overlap).float()
        return {
            "triplet": (self.margin + near[:, None] - far).clamp_min(0).mean(),
            "objectness": F.binary_cross_entropy_with_logits(network.scores(batch.x), is_object),
        }
