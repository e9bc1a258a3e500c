"""DSDH [101]: deep supervised discrete hashing (survey Sections IV-A, VI-A, Tables II and IV)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label
from cbir_lite.methods.shallow.sdh_shen import b_step, w_step


@dataclass(kw_only=True, eq=False)
class DSDH(DeepMethod):
    r"""The pair likelihood of DPSH, pulled towards discrete codes that also classify the images.

    In every step a linear classifier W is fitted to the signs of the outputs (ridge), then the
    codes B of the batch are found bit by bit so that W reads the labels from them and they stay
    near the outputs. The network follows the likelihood of the pairs and these codes.

    :survey: Sections IV-A, VI-A; Tables II, IV
    :cite: li2017dsdh
    :source: the authors' public MATLAB code (steps, ridge, sweeps, start of the sweeps at zero,
        normalisation) and the survey's row
    :objective: \min\ -\sum_{s_{ij}\in S}\big(s_{ij}\Theta_{ij}-\log(1+e^{\Theta_{ij}})\big)
        +\mu\sum_i\|y_i-W^\top b_i\|_2^2+\nu\|W\|_F^2+\eta\sum_i\|b_i-u_i\|_2^2,
        \quad\Theta_{ij}=\tfrac12u_i^\top u_j,\ b_i\in\{-1,1\}^K
    :shapes: x (n, d), labels (n, C); u and b (n, K) with K = bits, W (K, C); codes sgn(u), int8
        (n, bits)
    :defaults: nu = 0.1, at most 10 sweeps, eta = 55, mu = 1 (public code); sums over pairs divided
        by batch size x training size
    :departures: VGG-F trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay instead of SGD. As in the public code, W and B are those of the batch
    :fidelity: simplified
    """

    eta: float = 55.0
    nu: float = 0.1
    sweeps: int = 10

    def start_fit(self, data: TrainingData) -> None:
        """Stored outputs U start at zero."""
        assert data.y is not None
        self.memory_ = {"U": torch.zeros(len(data), self.bits), "y": data.y}

    def discrete_step(self, u: Tensor, labels: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
        """Codes B (B, K) of a batch and the classifier W (K, C) they were found with."""
        U, Y = u.detach().double().numpy(), labels.double().numpy()
        W = w_step(sign(U).astype(np.float64), Y, self.nu)
        B = b_step(np.zeros_like(U), Y, W, U, self.eta, self.sweeps)
        return torch.from_numpy(B).float(), W

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pair likelihood against all stored outputs, and distance from the discrete codes."""
        u = self.network_(batch.x)
        U, y = self.memory_["U"], self.memory_["y"]
        if self.network_.training:
            U[batch.index] = u.detach()
        B, _ = self.discrete_step(u, batch.labels)
        theta = 0.5 * u @ U.T
        s, pairs = shares_label(batch.labels, y), len(u) * len(U)
        return {
            # Twice: an output of the batch is in the ordered pairs (i, j) and (j, i).
            "likelihood": 2 * (F.softplus(theta) - s * theta).sum() / pairs,
            "codes": self.eta * (B - u).square().sum() / pairs,
        }
