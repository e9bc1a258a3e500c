"""DPSH [98]: deep pairwise-supervised hashing (survey Sections IV-A, V-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label


@dataclass(kw_only=True, eq=False)
class DPSH(DeepMethod):
    r"""The likelihood of pair labels given half the inner product of outputs.

    Each step pairs the outputs u_i of a batch with the stored outputs u_j of the whole training
    set, which are refreshed row by row as batches pass, and pulls u_i towards its signs b_i.

    :survey: Sections IV-A, V-A; Tables II, IV
    :cite: li2016dpsh
    :source: the paper and the first author's public code (normalisation by pairs, stored outputs);
        a later public PyTorch version, which counts each pair once, as here
    :objective: \min\ -\sum_{s_{ij}\in S}\big(s_{ij}\Theta_{ij}-\log(1+e^{\Theta_{ij}})\big)
        +\eta\sum_i\|b_i-u_i\|_2^2,\quad \Theta_{ij}=\tfrac12 u_i^\top u_j,\ b_i=\mathrm{sgn}(u_i)
    :shapes: x (n, d), labels (n, C); u (n, bits); codes int8 (n, bits)
    :defaults: eta = 10 (public code; both sums divided by batch size x training size)
    :departures: CNN-F trained end to end is replaced by a hidden layer on frozen features (or a
        small conv net on images); Adam with cosine decay instead of SGD. The gradient of the
        likelihood is that of pairs (i, j) with u_j held; the paper and the first author's code add
        that of (j, i), which is as much again, so eta = 10 here weighs like 20 there
    :fidelity: simplified
    """

    eta: float = 10.0

    def start_fit(self, data: TrainingData) -> None:
        """Stored outputs U start at zero."""
        assert data.y is not None
        self.memory_ = {"U": torch.zeros(len(data), self.bits), "y": data.y}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pair likelihood against all stored outputs, and quantization."""
        u = self.network_(batch.x)
        U, y = self.memory_["U"], self.memory_["y"]
        if self.network_.training:
            U[batch.index] = u.detach()
        s = shares_label(batch.labels, y)
        theta = 0.5 * u @ U.T
        pairs = len(u) * len(U)
        return {
            "likelihood": (F.softplus(theta) - s * theta).sum() / pairs,
            "quantization": self.eta * (sign(u.detach()) - u).square().sum() / pairs,
        }
