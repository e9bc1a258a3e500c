"""DSRH of Zhao [207]: deep semantic ranking for several labels (survey Sections VII-C, VII-F)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import trunk


class TwoLayers(nn.Module):
    """Two hidden layers, both read by the hash layer: inputs to z (n, bits)."""

    def __init__(self, x: NDArray[np.generic], width: int, bits: int, dropout: float):
        super().__init__()
        self.first = trunk(x, width, dropout)
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
        self.hash_layer = nn.Linear(2 * width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        a = self.first(x)
        z: Tensor = self.hash_layer(torch.cat([a, self.second(a)], 1))
        return z


def draw(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` random positions (B, count) of each row of mask (B, n), and which rows have any."""
    has = mask.any(1)
    weights = torch.where(has[:, None], mask.float(), 1.0)
    return torch.multinomial(weights, count, replacement=True), has


def sample_triplets(r: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triplets (q, i, j), int64 (T,) each, in which q shares more labels with i, and weights (T,).

    r (B, B) counts shared labels. A query's short list holds an image of its highest level, one of
    a lower level if there is any, and one that shares nothing; it gives a triplet for each two of
    them, weighted by (2^r_i - 2^r_j) / Z with Z the discounted gain of the list in its best order.
    """
    r = r - torch.diag(r.diagonal()) - torch.eye(len(r))
    top = r.max(1).values
    levels = (
        (r == top[:, None]) & (top[:, None] > 0),
        (r > 0) & (r < top[:, None]),
        r == 0,
    )
    (a, has_a), (b, has_b), (c, has_c) = (draw(level, count) for level in levels)
    ra, rb = r.gather(1, a), r.gather(1, b) * has_b[:, None]
    Z = (2**ra - 1) / math.log(2) + (2**rb - 1) / math.log(3)
    q = torch.arange(len(r))[:, None].expand_as(a)
    found = []
    for i, ri, has_i, j, rj, has_j in (
        (a, ra, has_a, b, rb, has_b),
        (a, ra, has_a, c, torch.zeros_like(ra), has_c),
        (b, rb, has_b, c, torch.zeros_like(ra), has_c),
    ):
        valid = has_i & has_j
        weight = (2**ri - 2**rj) / Z
        found.append([t[valid].flatten() for t in (q, i, j, weight)])
    q, i, j, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    return q, i, j, weight


@dataclass(kw_only=True, eq=False)
class DSRHZhao(DeepMethod):
    r"""Triplets of graded relevance: who shares more labels must be nearer.

    With several labels an image can be alike in degrees. For each query a short ranking list is
    drawn: an image that shares most labels with it, one that shares fewer, one that shares none. A
    hinge on relaxed Hamming distances asks for the order of every two of them, weighted by what
    their exchange would cost in discounted cumulative gain. A second term keeps bits balanced. The
    hash layer reads two hidden layers at once, the deeper one for concepts, the other for what they
    leave out.

    Another system of the same letters is Yao's DSRH with triplets and classification [131].

    :survey: Sections VII-C, VII-F
    :cite: zhao2015dsrh
    :source: the authors' public code (draw of the list, weights of gain with natural logarithms,
        margin 5 of 64 bits, balance term, logistic outputs, hash layer on both fully connected
        layers) and the paper's abstract
    :objective: \min\ \sum_q\sum_{r_i>r_j}\frac{2^{r_i}-2^{r_j}}{Z}\max\big(0,
        \ d_H(q,i)-d_H(q,j)+\rho\big)+\alpha\,\|\bar u\|_2^2,
        \quad d_H(q,i)=\tfrac12(K-u_q^\top u_i),\ u=2\sigma(z)-1
    :shapes: x (n, d), labels (n, C); r (B, B) counts; u (n, bits); codes int8 (n, bits)
    :defaults: rho = bits / 8 (public code), alpha = 1 beside the sum over a batch (there one half,
        weighed by the gain of the triplet, over queries alone), 20 lists for each query of a batch
    :departures: AlexNet trained end to end is replaced by two hidden layers on frozen features (or
        on a small conv net); lists are drawn within a batch, several for each query, and queries of
        rare labels are not repeated; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    alpha: float = 1.0
    draws: int = 20
    share: float = 0.125

    @property
    def rho(self) -> float:
        """The margin in bits, which grows with the code length."""
        return self.share * self.bits

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two hidden layers and the hash layer."""
        return TwoLayers(x, self.width, self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted hinge averaged over triplets; balance of bits over the batch."""
        u = torch.tanh(self.network_(batch.x) / 2)
        d = (self.bits - u @ u.T) / 2
        y = batch.labels
        q, i, j, weight = sample_triplets(y @ y.T, self.draws)
        hinge = weight * (self.rho + d[q, i] - d[q, j]).clamp_min(0)
        return {
            "ranking": hinge.sum() / max(1, len(q)),
            "balance": self.alpha * u.mean(0).square().sum() / len(u),
        }
