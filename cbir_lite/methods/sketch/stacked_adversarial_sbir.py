"""Stacked adversarial network [163] with a siamese metric (survey Sections V-D, VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.sketch._shared import (
    Critic,
    Unit,
    contrastive,
    deceived,
    parameters_of,
    told_apart,
)
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


def _stage(d: int, width: int, out: int) -> nn.Sequential:
    """Vectors (n, d) to standardised photo features (n, out)."""
    return nn.Sequential(nn.Linear(d, width), nn.LeakyReLU(0.2), nn.Linear(width, out))


class _Stacked(nn.Module):
    """Sketch features (n, d_s) to photo features in two stages, then to the siamese space."""

    def __init__(self, other: NDArray[Any], d: int, width: int, noise: int, siamese: nn.Module):
        super().__init__()
        d_s = other.shape[1]
        self.noise = noise
        self.standardise = Standardise(other)
        self.first = _stage(d_s + noise, width, d)
        self.second = _stage(d + d_s, width, d)
        self.siamese = siamese

    def generate(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse and refined photo features of standardised sketches s and noise."""
        coarse = self.first(torch.cat([s, noise], 1))
        # The second stage sees the sketch again and adds what the first one missed.
        return coarse, coarse + self.second(torch.cat([coarse, s], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of what is generated at the mean of the noise."""
        s = self.standardise(x)
        z: Tensor = self.siamese(self.generate(s, s.new_zeros(len(s), self.noise))[1])
        return z


@dataclass(kw_only=True, eq=False)
class StackedAdversarial(TwoTowerMethod):
    r"""Photo features are generated from the sketch in two stages; a siamese network compares.

    The first stage makes coarse photo features of sketch and noise, the second refines them with
    the sketch beside it. Either has a critic that sees the features together with the sketch they
    should belong to. Then sketch retrieval is photo retrieval, in a metric that a siamese network
    learns from real and generated features of the same and of other classes.

    :survey: Sections V-C.1, V-D, VII-B
    :cite: pandey2020san
    :source: the paper's abstract (stacked generator, siamese metric, features synthesised from the
        sketch) and the survey's row; no full text or code was found
    :objective: \min_{G,H}\max_{C}\ L_{adv}^{(1)}+L_{adv}^{(2)}+\lambda\big(s_{ij}\|h_i-h_j\|_2^2
        +(1-s_{ij})\max(0,\Delta-\|h_i-h_j\|_2)^2\big),
        \quad h=H(x)\text{ or }H(G_2(G_1(s,\epsilon),s))
    :shapes: x (n, d), other s (n, d_s), labels (n, C); outputs h float32 (n, bits) of length one
    :defaults: lambda = 10, Delta = 1, 16 numbers of noise, least-squares players, hidden layers of
        width / 2; the noise is zero in retrieval; cosine ranks; chosen here
    :departures: generators, critics and metric are networks with one hidden layer on frozen
        features; which adversarial loss and which siamese loss the paper uses could not be read
    :fidelity: sketch
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"

    lam: float = 10.0
    margin: float = 1.0
    noise: int = 16

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two stages, two critics and the siamese network that both towers end in."""
        sketches = self._others()
        d, half = x.shape[1], max(8, self.width // 2)
        siamese = nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(d, self.width),
            nn.ReLU(),
            nn.Linear(self.width, self.bits),
            Unit(),
        )
        stacked = _Stacked(sketches, d, half, self.noise, siamese)
        network = TwoTowers(nn.Sequential(Standardise(np.asarray(x)), siamese), stacked)
        for k in (1, 2):
            network.add_module(f"critic_{k}", Critic(d + sketches.shape[1], half))
        return network

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam for generators and metric, one for the critics."""
        parts = ("image", "other"), ("critic_1", "critic_2")
        return [self.adam(parameters_of(self, *names)) for names in parts]

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Standardised sketches s and photos x, coarse and refined features made of s."""
        assert batch.other is not None
        stacked = self.network_.get_submodule("other")
        assert isinstance(stacked, _Stacked)
        s = stacked.standardise(batch.other)
        coarse, refined = stacked.generate(s, torch.randn(len(s), self.noise))
        x = self.network_.get_submodule("image.0")(batch.x)
        return {"s": s, "x": x, "coarse": coarse, "refined": refined}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Both stages' adversarial aims, and the siamese loss of generated and real features."""
        return self._terms(batch, self.generate(batch))

    def _terms(self, batch: Batch, v: dict[str, Tensor]) -> dict[str, Tensor]:
        siamese = self.network_.get_submodule("image.1")
        made, real = siamese(v["refined"]), siamese(v["x"])
        s = batch.similarity
        metric = contrastive(2 - 2 * made @ real.T, s, self.margin)
        metric = metric + contrastive(2 - 2 * real @ real.T, s, self.margin)
        first, second = (self.network_.get_submodule(f"critic_{k}") for k in (1, 2))
        return {
            "first stage": deceived(first, torch.cat([v["coarse"], v["s"]], 1)),
            "second stage": deceived(second, torch.cat([v["refined"], v["s"]], 1)),
            "siamese": self.lam * metric,
        }

    def critic_loss(self, v: dict[str, Tensor]) -> Tensor:
        """Errors of both critics on photos and generated features, each beside its sketch."""
        real = torch.cat([v["x"], v["s"]], 1)
        total = v["x"].new_zeros(())
        for k, stage in ((1, "coarse"), (2, "refined")):
            made = torch.cat([v[stage], v["s"]], 1)
            total = total + told_apart(self.network_.get_submodule(f"critic_{k}"), real, made)
        return total

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of generators and metric, then one of the critics."""
        v = self.generate(batch)
        terms = self._terms(batch, v)
        self._descend(sum(terms.values()), self._optimisers[0])
        critics = self.critic_loss(v)
        self._descend(critics, self._optimisers[1])
        return {k: float(t.detach()) for k, t in {**terms, "critics": critics}.items()}
