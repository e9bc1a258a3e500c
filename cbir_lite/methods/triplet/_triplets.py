"""What the triplet systems share: all triplets of a batch, divided outputs, metric learning."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import DeepMethod
from cbir_lite.methods.networks import HashNetwork, trunk


def squared_distances(z: Tensor) -> Tensor:
    """Squared Euclidean distances (B, B) between the rows of z (B, d)."""
    squares = z.square().sum(1)
    return (squares[:, None] + squares[None, :] - 2 * z @ z.T).clamp_min(0)


def valid_triplets(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every triplet of a batch whose similarity is s (B, B) of zeros and ones.

    Returns the pairs (query q, positive p), int64 (P,) each, and for each pair which rows are
    negatives of q, (P, B) of zeros and ones.
    """
    q, p = (s - torch.eye(len(s)) > 0).nonzero(as_tuple=True)
    return q, p, 1 - s[q]


def ranking_loss(d: Tensor, s: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin + d_qp - d_qn) over the triplets of distances d (B, B)."""
    q, p, negative = valid_triplets(s)
    hinge = (margin + d[q, p][:, None] - d[q]).clamp_min(0)
    return (hinge * negative).sum() / negative.sum().clamp_min(1)


class DivideAndEncode(nn.Module):
    """Inputs to z (n, bits): the hidden layer is cut into equal slices, one for each bit.

    A bit sees no other slice, so two bits do not repeat each other as easily. The hidden layer is
    about ``width`` wide: as near as a multiple of ``bits`` comes from above.
    """

    def __init__(self, x: NDArray[np.generic], width: int, bits: int, dropout: float = 0.0):
        super().__init__()
        size = math.ceil(width / bits)
        self.trunk = trunk(x, bits * size, dropout)
        bound = 1 / math.sqrt(size)
        self.weight = nn.Parameter(torch.empty(bits, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(bits))

    def encode(self, hidden: Tensor) -> Tensor:
        """z (n, bits) of hidden activations (n, bits x slice)."""
        return (hidden.unflatten(1, self.weight.shape) * self.weight).sum(2) + self.bias

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch, before any squashing."""
        return self.encode(self.trunk(x))


class UnitNetwork(HashNetwork):
    """Trunk and linear layer, outputs scaled to length one."""

    def forward(self, x: Tensor) -> Tensor:
        """f (n, dimensions) of a batch, on the unit sphere."""
        return F.normalize(super().forward(x))


class MetricLearner(DeepMethod):
    """Real-valued outputs f(x) (n, bits) that are ranked by Euclidean distance."""

    descriptor: ClassVar[str] = "real"

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Euclidean distances float32 (n_queries, n_database)."""
        q, b = (torch.as_tensor(np.asarray(side, np.float32)) for side in (queries, database))
        distances: NDArray[np.float32] = torch.cdist(q, b).numpy()
        return distances
