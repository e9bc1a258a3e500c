"""Unsupervised fine-tuning with hard examples [115] (survey Section IV-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.features import aggregation as A
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.siamese._tuples import TupleLearner, in_blocks, require_maps, whitening

POOLS = {"mac": A.mac, "gem": A.gem}


class _Head(nn.Module):
    """Pooled unit vectors (n, d) to unit descriptors (n, bits) by a learned whitening."""

    def __init__(self, x: Tensor, bits: int):
        super().__init__()
        self.whitening = whitening(x, bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.whitening(x))


@dataclass(kw_only=True, eq=False)
class RadenovicHard(TupleLearner):
    r"""Let images that were matched without labels teach the descriptor, hard cases first.

    Groups of images that show one thing are found without labels. A query is paired with a positive
    of its group that is far from it, because near ones teach nothing, and with the nearest images
    of other groups. Both branches of the siamese network share their weights; the contrastive loss
    draws the positive near and pushes negatives beyond a margin. Hard examples are mined again
    before every epoch. The pooled maxima of the maps are projected by a whitening that is learned.

    :survey: Section IV-B
    :cite: radenovic2016bow
    :source: the paper's abstract, a published summary with its loss, and the public PyTorch code
        that keeps this loss (margin, five negatives a query, a pool for mining)
    :objective: \sum\tfrac12 y\|f_i-f_j\|^2+\tfrac12(1-y)\max(0,\tau-\|f_i-f_j\|)^2,\quad
        f=\mathrm{norm}\big(W\,\mathrm{norm}(\max_p\phi(p))+b\big)
    :shapes: maps x (n, h, w, d); pooled (n, d); descriptors float32 (n, bits)
    :defaults: tau = 0.7 and 5 negatives (code); pool = mac (summary), variant gem its successor;
        1024 queries an epoch, 10 epochs; groups of about 8 images; learning rate 3e-4, because the
        head starts as whitened principal components
    :departures: groups are clusters by k-means of the pooled maps, where the paper reconstructs
        scenes in three dimensions and so verifies matches; negatives may share a group; only the
        whitening layer is trained, the network stays frozen; pairs are averaged, not added up
    :fidelity: simplified
    """

    supervision = "unsupervised"
    variants = {"gem": {"pool": "gem"}}  # noqa: RUF012

    tau: float = 0.7
    pool: str = "mac"
    group_size: int = 8
    hard_positives: bool = True

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Pooled maps of unit length, float32 (n, d)."""
        require_maps(x, type(self).__name__)
        if self.pool not in POOLS:
            raise ValueError(f"pool={self.pool!r}: use one of {', '.join(POOLS)}")
        return in_blocks(x, lambda m: A.l2n(POOLS[self.pool](m)).numpy())

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The head on pooled maps x (n, d)."""
        return _Head(torch.from_numpy(np.array(x)), self.bits)

    def start_fit(self, data: TrainingData) -> None:
        """Group the training images by k-means of their descriptors."""
        from sklearn.cluster import MiniBatchKMeans

        f = self.outputs(data.x).numpy()
        groups = max(2, len(f) // self.group_size)
        means = MiniBatchKMeans(groups, n_init=1, random_state=self.seed, batch_size=4096)
        self.memory_["group"] = torch.from_numpy(means.fit_predict(f).astype(np.int64))

    def similar(self, data: TrainingData, index: Tensor) -> Tensor:
        """Whether rows are of one group, bool (B, n)."""
        group = self.memory_["group"]
        return group[index][:, None] == group

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of the pairs of query and positive, and query and negative."""
        near, far = self.tuples(self.network_(batch.x)).squared()
        beyond = (self.tau - (far + 1e-8).sqrt()).clamp_min(0)
        return {"positive": 0.5 * near.mean(), "negative": 0.5 * beyond.square().sum(1).mean()}
