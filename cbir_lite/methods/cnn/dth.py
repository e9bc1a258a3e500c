"""DTH [225]: deep transfer hashing (survey Sections VIII-C and IX, Table II)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


class StudentAndTeacher(nn.Module):
    """Two hash networks with classifiers on their relaxed codes; z (n, bits) is the student's."""

    def __init__(self, student: nn.Module, teacher: nn.Module, bits: int, classes: int):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.student_classifier = nn.Linear(bits, classes)
        self.teacher_classifier = nn.Linear(bits, classes)

    def forward(self, x: Tensor) -> Tensor:
        """z of the student."""
        z: Tensor = self.student(x)
        return z

    def student_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and class logits of the student."""
        z = self.student(x)
        return z, self.student_classifier(torch.tanh(z))

    def teacher_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and class logits of the teacher."""
        z = self.teacher(x)
        return z, self.teacher_classifier(torch.tanh(z))


@dataclass(kw_only=True, eq=False)
class DTH(DeepMethod):
    r"""A small hash network learns from a large one instead of from one-hot labels alone.

    First the teacher learns hash layer and classifier from the labels. Then it is frozen and
    the student learns: it classifies, its pairs follow the similarity of what the
    teacher knows about the two images (the cosine of its class probabilities, which is graded
    where labels only say yes or no), and its hash layer is drawn to the bit probabilities of
    the teacher's. Only the student makes codes.

    :survey: Sections VIII-C, IX; Table II
    :cite: zhai2021dth
    :source: the paper's abstract (teacher's knowledge as supervision, its distance as similarity,
        matching of both hash layers) and a third party's unfinished code (teacher by cross
        entropy; student by cross entropy and the cross entropy of sigmoids)
    :objective: \min_{T}\ \mathrm{CE}(y,W_Th^T)+\lambda\||h^T|-\mathbf1\|_2^2;\quad\text{then}\
        \min_{S}\ \mathrm{CE}(y,W_Sh)+\alpha\sum_{i\ne j}\big(\log(1+e^{\Theta_{ij}})
        -s^T_{ij}\Theta_{ij}\big)+\beta\sum_i\sum_k\mathrm{KL}\big(\tfrac12(1+h^T_{ik})\,\big\|\,
        \tfrac12(1+h_{ik})\big),\quad h=\tanh(z),\ \Theta_{ij}=\tfrac12h_i^\top h_j,
        \ s^T_{ij}=\cos(p^T_i,p^T_j)
    :shapes: x (n, d), labels (n, C); z and h (n, bits), p (n, C); codes sgn(z), int8 (n, bits)
    :defaults: alpha = beta = 1, lambda = 0.1, sums averaged over images, pairs and outputs, the
        divergence summed over bits; the teacher takes the first third of the epochs and is twice as
        wide as the student
    :departures: the exact losses and weights of the paper were not available. Teacher and student
        are hidden layers of two widths on the same frozen features instead of a large and a small
        CNN; Adam, with a cosine decay of its own for each phase; images with several labels
        are classified by one logistic term a class
    :fidelity: sketch
    """

    alpha: float = 1.0
    beta: float = 1.0
    lam: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Student of the usual width, teacher of twice that width."""
        assert n_classes is not None
        return StudentAndTeacher(
            HashNetwork(x, self.width, self.bits, self.dropout),
            HashNetwork(x, 2 * self.width, self.bits, self.dropout),
            self.bits,
            n_classes,
        )

    @property
    def teacher_epochs(self) -> int:
        """Epochs of the first phase: a third, but at least one if there are two."""
        return max(self.epochs // 3, min(1, self.epochs - 1))

    def start_fit(self, data: TrainingData) -> None:
        """Whether each image has exactly one label, and whose turn it is."""
        assert data.y is not None
        one_label = (data.y.sum(1) == 1).all()
        self.memory_ = {"one_label": one_label, "teacher_learns": torch.tensor(True)}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The teacher first, then the student."""
        self.memory_["teacher_learns"] = torch.tensor(epoch < self.teacher_epochs)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam for the teacher, one for the student."""
        network: Any = self.network_
        return [
            self.adam([*network.teacher.parameters(), *network.teacher_classifier.parameters()]),
            self.adam([*network.student.parameters(), *network.student_classifier.parameters()]),
        ]

    def _anneal(self, epoch: int) -> None:
        first = self.teacher_epochs
        start, length = (0, first) if epoch < first else (first, self.epochs - first)
        super()._anneal((epoch - start) * self.epochs // length)

    def training_step(self, batch: Batch) -> dict[str, float]:
        """One step of the network whose turn it is."""
        terms = self.loss(batch)
        turn = 0 if bool(self.memory_["teacher_learns"]) else 1
        self._descend(sum(terms.values()), self._optimisers[turn])
        return {k: float(v.detach()) for k, v in terms.items()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the network whose turn it is."""
        if bool(self.memory_["teacher_learns"]):
            return self.teacher_loss(batch)
        return self.student_loss(batch)

    def teacher_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification and quantization of the teacher."""
        network: Any = self.network_
        z, logits = network.teacher_outputs(batch.x)
        return {
            "teacher_classification": self._cross_entropy(logits, batch.labels),
            "teacher_quantization": self.lam * (torch.tanh(z).abs() - 1).square().mean(),
        }

    def student_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification, pairs at the teacher's similarity, and match of the hash layers."""
        network: Any = self.network_
        z, logits = network.student_outputs(batch.x)
        z_teacher, s = self.knowledge(batch.x)
        h = torch.tanh(z)
        i, j = torch.triu_indices(len(h), len(h), offset=1)
        theta = 0.5 * (h @ h.T)[i, j]
        # A bit is on with probability (1 + tanh z) / 2, which is the sigmoid of 2 z.
        p = torch.sigmoid(2 * z_teacher)
        cross = F.binary_cross_entropy_with_logits(2 * z, p, reduction="none")
        divergence = (cross - F.binary_cross_entropy(p, p, reduction="none")).sum(1).mean()
        return {
            "classification": self._cross_entropy(logits, batch.labels),
            "similarity": self.alpha * (F.softplus(theta) - s[i, j] * theta).mean(),
            "transfer": self.beta * divergence,
        }

    @torch.no_grad()
    def knowledge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, bits) of the teacher and the similarities s (B, B) in [0, 1] it sees."""
        network: Any = self.network_
        was_training = network.teacher.training
        network.teacher.eval()
        z, logits = network.teacher_outputs(x)
        network.teacher.train(was_training)
        one_label = bool(self.memory_["one_label"])
        p = F.normalize(logits.softmax(1) if one_label else logits.sigmoid(), dim=1)
        return z, (p @ p.T).clamp(0, 1)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        one_label = bool(self.memory_["one_label"])
        return (F.cross_entropy if one_label else F.binary_cross_entropy_with_logits)(
            logits, labels
        )
