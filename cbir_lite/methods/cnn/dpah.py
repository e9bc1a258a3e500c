"""DPAH [89]: deep position-aware hashing (survey Sections III.8, VII-F, IX)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork


def hamming(f: Tensor, c: Tensor) -> Tensor:
    """|f - c|^2 / 4 (n, m) of rows f (n, bits), c (m, bits): the Hamming distance of codes."""
    squares = f.square().sum(1)[:, None] + c.square().sum(1)[None, :]
    return (squares - 2 * f @ c.T).clamp_min(0) / 4


def kurtosis(f: Tensor) -> Tensor:
    """Fourth over squared second central moment of each column of f (n, bits): (bits,).

    It is 1 exactly where half the rows have one value and half another, and more elsewhere.
    """
    squares = (f - f.mean(0)).square()
    return squares.square().mean(0) / squares.mean(0).square().clamp_min(1e-8)


@dataclass(kw_only=True, eq=False)
class DPAH(DeepMethod):
    r"""Learned class centres as landmarks, so that every image has its place among all classes.

    Pairs and triplets compare images of one batch. Here each class has a centre that is learned
    along with the network, and an image is placed by its distances from all centres: the nearest
    must be that of its class. A term on the kurtosis of each output makes its distribution one
    of two equal peaks, so that little is lost at the threshold and both values are used.

    :survey: Sections III.8, VII-F, IX; Tables II, IV
    :cite: wang2020dpah
    :source: the survey's sentence; learned centres as global proxies and the kurtosis term as
        recalled from the abstract. Neither the paper's formulas nor its code were found
    :objective: \min_{f,c}\ -\mathrm{mean}_i\sum_k q_{ik}\log
        \frac{e^{-d(f_i,c_k)/\tau}}{\sum_l e^{-d(f_i,c_l)/\tau}}
        +\lambda\,\mathrm{mean}_k\Big(\frac{\mathrm{mean}_i(f_{ik}-\bar f_k)^4}
        {(\mathrm{mean}_i(f_{ik}-\bar f_k)^2)^2}-1\Big),\quad d(f,c)=\tfrac14\|f-c\|_2^2,\
        q_i=y_i/\mathbf{1}^\top y_i
    :shapes: x (n, d), labels (n, C); f = tanh(z), centres (C, bits) through tanh; codes int8
        (n, bits)
    :defaults: tau = bits / 16, so that all code lengths have the same range of exponents; lambda
        = 0.1; centres start as random codes. All are choices of this package
    :departures: the form of the distance term (a softmax over distances) and the kurtosis of each
        bit in a batch are readings of the abstract; the deep network is replaced by a hidden layer
        on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    lam: float = 0.1

    @property
    def tau(self) -> float:
        """The temperature, which grows with the largest distance of two codes."""
        return self.bits / 16

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network with ``centres`` (C, bits) before their tanh."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        codes = torch.randint(0, 2, (n_classes, self.bits)) * 2.0 - 1
        network.centres = nn.Parameter(codes)
        return network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels given distances from the centres, and excess kurtosis."""
        centres: Any = self.network_.centres
        f = torch.tanh(self.network_(batch.x))
        nearness = F.log_softmax(-hamming(f, torch.tanh(centres)) / self.tau, dim=1)
        q = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        return {
            "position": -(q * nearness).sum(1).mean(),
            "kurtosis": self.lam * (kurtosis(f) - 1).mean(),
        }
