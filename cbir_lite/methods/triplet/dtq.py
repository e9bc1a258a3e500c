"""DTQ [179]: deep triplet quantization (survey Section V-C, Tables II and IV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import Bottleneck, CompositeMethod, add_words


def group_hard(d: Tensor, s: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, positives and negatives of a group with distances d and similarities s (n, n).

    Each pair of similar rows gets one dissimilar row, drawn from those that come within the margin
    of the positive; pairs without such a row are left out.
    """
    anchor, positive = (s - torch.eye(len(s)) > 0).nonzero(as_tuple=True)
    hard = (s[anchor] == 0) & (d[anchor] - d[anchor, positive][:, None] < margin)
    negative = torch.where(hard, torch.rand(hard.shape), -1.0).argmax(1)
    kept = hard.any(1)
    return anchor[kept], positive[kept], negative[kept]


def redundancy(C: Tensor) -> Tensor:
    """Mean squared inner product of words of different codebooks of C (M, K, R)."""
    M, K, R = C.shape
    products = (C.view(-1, R) @ C.view(-1, R).T).view(M, K, M, K).square().sum((1, 3))
    return (products.sum() - products.diagonal().sum()) / max(1, M * (M - 1) * K * K)


def weakly_orthogonal_words(
    z: Tensor, b: Tensor, C: Tensor, gamma: float, ridge: float = 1e-6
) -> Tensor:
    """One round over the codebooks: each in closed form given the others and codes b (n, M).

    Lowers mean_i |z_i - C b_i|^2 + gamma * redundancy(C); ``ridge`` keeps unused words in place.
    """
    M, K, R = C.shape
    C = C.clone()
    weight = 2 * gamma / max(1, M * (M - 1) * K * K)
    for m in range(M):
        left = z - add_words(b, C) + C[m][b[:, m]]
        share = torch.bincount(b[:, m], minlength=K)[:, None] / len(z) + ridge
        sums = torch.zeros_like(C[m]).index_add_(0, b[:, m], left) / len(z) + ridge * C[m]
        others = torch.cat([C[:m], C[m + 1 :]]).reshape(-1, R)
        values, Q = torch.linalg.eigh(others.T @ others)
        C[m] = (sums @ Q / (share + weight * values.clamp_min(0))) @ Q.T
    return C


@dataclass(kw_only=True, eq=False)
class DTQ(CompositeMethod):
    r"""Triplets that a group finds hard shape the features, which are sums of few words.

    In each group of images every pair of one class is joined by one image of another class, drawn
    from those that are too near. Codes are sums of one word of each codebook; a penalty on inner
    products between words of different codebooks keeps them from saying the same thing twice.
    Queries stay real-valued and are compared by inner product through look-up tables.

    :survey: Sections V-C.2, IX; Tables II, IV
    :cite: liu2018dtq
    :source: the authors' public code (tanh of 64 outputs, margin, Group Hard, iterated conditional
        modes, ranking by inner product), the paper's abstract, and the objective as a later survey
        of deep hashing prints it
    :objective: \min\ \mathrm{mean}_{(a,p,n)}
        \max\big(0,\ \delta+\|z_a-z_p\|_2^2-\|z_a-z_n\|_2^2\big)
        +\lambda\Big(\mathrm{mean}_i\|z_i-\textstyle\sum_mC_mb_{im}\|_2^2
        +\gamma\,\mathrm{mean}_{m\ne m'}\tfrac1{K^2}\|C_m^\top C_{m'}\|_F^2\Big)
    :shapes: x (n, d), labels (n, C); z (n, R); codebooks (M, K, R), K = 2^(bits/M); database uint8
        (n, M), queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 64 (cut to a multiple of M), delta = 30, 3 sweeps, one
        update of codes and codebooks an epoch (public code); lambda = 0.1, gamma = 30 chosen on a
        held-out part of the training images (the public code has no penalty, and lambda = 0)
    :departures: a group is a batch and its triplets are drawn with the current outputs, not once an
        epoch in up to twenty groups; the penalty compares different codebooks only, since more
        words than dimensions cannot be orthogonal within one, and wants 0 of their products, where
        the later survey prints I; codebooks are updated one by one in closed form and learned on
        the training images, while the public code learns them anew on the database before ranking;
        AlexNet trained end to end is replaced by a hidden layer on frozen features; Adam with
        cosine decay instead of SGD
    :fidelity: simplified
    """

    dim: int = 64
    margin: float = 30.0
    lam: float = 0.1
    gamma: float = 30.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk and bottleneck of R outputs."""
        return Bottleneck(x, self.width, self.R, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplets of the group, and quantization of its rows."""
        z = self.network_(batch.x)
        squares = z.square().sum(1)
        d = squares[:, None] + squares - 2 * z @ z.T
        a, p, n = group_hard(d.detach(), batch.similarity, self.margin)
        hinges = (self.margin + d[a, p] - d[a, n]).clamp_min(0)
        terms = {"triplet": hinges.sum() / max(1, len(hinges))}
        if "C" in self.memory_:
            c = add_words(self.codes(batch, z), self.memory_["C"])
            terms["quantization"] = self.lam * (z - c).square().sum(1).mean()
        return terms

    def update_words(self, z: Tensor, b: Tensor, C: Tensor) -> Tensor:
        """Each codebook given the others, with the penalty of weak orthogonality."""
        return weakly_orthogonal_words(z, b, C, self.gamma)
