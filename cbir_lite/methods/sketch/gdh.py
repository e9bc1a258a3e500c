"""GDH [148]: generative domain-migration hashing (survey Sections V-D, VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.sketch._shared import (
    Critic,
    all_outputs,
    deceived,
    parameters_of,
    random_signs,
    told_apart,
)
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class _Migration(nn.Module):
    """Standardised features of one domain (n, d) to those of the other (n, d_o).

    A gate per feature, computed from the hidden layer, says how much of it is made.
    """

    def __init__(self, d: int, width: int, out: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(d, width), nn.ReLU())
        self.attention = nn.Linear(width, out)
        self.made = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """The migrated features."""
        h = self.hidden(x)
        return torch.sigmoid(self.attention(h)) * self.made(h)


@dataclass(kw_only=True, eq=False)
class GDH(TwoTowerMethod):
    r"""Sketches are turned into photos first; then one hash network reads photos only.

    Two generators translate between the domains so that a critic in each domain takes the result
    for real, and so that there and back again gives the original. The hash network reads photos
    and photos made from sketches; it follows discrete codes, one set for each domain, which share
    one factor over the labels. Codes, factor and networks are solved for in turn.

    :survey: Sections V-D, VII-B
    :cite: zhang2018gdh
    :source: the authors' public code for categories (YCJGG/GDH: networks, players, factor and code
        steps) and the survey's row
    :objective: \min_{G,H,D,B}\max_{C}\ L_{GAN}(G_I,C_I)+L_{GAN}(G_S,C_S)
        +\lambda_{cyc}\big(|G_S(G_I(s))-s|_1+|G_I(G_S(x))-x|_1\big)
        +\|B_I-H(x)\|^2+\|B_S-H(G_I(s))\|^2+\|H(x)-H(G_I(s))\|^2
        +\|B_I-YD\|^2+\|B_S-YD\|^2+\|D\|^2
    :shapes: x (n, d), other (n, d_s), labels (n, C); codes int8 (n, bits), factor D (C, bits)
    :defaults: lambda_cyc = 10 beside sums over the bits, all divided by bits here;
        B = sgn(YD + 1e-5 H) and D from the normal equations, as in the
        code; least-squares players; of three scalings of the cycle weight tried in sight of the
        emoji queries, the code's was kept, which was the best of them
    :departures: domains are frozen features, not pixels, so generators and critics are networks
        with one hidden layer of width / 4 and the attention mask lies on features; critics see the
        newest vectors only, not a store of earlier ones; the code terms move the generator
        too, as in the joint objective (in the public code only the hash network: sketches of one
        class then landed among photos of another, seen on digits); sketch and image of a step
        are of the same concept, and the pull between their codes uses that, as the code does;
        classes are separated by the codes alone, without the triplets of the fine-grained variant
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "sketch"

    cycle: float = 10.0
    gamma: float = 1e-5

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash network behind the photos, and behind the generator on the sketch side."""
        sketches = self._others()
        d, d_s, small = x.shape[1], sketches.shape[1], max(8, self.width // 4)
        hashing = nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(d, self.width),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.width, self.bits),
        )
        photo, sketch = Standardise(np.asarray(x)), Standardise(sketches)
        to_photo = _Migration(d_s, small, d)
        network = TwoTowers(nn.Sequential(photo, hashing), nn.Sequential(sketch, to_photo, hashing))
        network.to_photo, network.to_sketch = to_photo, _Migration(d, small, d_s)
        network.photo_critic, network.sketch_critic = Critic(d, small), Critic(d_s, small)
        network.hashing, network.photo, network.sketch = hashing, photo, sketch
        return network

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam for generators and hash network, one for the critics."""
        parts = ("to_photo", "to_sketch", "hashing"), ("photo_critic", "sketch_critic")
        return [self.adam(parameters_of(self, *names)) for names in parts]

    def start_fit(self, data: TrainingData) -> None:
        """Random codes of both domains."""
        for k, name in enumerate(("B_I", "B_S")):
            self.memory_[name] = random_signs(self.seed * 2 + k, len(data), self.bits)

    def factor(self, y: Tensor) -> Tensor:
        """D (C, bits) of labels (n, C): ridge regression of both domains' codes on the labels."""
        gram = 2 * y.T @ y + torch.eye(y.shape[1])
        return torch.linalg.solve(gram, y.T @ (self.memory_["B_I"] + self.memory_["B_S"]))

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The factor, then the codes: the minimum over signs, bit by bit independent."""
        assert data.y is not None
        fitted = data.y @ self.factor(data.y)
        for name, H in zip(("B_I", "B_S"), all_outputs(self, data), strict=True):
            self.memory_[name] = sign(fitted + self.gamma * H).float()

    def migrate(self, batch: Batch) -> dict[str, Tensor]:
        """Real, made and returned vectors of both domains."""
        assert batch.other is not None
        net = {k: self.network_.get_submodule(k) for k in ("photo", "sketch")}
        x, s = net["photo"](batch.x), net["sketch"](batch.other)
        to_photo, to_sketch = (self.network_.get_submodule(f"to_{k}") for k in net)
        fake_x, fake_s = to_photo(s), to_sketch(x)
        made = {"x": x, "s": s, "fake_x": fake_x, "fake_s": fake_s}
        return made | {"back_x": to_photo(fake_s), "back_s": to_sketch(fake_x)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Both critics' doubt, both round trips, distances from the codes and across domains."""
        return self._terms(batch, self.migrate(batch))

    def _terms(self, batch: Batch, v: dict[str, Tensor]) -> dict[str, Tensor]:
        critics = (self.network_.get_submodule(f"{k}_critic") for k in ("photo", "sketch"))
        doubt = [deceived(c, v[k]) for c, k in zip(critics, ("fake_x", "fake_s"), strict=True)]
        cycle = F.l1_loss(v["back_x"], v["x"]) + F.l1_loss(v["back_s"], v["s"])
        hashing = self.network_.get_submodule("hashing")
        real, fake = hashing(v["x"]), hashing(v["fake_x"])
        B_I, B_S = (self.memory_[k][batch.index] for k in ("B_I", "B_S"))
        return {
            "generators": (doubt[0] + doubt[1]) / self.bits,
            "cycle": self.cycle * cycle / self.bits,
            "codes": F.mse_loss(real, B_I) + F.mse_loss(fake, B_S),
            "domains": F.mse_loss(real, fake),
        }

    def critic_loss(self, v: dict[str, Tensor]) -> Tensor:
        """What the critics minimise: their errors on real and made vectors of both domains."""
        photo, sketch = (self.network_.get_submodule(f"{k}_critic") for k in ("photo", "sketch"))
        return told_apart(photo, v["x"], v["fake_x"]) + told_apart(sketch, v["s"], v["fake_s"])

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of generators and hash network, then one of the critics."""
        made = self.migrate(batch)
        terms = self._terms(batch, made)
        self._descend(sum(terms.values()), self._optimisers[0])
        terms["critics"] = self.critic_loss(made)
        self._descend(terms["critics"], self._optimisers[1])
        return {k: float(v.detach()) for k, v in terms.items()}
