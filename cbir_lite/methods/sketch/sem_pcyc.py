"""SEM-PCYC [206]: paired cycles between sketches, photos and semantics (survey Section VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.sketch._shared import (
    Critic,
    class_semantics,
    deceived,
    parameters_of,
    per_label,
    told_apart,
)
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_PLAYERS = ("to_semantics_x", "to_semantics_s", "to_x", "to_s", "classify", "classify_x",
            "classify_s")  # fmt: skip


def _generator(d: int, width: int, out: int, dropout: float) -> nn.Sequential:
    """Vectors (n, d) to (n, out) through two hidden layers with batch statistics."""
    layers: list[nn.Module] = []
    for a, b in ((d, width), (width, width)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, out))


@dataclass(kw_only=True, eq=False)
class SEMPCYC(TwoTowerMethod):
    r"""Sketches and photos are mapped to one semantic space and back, against three critics.

    The side information of a class passes an autoencoder that may drop inputs; its code is the
    common space. Generators lead from either domain into that space and out of it again. Critics
    judge semantic vectors, sketches and photos; both round trips must close, classes must be
    readable, and what a pair generates must agree. Retrieval compares semantic vectors, and since
    these are not class labels, unseen classes can be met.

    :survey: Sections VII-B, VII-F
    :cite: dutta2019sempcyc
    :source: the authors' public code (AnjanDutta/sem-pcyc: models, losses and default weights)
    :objective: \min_{G,A,K}\max_{C}\ L_{adv}+\lambda\,L_{cyc}+\lambda\,L_{cls}
        +\rho\lambda\,L_{reg}+\|\hat e-e\|_2^2+\eta\|A\|_{2,1},\quad
        L_{cyc}=|F_x(G_x(x))-x|_1+|F_s(G_s(s))-s|_1+|G_x(F_x(a))-a|_1+|G_s(F_s(a))-a|_1
    :shapes: x (n, d), other s (n, d_s), labels (n, C), semantics (C, k); side information e (n, k),
        or (n, d + d_s) without semantics; its code a and descriptors float32 (n, bits)
    :defaults: lambda = 10, rho = 0.1, eta = 1e-3 (per row of a batch), critics weigh 0.25
        (semantics) and 0.5, least-squares players: all as in the code; cosine ranks
    :departures: frozen features replace two CNNs tuned on the seen classes; side information is
        what the split says of each class in words (in the emoji set the mean keywords of its
        training concepts), in place of pretrained word vectors and a word hierarchy, and where a
        split has no words the mean of the class's training photos beside that of its sketches; so
        unseen classes bring none; hidden layers have width / 2; critics have one layer without
        noise and use Adam, as the autoencoder does; the classifiers are trained, in the code they
        stay as drawn
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"

    lam: float = 10.0
    regression: float = 0.1
    sparsity: float = 1e-3

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Four generators, three critics, three classifiers and the autoencoder."""
        sketches = self._others()
        d, d_s, half = x.shape[1], sketches.shape[1], max(8, self.width // 2)
        photo, sketch = Standardise(np.asarray(x)), Standardise(sketches)
        into_x, into_s = (_generator(k, half, self.bits, self.dropout) for k in (d, d_s))
        network = TwoTowers(nn.Sequential(photo, into_x), nn.Sequential(sketch, into_s))
        network.photo, network.sketch = photo, sketch
        network.to_semantics_x, network.to_semantics_s = into_x, into_s
        network.to_x = _generator(self.bits, half, d, self.dropout)
        network.to_s = _generator(self.bits, half, d_s, self.dropout)
        for name, k in (("", self.bits), ("_x", d), ("_s", d_s)):
            network.add_module(f"critic{name}", Critic(k, max(8, half // 2)))
            network.add_module(f"classify{name}", nn.Linear(k, n_classes or 1, bias=False))
        k = self._semantic_width(d + d_s)
        network.encoder = nn.Sequential(nn.Linear(k, self.bits), nn.ReLU())
        network.decoder = nn.Linear(self.bits, k)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """The side information of each class (C, k), whose mean square is one."""
        assert data.other is not None
        e = class_semantics(data, data.x, data.other)
        self.memory_["side"] = float(np.sqrt(e.shape[1])) * e

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam for the generators with the classifiers, one for the critics, one for the
        autoencoder.
        """
        parts = _PLAYERS, ("critic", "critic_x", "critic_s"), ("encoder", "decoder")
        return [self.adam(parameters_of(self, *names)) for names in parts]

    def _net(self, name: str, v: Tensor) -> Tensor:
        out: Tensor = self.network_.get_submodule(name)(v)
        return out

    def autoencoder_loss(self, batch: Batch) -> Tensor:
        """Reconstruction of the side information, and group sparsity of its inputs."""
        e = per_label(batch.labels) @ self.memory_["side"]
        rebuilt = self._net("decoder", self._net("encoder", e))
        norms = self.network_.get_parameter("encoder.0.weight").norm(dim=0).sum()
        return F.mse_loss(rebuilt, e) + self.sparsity * norms / len(e)

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Real vectors x, s and codes a, what is made of them, and what comes back."""
        assert batch.other is not None
        v = {"x": self._net("photo", batch.x), "s": self._net("sketch", batch.other)}
        with torch.no_grad():
            v["a"] = self._net("encoder", per_label(batch.labels) @ self.memory_["side"])
        for k in ("x", "s"):
            v[f"a_{k}"] = self._net(f"to_semantics_{k}", v[k])
            v[f"fake_{k}"] = self._net(f"to_{k}", v["a"])
            v[f"back_{k}"] = self._net(f"to_{k}", v[f"a_{k}"])
            v[f"back_a_{k}"] = self._net(f"to_semantics_{k}", v[f"fake_{k}"])
        return v

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What generators and classifiers minimise; see the objective."""
        return self._terms(batch, self.generate(batch))

    def _terms(self, batch: Batch, v: dict[str, Tensor]) -> dict[str, Tensor]:
        target = per_label(batch.labels)
        terms = {k: target.new_zeros(()) for k in ("adversarial", "cycle", "class", "regression")}
        for k in ("x", "s"):
            critic, common = (self.network_.get_submodule(c) for c in (f"critic_{k}", "critic"))
            fooled = deceived(common, v[f"a_{k}"]) + deceived(critic, v[f"fake_{k}"])
            closed = F.l1_loss(v[f"back_{k}"], v[k]) + F.l1_loss(v[f"back_a_{k}"], v["a"])
            read = F.cross_entropy(self._net("classify", v[f"a_{k}"]), target)
            read = read + F.cross_entropy(self._net(f"classify_{k}", v[f"fake_{k}"]), target)
            near = F.mse_loss(v["a_x"], v["a_s"]) + F.mse_loss(v[f"fake_{k}"], v[k])
            terms["adversarial"] = terms["adversarial"] + fooled
            terms["cycle"] = terms["cycle"] + self.lam * closed
            terms["class"] = terms["class"] + self.lam * read
            terms["regression"] = terms["regression"] + self.regression * self.lam * near
        return terms

    def critic_loss(self, v: dict[str, Tensor]) -> Tensor:
        """What the critics minimise on generated vectors: their errors in the three spaces."""
        net = self.network_.get_submodule
        semantic = [told_apart(net("critic"), v["a"], v[f"a_{k}"]) for k in ("x", "s")]
        domains = [told_apart(net(f"critic_{k}"), v[k], v[f"fake_{k}"]) for k in ("x", "s")]
        return 0.25 * 2 * sum(semantic, v["a"].new_zeros(())) + 0.5 * 2 * sum(domains)

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step each of the autoencoder, of the generators and of the critics."""
        side = self.autoencoder_loss(batch)
        self._descend(side, self._optimisers[2])
        v = self.generate(batch)
        terms = self._terms(batch, v)
        self._descend(sum(terms.values()), self._optimisers[0])
        critics = self.critic_loss({k: t.detach() for k, t in v.items()})
        self._descend(critics, self._optimisers[1])
        terms |= {"critics": critics, "autoencoder": side}
        return {k: float(t.detach()) for k, t in terms.items()}
