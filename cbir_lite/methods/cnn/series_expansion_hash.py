"""Hashing by discrepancy minimisation, through a series expansion [78] (survey Section III.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData


def pair_loss(f: Tensor, s: Tensor) -> Tensor:
    """L(f): mean over pairs i != j of log(1 + e^t) - s t, t = f_i'f_j / 2, of outputs (n, K)."""
    different = ~torch.eye(len(f), dtype=torch.bool)
    t = 0.5 * (f @ f.T)[different]
    return (F.softplus(t) - s[different] * t).mean()


def derivatives(f: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (n, K) and diagonal of the Hessian (n, K) of :func:`pair_loss`."""
    n = len(f)
    p = torch.sigmoid(0.5 * f @ f.T)
    first, second = (p - s).fill_diagonal_(0), (p * (1 - p)).fill_diagonal_(0)
    # A row is in the pairs (i, j) and (j, i).
    scale = 2 / (n * (n - 1))
    return scale * 0.5 * first @ f, scale * 0.25 * second @ f.square()


@dataclass(kw_only=True, eq=False)
class SeriesExpansionHash(DeepMethod):
    r"""The loss of the codes, written as a series around the relaxed outputs.

    What should be small is the loss L of binary codes b; what can be differentiated is L of the
    outputs f. Expanded at f, L(b) is L(f) and the terms of the discrepancy b - f, in which the
    codes appear apart from the network. So the two are found in turn: the codes of a batch that
    minimise the series have a closed form, bit by bit, and the network then follows its own
    loss and these codes. The weight of the discrepancy grows from zero to one over the epochs.

    :survey: Section III.6
    :cite: chen2018discrepancy
    :source: the survey's sentence and row, and the paper's abstract (series expansion, codes
        apart from hash functions, alternating optimisation, gradual minimisation of the
        discrepancy)
    :objective: \min_{f,B}\ L(f)+\lambda_t\sum_{ik}\Big(\partial_{ik}L(f)\,(b_{ik}-f_{ik})
        +\tfrac12\partial_{ik}^2L(f)\,(b_{ik}-f_{ik})^2\Big),\quad b_{ik}\in\{\pm1\},
        \ L(f)=\mathrm{mean}_{i\ne j}\big(\log(1+e^{\Theta_{ij}})-s_{ij}\Theta_{ij}\big),
        \ \Theta_{ij}=\tfrac12f_i^\top f_j,\ f=\tanh(z);\quad
        B\leftarrow\mathrm{sgn}\big(\partial^2L\circ f-\partial L\big)
    :shapes: x (n, d), labels (n, C); f and B (n, K) with K = bits; codes sgn(z), int8 (n, bits)
    :defaults: lambda_t rises linearly from 0 to 1 in the last epoch
    :departures: pair likelihood, order two of the series with the diagonal of the Hessian,
        codes for the batch, coefficients held fixed in the network's step, and the schedule are
        this implementation's: the paper's formulas were not available. Its CNN is replaced by a
        hidden layer on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    last: float = 1.0

    def start_fit(self, data: TrainingData) -> None:
        """The weight of the discrepancy starts at zero."""
        self.memory_ = {"lam": torch.tensor(0.0)}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The weight of this epoch."""
        self.memory_["lam"] = torch.tensor(self.last * epoch / max(1, self.epochs - 1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of the relaxed outputs, and the terms of the series for the best codes."""
        f, s = torch.tanh(self.network_(batch.x)), batch.similarity
        gradient, curvature = derivatives(f.detach(), s)
        gap = self.codes(f.detach(), gradient, curvature) - f
        series = gradient * gap + 0.5 * curvature * gap.square()
        return {"relaxed": pair_loss(f, s), "discrepancy": self.memory_["lam"] * series.sum()}

    @staticmethod
    def codes(f: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
        """The codes (n, K) in {-1, +1} that minimise the series at f."""
        return sign(curvature * f - gradient).float()
