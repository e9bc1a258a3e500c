"""Tuples of an image, a positive and its hardest negatives, mined again before every epoch.

For instance retrieval a random batch holds hardly two images of one thing, so these systems look
for their pairs and triplets over the whole training set with the descriptors they have so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.features import aggregation as A
from cbir_lite.methods.deep import Batch, TrainingData, shares_label
from cbir_lite.methods.triplet._triplets import MetricLearner

BLOCK = 256


def whitening(x: Tensor, bits: int, power: float = 0.5) -> nn.Linear:
    """A linear layer that starts as principal components of x (n, d), partly whitened."""
    axes = A.principal_whitening(x, bits, power)
    layer = nn.Linear(x.shape[1], bits)
    with torch.no_grad():
        layer.weight.copy_(axes.projection.T)
        layer.bias.copy_(-axes.mean @ axes.projection)
    return layer


def in_blocks(x: NDArray[Any], describe: Any) -> NDArray[np.float32]:
    """``describe`` of maps float32 (n, h, w, d), a block of rows at a time."""
    parts = [describe(np.asarray(x[a : a + BLOCK], np.float32)) for a in range(0, len(x), BLOCK)]
    return np.concatenate(parts).astype(np.float32)


def require_maps(x: NDArray[Any], system: str) -> None:
    """Raise ``ValueError`` for what are no maps (n, h, w, d)."""
    if x.ndim != 4:
        raise ValueError(
            f"{system} reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
        )


class Tuples(NamedTuple):
    """Descriptors of queries (T, D), positives (T, D) and negatives (T, N, D)."""

    query: Tensor
    positive: Tensor
    negative: Tensor

    def squared(self) -> tuple[Tensor, Tensor]:
        """Squared distances of the query to its positive (T,) and to its negatives (T, N)."""
        near = (self.query - self.positive).square().sum(1)
        far = (self.query[:, None] - self.negative).square().sum(2)
        return near, far


@dataclass(kw_only=True, eq=False)
class TupleLearner(MetricLearner):
    """A batch is ``batch_size`` queries, then their positives, then ``negatives`` of each.

    The positive is drawn among the similar rows, or is the farthest of them with
    ``hard_positives``. Negatives are the nearest rows that are not similar.
    """

    reads = "maps"

    epochs: int = 10
    batch_size: int = 32
    lr: float = 3e-4
    negatives: int = 5
    queries: int = 1024
    hard_positives: bool = False

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Describe all training rows, for mining."""
        self.memory_["descriptors"] = self.outputs(data.x)

    def similar(self, data: TrainingData, index: Tensor) -> Tensor:
        """Which rows of ``data`` are similar to those of ``index``, bool (B, n)."""
        assert data.y is not None
        return shares_label(data.y[index], data.y) > 0

    def mine(self, data: TrainingData, index: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the tuples of the queries ``index`` that have a positive and a negative."""
        f = self.memory_["descriptors"]
        same = self.similar(data, index)
        itself = torch.zeros_like(same).scatter_(1, index[:, None], True)
        positive = same & ~itself
        use = positive.any(1) & ~same.all(1)
        index, same, positive = index[use], same[use], positive[use]
        closeness = f[index] @ f.T
        if self.hard_positives:
            p = torch.where(positive, closeness, torch.full_like(closeness, 9.0)).argmin(1)
        else:
            draw = torch.rand(positive.shape, generator=generator)
            p = torch.where(positive, draw, torch.full_like(draw, -1.0)).argmax(1)
        closeness = closeness.masked_fill(same, -9.0)
        count = min(self.negatives, int((~same).sum(1).min())) if len(index) else 1
        nearest = closeness.topk(count, 1).indices
        n = nearest[:, torch.arange(self.negatives) % count]
        return torch.cat([index, p, n.flatten()])

    def _batches(self, data: TrainingData, epoch: int) -> Iterator[Batch]:
        generator = self._generator(epoch)
        order = torch.randperm(len(data), generator=generator)[: self.queries]
        for a in range(0, len(order), self.batch_size):
            index = self.mine(data, order[a : a + self.batch_size], generator)
            if len(index):
                yield data.batch(index)

    def tuples(self, z: Tensor) -> Tuples:
        """Cut the descriptors z of a batch into queries, positives and negatives."""
        count = len(z) // (2 + self.negatives)
        negative = z[2 * count : (2 + self.negatives) * count]
        return Tuples(z[:count], z[count : 2 * count], negative.unflatten(0, (count, -1)))
