"""What the adversarial systems share: two players that step in turn, and their small networks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import Dropout, Standardise


class Flat(nn.Module):
    """Standardised features or pixels as vectors (B, d): what generators make."""

    def __init__(self, x: NDArray[Any]):
        super().__init__()
        self.d = int(np.prod(x.shape[1:]))
        self.standardise = Standardise(x)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (B, ...) as the training split gives them."""
        y: Tensor = self.standardise(x).flatten(1)
        return y


def hidden(d: int, width: int, dropout: float) -> nn.Sequential:
    """Vectors (B, d) to (B, width): the hidden layer of the package's trunk."""
    return nn.Sequential(Dropout(dropout), nn.Linear(d, width), nn.ReLU(), Dropout(dropout))


def maker(d: int, width: int, out: int) -> nn.Sequential:
    """A generator with one hidden layer: (B, d) to standardised vectors (B, out)."""
    return nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, out))


def telling(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)) of two sets of logits, each averaged: a scalar."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


@dataclass(kw_only=True, eq=False)
class TwoPlayers(DeepMethod):
    """Two players with opposed aims: a step of the first on ``loss``, one of the second on its own.

    Each owns the parts of ``network_`` that ``players`` names and moves nothing else. ``pace`` is
    the learning rate of the second as a multiple of ``lr``.
    """

    players: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]]

    pace: float = 1.0

    @abstractmethod
    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms whose sum the second player minimises; called after the first has moved."""

    def optimisers(self) -> list[Optimizer]:
        """One Adam for each player."""
        return [
            self.adam([p for name in parts for p in getattr(self.network_, name).parameters()], lr)
            for parts, lr in zip(self.players, (self.lr, self.pace * self.lr), strict=True)
        ]

    @staticmethod
    def _descend(loss: Any, optimiser: Optimizer) -> None:
        """One step; gradients of the other player's parameters are not computed at all."""
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=[p for group in optimiser.param_groups for p in group["params"]])
        optimiser.step()

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the first player, then one of the second."""
        terms = super().training_step(batch)
        answer = self.answer(batch)
        self._descend(sum(answer.values()), self._optimisers[1])
        return {**terms, **{k: float(v.detach()) for k, v in answer.items()}}


@dataclass(kw_only=True, eq=False)
class FewLabels(TwoPlayers):
    """Two players of whom one learns from few labelled rows, drawn again in every step."""

    supervision = "semi-supervised"

    labelled: int = 64

    def start_fit(self, data: TrainingData) -> None:
        """Which rows are labelled; raises ``ValueError`` if none is."""
        assert data.y is not None
        self._data, self._known = data, data.y.any(1).nonzero().squeeze(1)
        if not len(self._known):
            raise ValueError(f"{type(self).__name__}: no training row is labelled; label some")

    def draw_labelled(self) -> TrainingData:
        """``labelled`` labelled rows of the training set, all different if there are as many."""
        order = torch.randperm(len(self._known))[: self.labelled]
        return self._data.rows(self._known[order])
