"""PTS3H [171]: pairwise teacher-student network, semi-supervised (survey Section IV-C)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


class Networks(nn.Module):
    """A student, and a teacher of the same shape that no gradient reaches; calling it gives z."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.student = HashNetwork(x, width, bits, dropout)
        self.teacher = HashNetwork(x, width, bits, dropout).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """The student's z (n, bits)."""
        z: Tensor = self.student(x)
        return z

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """The teacher's weights move towards the student's."""
        for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.lerp_(s, 1 - decay)


@dataclass(kw_only=True, eq=False)
class PTS3H(DeepMethod):
    r"""A slow copy of the network says which unlabelled pairs are alike, and the network follows.

    The student learns pair labels where there are any. The teacher is the average of the student's
    weights over the last steps. Both see every image of a batch under different noise, and for
    every pair, labelled or not, the student's similarity is pulled to the teacher's. The weight of
    this term grows from nearly nothing, as the teacher knows little at first.

    :survey: Section IV-C
    :cite: zhang2019ptsh
    :source: the paper's abstract and a summary of it (pairwise information of the teacher,
        consistent distances of pairs); full text and code were not found. Averaged weights and the
        ramp are the usual ones of teacher-student training
    :objective: \min\ -\sum_{i\ne j\in\mathcal L}\big(s_{ij}\Theta_{ij}-\log(1+e^{\Theta_{ij}})\big)
        +\eta\sum_i\|b_i-z_i\|_2^2+\lambda(t)\sum_{i\ne j}\big(S_{ij}-S'_{ij}\big)^2,\quad
        \Theta_{ij}=\tfrac12 z_i^\top z_j,\ S_{ij}=\sigma(\Theta_{ij}),\
        S'\text{ by the teacher},\ \theta'\leftarrow\alpha\theta'+(1-\alpha)\theta
    :shapes: x (n, d), labels (n, C) with zero rows where hidden; z (n, bits); S (B, B); codes int8
        (n, bits)
    :defaults: decay alpha = 0.99, lam = 10 times exp(-5 (1 - t)^2), t the share of a third of the
        epochs that has passed; eta = 0.1 beside means over pairs, images and bits; all chosen here
    :departures: the supervised pair loss and how S is measured are chosen here; the noise is
        dropout on frozen features, where a network on images also has random crops and mirroring;
        the student's codes are used
    :fidelity: sketch
    """

    supervision: ClassVar[str] = "semi-supervised"

    lam: float = 10.0
    eta: float = 0.1
    decay: float = 0.99

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Student and teacher, equal at first."""
        return Networks(x, self.width, self.bits, self.dropout)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The weight of consistency: up in the first third of the epochs, then constant."""
        t = min(1.0, epoch / max(1.0, self.epochs / 3))
        self.lam_ = self.lam * math.exp(-5 * (1 - t) ** 2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood of labelled pairs, quantization, and consistency of all pairs."""
        net: Any = self.network_
        z = net.student(batch.x)
        with torch.no_grad():
            z_teacher = net.teacher(batch.x)
        theta, theta_teacher = (0.5 * v @ v.T for v in (z, z_teacher))
        others = 1 - torch.eye(len(z))
        known = (batch.labels.sum(1) > 0).float()
        pairs = known[:, None] * known * others
        s = batch.similarity
        gap = theta.sigmoid() - theta_teacher.sigmoid()
        return {
            "likelihood": ((F.softplus(theta) - s * theta) * pairs).sum()
            / pairs.sum().clamp_min(1),
            "quantization": self.eta * (z - sign(z.detach())).square().mean(),
            "consistency": self.lam_ * (gap.square() * others).sum() / others.sum(),
        }

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the student, after which the teacher follows."""
        terms = super().training_step(batch)
        net: Any = self.network_
        net.follow(self.decay)
        return terms
