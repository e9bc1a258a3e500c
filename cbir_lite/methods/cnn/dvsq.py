"""DVSQ [218]: deep visual-semantic quantization (survey Section VII-F, Tables II and IV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import HashNetwork, Standardise
from cbir_lite.methods.quantizers import CompositeMethod, add_words, icm_codes


class Semantic(HashNetwork):
    """Trunk, steep tanh, and the fixed vectors V of the classes, which encoding needs too."""

    V: Tensor

    def __init__(
        self, x: NDArray[Any], width: int, R: int, dropout: float, n_classes: int, gain: float
    ):
        super().__init__(x, width, R, dropout)
        self.gain = gain
        self.register_buffer("V", torch.zeros(n_classes, R))

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch, in (-1, 1)."""
        return torch.tanh(self.gain * super().forward(x))


def class_vectors(x: Tensor, y: Tensor, R: int, generator: torch.Generator) -> Tensor:
    """V (C, R): unit vectors with the cosines of the mean rows of x (n, d) of each class.

    With more classes than R only the R leading directions of the means are kept.
    """
    means = (y.T @ x) / y.sum(0).clamp_min(1)[:, None]
    U, S, _ = torch.linalg.svd(means, full_matrices=False)
    rank = min(R, len(S))
    turn = torch.linalg.qr(torch.randn(R, rank, generator=generator))[0]
    return F.normalize((U * S)[:, :rank] @ turn.T, dim=1)


@dataclass(kw_only=True, eq=False)
class DVSQ(CompositeMethod):
    r"""Features point to the vector of their class rather than to those of other classes.

    Every class has a fixed vector, and the margin by which the right one must win is larger the
    less the two classes resemble each other. Codes are sums of one word of each of M codebooks,
    chosen for small errors of the inner products with the class vectors, not of the features
    themselves. Queries stay real-valued and are compared by inner product through look-up tables.

    :survey: Section VII-F; Tables II, IV
    :cite: cao2017dvsq
    :source: the authors' public code (both versions: tanh of 300 outputs, margins from cosines,
        iterated conditional modes in the space of class vectors, least-squares codebooks, weight)
        and the survey's sentence
    :objective: \min\ \frac1{|L||C|}\sum_i\sum_{j\in Y_i}\sum_{k\notin Y_i}
        \max\big(0,\ \delta_{jk}-\cos(v_j,z_i)+\cos(v_k,z_i)\big)
        +\lambda\,\mathrm{mean}_i\sum_{j=1}^{|C|}\big(v_j^\top(z_i-\textstyle\sum_mC_mb_{im})
        \big)^2,\quad \delta_{jk}=1-\cos(v_j,v_k),
        |L|=\textstyle\sum_i|Y_i|
    :shapes: x (n, d), labels (n, C); z (n, R); codebooks (M, 2^(bits/M), R); database uint8 (n, M),
        queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 300 (cut to a multiple of M), lambda = 1e-4, 3 sweeps
        (public code); one update of codes and codebooks an epoch, in the code every other epoch;
        the last layer is scaled by gain = 20 before tanh, chosen on a held-out part of the training
        images
    :departures: the vectors of class names from a text corpus are replaced by the means of the
        frozen features of each class in the training images, of which only the cosines are kept, so
        the semantics come from vision and nothing is downloaded; AlexNet trained end to end is
        replaced by a hidden layer on frozen features; Adam with cosine decay instead of SGD with a
        ten times faster last layer, hence the gain: the loss sees only angles, and without it tanh
        does not saturate, lengths of z differ and inner products rank by length. Labels of the
        image are left out of k as the paper has it; the code leaves out j alone
    :fidelity: simplified
    """

    lam: float = 1e-4
    gain: float = 20.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk and bottleneck of R outputs."""
        assert n_classes is not None
        return Semantic(x, self.width, self.R, self.dropout, n_classes, self.gain)

    def start_fit(self, data: TrainingData) -> None:
        """Class vectors from standardised inputs, pooled if they are maps or images."""
        assert data.y is not None
        x = Standardise(data.x.numpy())(data.x)
        x = x.flatten(1, -2).mean(1) if x.ndim > 2 else x
        V: Any = self.network_.V
        V.copy_(class_vectors(x, data.y, self.R, self._generator(-1)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Adaptive-margin ranking of class vectors, and visual-semantic quantization."""
        V: Any = self.network_.V
        z, y = self.network_(batch.x), batch.labels
        cos = F.normalize(z, dim=1) @ V.T
        delta = 1 - V @ V.T
        hinges = (delta - cos[:, :, None] + cos[:, None, :]).clamp_min(0)
        wrong = y[:, :, None] * (1 - y)[:, None, :]
        terms = {"margin": (wrong * hinges).sum() / (V.shape[0] * y.sum().clamp_min(1))}
        if "C" in self.memory_:
            c = add_words(self.codes(batch, z), self.memory_["C"])
            terms["quantization"] = self.lam * ((z - c) @ V.T).square().sum(1).mean()
        return terms

    def find_codes(self, z: Tensor, C: Tensor, b: Tensor | None = None) -> Tensor:
        """Iterated conditional modes on inner products with the class vectors."""
        V: Any = self.network_.V
        return icm_codes(z @ V.T, C @ V.T, b, self.sweeps)
