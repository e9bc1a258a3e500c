"""DCH [75]: deep Cauchy hashing (survey Sections III.6, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod


def relaxed_distance(a: Tensor, b: Tensor) -> Tensor:
    """K/2 (1 - cos) of paired rows of ``a`` and ``b`` (n, K): the Hamming distance of codes."""
    return a.shape[1] / 2 * (1 - F.cosine_similarity(a, b, dim=1))


@dataclass(kw_only=True, eq=False)
class DCH(DeepMethod):
    r"""Similar pairs are drawn into a small Hamming ball by a likelihood with a Cauchy tail.

    The probability that a pair is similar falls with its distance d as gamma / (gamma + d), which
    drops at once and then slowly, where a sigmoid stays high up to large distances. Similar
    pairs a few bits apart therefore still cost something, so that lookups within radius 2 find
    them. The same distribution draws the absolute outputs to one.

    :survey: Sections III.6, VI-A
    :cite: cao2018dch
    :source: the survey's row, the beginning of the paper, and the authors' public code (distance by
        cosines, tanh, balance of pairs, gamma)
    :objective: \min\ \sum_{s_{ij}\in S}w_{ij}\Big(s_{ij}\log\frac{d_{ij}}\gamma
        +\log\big(1+\frac\gamma{d_{ij}}\big)\Big)
        +\lambda\sum_i\log\Big(1+\frac{d(|h_i|,\mathbf 1)}\gamma\Big),
        \quad d(a,b)=\tfrac K2\big(1-\cos(a,b)\big),\ h=\tanh(z),
        \ w_{ij}=|S|/|S_1|\text{ or }|S|/|S_0|
    :shapes: x (n, d), labels (n, C); h (n, K) with K = bits; codes sgn(h), int8 (n, bits)
    :defaults: gamma = 20 (public code), lambda = 0.1; sums averaged over pairs and images, counts
        of similar and dissimilar pairs taken from the batch
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay instead of SGD; distances below 0.001 are cut off in the dissimilar term,
        which is infinite at zero. The code has other losses than the formula here: a logistic one
        of gamma / (d + gamma^2), the squared distance of |h| from 1, with weight 0 by default, and
        no weight above 1 for dissimilar pairs
    :fidelity: simplified
    """

    gamma: float = 20.0
    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cauchy cross-entropy over pairs i < j, and Cauchy quantization."""
        h = torch.tanh(self.network_(batch.x))
        i, j = torch.triu_indices(len(h), len(h), offset=1)
        s = batch.similarity[i, j]
        d = relaxed_distance(h[i], h[j]).clamp_min(1e-3)
        # s log(d / gamma) + log(1 + gamma / d) without the difference of two large numbers.
        cauchy = torch.where(s > 0, torch.log1p(d / self.gamma), torch.log1p(self.gamma / d))
        w = torch.where(s > 0, len(s) / s.sum().clamp_min(1), len(s) / (1 - s).sum().clamp_min(1))
        distance = relaxed_distance(h.abs(), torch.ones_like(h))
        return {
            "cauchy": (w * cauchy).mean(),
            "quantization": self.lam * torch.log1p(distance / self.gamma).mean(),
        }
