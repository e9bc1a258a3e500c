"""HRNH [140]: hierarchical recurrent neural hashing (survey Section V-F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.shallow._linear import pooled

_LONGEST_STEP = 1.0
"""Norm to which gradients are clipped: those through many levels can be long."""


class _Pyramid(nn.Module):
    """Levels side by side (n, sum d) to relaxed codes (n, bits) in (-1, 1), level after level."""

    def __init__(self, x: NDArray[Any], parts: list[int], size: int, bits: int, dropout: float):
        super().__init__()
        self.parts = parts
        self.standardise = Standardise(x)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(d, size), nn.ReLU(), nn.Dropout(dropout)) for d in parts
        )
        self.cell = nn.GRUCell(size, size)
        self.hash_layer = nn.Linear(size, bits)

    def states(self, x: Tensor) -> list[Tensor]:
        """What the cell holds (n, size) after each level, from the lowest to the highest."""
        h = x.new_zeros(len(x), self.cell.hidden_size, dtype=torch.float32)
        found = []
        pieces = self.standardise(x).split(self.parts, dim=1)
        for level, piece in zip(self.levels, pieces, strict=True):
            h = self.cell(level(piece), h)
            found.append(h)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The code after the highest level."""
        u: Tensor = self.hash_layer(self.states(x)[-1]).tanh()
        return u


@dataclass(kw_only=True, eq=False)
class HRNH(DeepMethod):
    r"""A recurrent network climbs the levels of a convolutional network and ends in a code.

    The last layer of a network says what an image shows and forgets how it looks. The levels below
    it still hold edges and textures. A recurrent cell reads one level after another, from details
    to meaning, and keeps of each what helps; its last state becomes the code. Codes of similar
    images must agree, outputs must be near to signs, and every bit must be as often positive as
    negative.

    :survey: Section V-F
    :cite: lu2018hrnh
    :source: the paper's abstract (recurrent network over hierarchical convolutional features; loss
        of semantic similarity, quantization error and balance); layers, formulas and constants were
        not available
    :objective: \min\ \mathrm{mean}_{i<j}\big(\log(1+e^{\theta_{ij}})-s_{ij}\theta_{ij}\big)
        +\lambda\,\mathrm{mean}_i\tfrac1K\|u_i-\mathrm{sgn}(u_i)\|^2
        +\mu\,\tfrac1K\|\mathrm{mean}_i u_i\|^2,\quad
        h_l=\mathrm{GRU}(\phi_l,h_{l-1}),\ u=\tanh(Wh_L+c),\ \theta_{ij}=\tfrac12u_i^\top u_j
    :shapes: x (n, sum d) of L levels, labels (n, C); states (n, max(64, width / 4)); codes int8
        (n, bits)
    :defaults: lam = 0.1, mu = 0.1, lr = 3e-3 (the cell learns slowly at the usual 1e-3); every
        level is brought to the size of the state; gradients
        longer than 1 are shortened to 1: choices of this package
    :departures: levels are averaged over positions, so the recurrence runs over levels only and not
        over places of the maps too; the convolutional network is frozen; a gated unit with one
        layer; similarity is the pair likelihood of DPSH; Adam with cosine decay
    :fidelity: sketch
    """

    reads = "stages"

    lr: float = 3e-3
    lam: float = 0.1
    mu: float = 0.1

    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from the levels of a network, whose widths are ``split.parts``."""
        self.parts_ = list(split.parts)
        return super().fit(split, **loop)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """A layer for each level, the recurrent cell and the hash layer."""
        x = pooled(x, system="HRNH")
        return _Pyramid(x, self.parts_, max(64, self.width // 4), self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood of all pairs i < j of the batch, distance to signs, balance of bits."""
        u = self.network_(batch.x)
        i, j = torch.triu_indices(len(u), len(u), offset=1)
        theta = 0.5 * (u @ u.T)[i, j]
        return {
            "similarity": (F.softplus(theta) - batch.similarity[i, j] * theta).mean(),
            "quantization": self.lam * (u - sign(u.detach())).square().mean(),
            "balance": self.mu * u.mean(0).square().mean(),
        }

    def encode_levels(self, x: NDArray[Any]) -> Codes:
        """Codes int8 (n, L, bits) of inputs (n, sum d) after each level; the last is the code."""
        self._require_fit()
        self._check_input(x)
        network = self.network_
        assert isinstance(network, _Pyramid)
        with torch.inference_mode():
            states = network.states(torch.from_numpy(np.array(x, np.float32)))
            codes: Codes = torch.stack([sign(network.hash_layer(h)) for h in states], 1).numpy()
        return codes

    @staticmethod
    def _descend(loss: Any, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, _LONGEST_STEP)
        optimiser.step()
