"""DICH [79]: deep index-compatible hashing (survey Section III.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(kw_only=True, eq=False)
class DICH(DeepMethod):
    r"""A contrastive loss whose dissimilar pairs must also differ in every short block of bits.

    A multi-index table splits codes into substrings and looks up each of them, so two images that
    share a substring become candidates for each other however far apart the whole codes are. A
    second margin therefore acts on blocks of two bits: it is met as soon as one bit of the
    block differs, and codes of different classes share few substrings.

    :survey: Section III.6
    :cite: wu2018dich
    :source: the authors' public Caffe code (both margins, blocks, weights, factors of its
        gradients)
    :objective: \min\ \frac1{n(n-1)}\sum_{i<j}\tfrac12\Big(s_{ij}\|z_i-z_j\|_2^2
        +(1-s_{ij})\max\big(m-\|z_i-z_j\|_2^2,0\big)\Big)
        +\frac\alpha n\sum_i\||z_i|-\mathbf1\|_1
        +\frac\beta{|S_0|}\sum_{s_{ij}=0}\sum_{r=1}^{K/2}\tfrac12
        \max\big(4-\|z_i^{(r)}-z_j^{(r)}\|_2^2,0\big),\quad z^{(r)}=(z_{2r-1},z_{2r})
    :shapes: x (n, d), labels (n, C); z (n, K) with K = bits, even; codes sgn(z), int8 (n, bits)
    :defaults: m = 2 x bits (64 at 32 bits), alpha = 0.01, beta = 0.1 (public code)
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay instead of SGD
    :fidelity: simplified
    """

    alpha: float = 0.01
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits % 2:
            raise ValueError(f"bits={self.bits}: DICH has blocks of two bits, use an even number")

    @property
    def m(self) -> float:
        """The margin of whole codes."""
        return 2.0 * self.bits

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Contrastive, code-value and index terms over all pairs i < j."""
        z = self.network_(batch.x)
        i, j = torch.triu_indices(len(z), len(z), offset=1)
        s = batch.similarity[i, j]
        squares = (z[i] - z[j]).square()
        d = squares.sum(1)
        contrast = s * d + (1 - s) * (self.m - d).clamp_min(0)
        block = (4 - squares.unflatten(1, (-1, 2)).sum(2)).clamp_min(0).sum(1)
        return {
            # n (n - 1) is twice the number of pairs.
            "contrast": contrast.mean() / 4,
            "codes": self.alpha * (z.abs() - 1).abs().sum(1).mean(),
            "index": self.beta / 2 * ((1 - s) * block).sum() / (1 - s).sum().clamp_min(1),
        }
