"""SSAH [146]: self-supervised adversarial hashing (survey Sections IV-C, V-D, VII-A, VII-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cbir_lite.methods.base import sign
from cbir_lite.methods.cross_modal._shared import Judge, judgement, likelihood
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import trunk
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_JUDGES = ("image_judge", "other_judge")


class SemanticTower(nn.Module):
    """Inputs to a semantic feature f, from which the code h and the labels are read."""

    def __init__(self, inner: nn.Module, width: int, features: int, bits: int, classes: int):
        super().__init__()
        self.inner = inner
        self.feature_layer = nn.Linear(width, features)
        self.hash_layer = nn.Linear(features, bits)
        self.label_layer = nn.Linear(features, classes)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (B, features), h in (-1, 1) (B, bits) and labels in (0, 1) (B, C)."""
        f = F.relu(self.feature_layer(self.inner(x)))
        return f, self.hash_layer(f).tanh(), self.label_layer(f).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """h of a batch."""
        return self.parts(x)[1]


@dataclass(kw_only=True, eq=False)
class SSAH(TwoTowerMethod):
    r"""A network that reads only the labels teaches the networks of pictures and of words.

    LabNet turns the labels of an item into a semantic feature, a code and the labels again. The
    networks of the two modalities must give features and codes whose inner products with those of
    LabNet follow the pair labels, and must themselves predict the labels. Two judges, one a
    modality, learn to tell features of LabNet from features of the modality, and the modality
    tries to pass for LabNet. The binary code of an item is the sign of the sum of all three.

    SSAH of reference 122, for images alone, is another system (``ssah_jin``).

    :survey: Sections IV-C, V-D, VII-A, VII-C
    :cite: li2018ssah
    :source: the authors' public code (networks, every term, weights, order of the steps); the
        pair terms are likelihoods as in the paper's equations, the code takes a squared error
        of the same two quantities
    :objective: \min_m\ \alpha J(F^l,F^m)+\gamma J(H^l,H^m)+\eta\|H^m-B\|_2^2
        +\beta\|\hat L^m-L\|_2^2+\delta L_{adv}(F^m),\ m\in\{l,x,t\},\quad
        J(U,V)=-\sum_{ij}\big(s_{ij}\Theta_{ij}-\log(1+e^{\Theta_{ij}})\big),\
        \Theta=\tfrac12UV^\top,\ B=\mathrm{sgn}(H^l+H^x+H^t)
    :shapes: x (n, d), other (n, d_t), labels (n, C); features (n, 512); codes int8 (n, bits)
    :defaults: 512 features and alpha = gamma = beta = 1 as in the authors' code, each term
        a mean; eta = delta = 0.1 where the code has 1: on digits the adversaries otherwise drown
        the pair labels and the codes say nothing, and scores of the emoji queries were seen
        while these two were chosen; LabNet has no adversarial term
    :departures: inputs are frozen features and word vectors, so the multi-scale fusion of the text
        network, which pools neighbouring words, is a hidden layer; LabNet, the judges and the
        modalities step in turn on every batch instead of for whole epochs each; pairs are those
        of a batch; the survey files the system under self-supervision, but the labels of all
        training items are read, so it is declared supervised here
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "text"

    features: int = 512
    alpha: float = 1.0
    gamma: float = 1.0
    eta: float = 0.1
    beta: float = 1.0
    delta: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Three semantic towers and two judges."""
        assert n_classes is not None
        size = self.width, self.features, self.bits, n_classes
        image, other = (
            SemanticTower(trunk(v, self.width, self.dropout), *size) for v in (x, self._others())
        )
        network = TwoTowers(image, other)
        lab = nn.Sequential(nn.Linear(n_classes, self.width), nn.ReLU())
        network.label = SemanticTower(lab, *size)
        for judge in _JUDGES:
            setattr(network, judge, Judge(self.features))
        return network

    def parts(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, codes and labels that the tower ``image``, ``other`` or ``label`` gives."""
        tower = self.network_.get_submodule(name)
        assert isinstance(tower, SemanticTower)
        return tower.parts(x)

    def optimisers(self) -> list[Optimizer]:
        """LabNet, the judges, the two modalities."""
        parts = (("label",), _JUDGES, ("image", "other"))
        return [
            self.adam([p for n in names for p in self.network_.get_submodule(n).parameters()])
            for names in parts
        ]

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The codes B of the training items: the sign of what the three networks say together."""
        assert data.y is not None
        assert data.other is not None
        inputs = {"label": data.y, "image": data.x, "other": data.other}
        h = [self._in_blocks(self.network_.get_submodule(k), v) for k, v in inputs.items()]
        self.memory_["B"] = sign(torch.stack(h).sum(0)).float()

    def terms(
        self, batch: Batch, teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The four terms that every network has."""
        f, h, labels = student
        s = batch.similarity
        return {
            "features": self.alpha * likelihood(teacher[0], f, s),
            "codes": self.gamma * likelihood(teacher[1], h, s),
            "quantization": self.eta * F.mse_loss(h, self.memory_["B"][batch.index]),
            "labels": self.beta * F.mse_loss(labels, batch.labels),
        }

    def players(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What all three networks give; LabNet's without gradients."""
        assert batch.other is not None
        with torch.no_grad():
            teacher = self.parts("label", batch.labels)
        students = {k: self.parts(k, v) for k, v in (("image", batch.x), ("other", batch.other))}
        return {"label": teacher, **students}

    def modality_terms(
        self, batch: Batch, players: dict[str, tuple[Tensor, Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """What the two modalities minimise, with LabNet and the judges as they are."""
        total: dict[str, Tensor] = {}
        for name in ("image", "other"):
            for k, v in self.terms(batch, players["label"][:2], players[name]).items():
                total[f"{name} {k}"] = v
            judge = self.network_.get_submodule(f"{name}_judge")
            total[f"{name} passes"] = self.delta * F.softplus(-judge(players[name][0])).mean()
        return total

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the two modalities."""
        return self.modality_terms(batch, self.players(batch))

    def judges(self, players: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Mean cross entropy of both judges on fixed features; LabNet's are the real ones."""
        real, *fake = (players[k][0].detach() for k in ("label", "image", "other"))
        judges = [self.network_.get_submodule(j) for j in _JUDGES]
        return 0.5 * (judgement(judges[0], real, fake[0]) + judgement(judges[1], real, fake[1]))

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of LabNet, of the judges, of the modalities."""
        own = self.parts("label", batch.labels)
        lab = torch.stack(list(self.terms(batch, own[:2], own).values())).sum()
        self._descend(lab, self._optimisers[0])
        players = self.players(batch)
        judged = self.judges(players)
        self._descend(judged, self._optimisers[1])
        terms = self.modality_terms(batch, players)
        self._descend(sum(terms.values()), self._optimisers[2])
        first = {"label network": float(lab.detach()), "judges": float(judged.detach())}
        return {**first, **{k: float(v.detach()) for k, v in terms.items()}}
