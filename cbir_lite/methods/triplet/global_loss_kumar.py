"""Global loss [132]: siamese and triplet networks (survey Sections V-C.2, VI-B, VIII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import (
    MetricLearner,
    UnitNetwork,
    squared_distances,
    valid_triplets,
)


@dataclass(kw_only=True, eq=False)
class GlobalLoss(MetricLearner):
    r"""Distances of matching and of other pairs as two distributions that should not overlap.

    A triplet loss looks at one triplet at a time. The global loss looks at all distances of a batch
    at once: it makes the variances of both distributions small and keeps their means apart. Triplet
    and global loss are minimised together, on descriptors of length one.

    Real-valued: ``bits`` is the number of dimensions, each a float32.

    :survey: Sections V-C.2, VI-B, VIII-A
    :cite: kumar2016global
    :source: the paper's abstract (triplet and global loss combined are best), and a public
        reimplementation in Torch of the global loss (squared distances / 4 of descriptors of length
        one, margin 0.4, weight 0.8); the ratio of the triplet term is that of Wohlhart and Lepetit
        as a public thread of Caffe writes it out
    :objective: \min\ (\sigma_+^2+\sigma_-^2)+\lambda\max(0,\mu_+-\mu_-+t)
        +\gamma\,\mathrm{mean}_{(a,p,n)}\max\Big(0,1-\frac{d_{an}}{d_{ap}+m}\Big),
        \quad d_{ij}=\tfrac14\|f_i-f_j\|_2^2,\ \|f_i\|_2=1
    :shapes: x (n, d), labels (n, C); f float32 (n, bits)
    :defaults: lambda = 0.8 and t = 0.4 (public code); gamma = 1 and m = 0.1, chosen here
    :departures: the convolutional network for patches is replaced by a hidden layer on frozen
        features (or a small conv net on images), and images of a class take the place of patches of
        one scene point; all pairs and triplets of a batch instead of those drawn beforehand; Adam
        with cosine decay instead of SGD
    :fidelity: simplified
    """

    lam: float = 0.8
    t: float = 0.4
    gamma: float = 1.0
    m: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Descriptors of length one."""
        return UnitNetwork(x, self.width, self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Variances and means over pairs i < j, ratio hinge averaged over valid triplets."""
        s = batch.similarity
        d = squared_distances(self.network_(batch.x)) / 4
        i, j = torch.triu_indices(len(d), len(d), offset=1)
        matching = s[i, j]
        means, variances = [], []
        for weight in (matching, 1 - matching):
            total = weight.sum().clamp_min(1)
            mean = (weight * d[i, j]).sum() / total
            means.append(mean)
            variances.append((weight * (d[i, j] - mean).square()).sum() / total)
        q, p, negative = valid_triplets(s)
        hinge = (1 - d[q] / (d[q, p] + self.m)[:, None]).clamp_min(0) * negative
        return {
            "variances": variances[0] + variances[1],
            "means": self.lam * (means[0] - means[1] + self.t).clamp_min(0),
            "triplet": self.gamma * hinge.sum() / negative.sum().clamp_min(1),
        }
