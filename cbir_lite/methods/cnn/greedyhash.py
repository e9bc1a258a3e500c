"""GreedyHash [76]: sign forward, identity backward (survey Sections III, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


def straight_through(h: Tensor) -> Tensor:
    """sgn(h) whose gradient is that of h."""
    return h + (sign(h.detach()) - h).detach()


def cosines(a: Tensor) -> Tensor:
    """Cosine similarity (n, n) of all rows of ``a`` (n, d)."""
    unit = F.normalize(a, dim=1)
    return unit @ unit.T


@dataclass(kw_only=True, eq=False)
class GreedyHash(DeepMethod):
    r"""The task loss acts on exact codes, and its gradient passes through the sign unchanged.

    The update is the greedy step of the discrete problem; a cubic penalty keeps h near its code so
    that the gradient stays meaningful. Supervised, the task is classification of the codes by a
    linear layer. Without labels, the codes keep the pairwise cosine similarity of the pretrained
    features.

    :survey: Sections III.6, VI-A; Tables II, III
    :cite: su2018greedyhash
    :source: the paper and the authors' public code (straight-through layer, bias-free classifier,
        penalty weight, unsupervised script)
    :objective: \min\ L(\mathrm{sgn}(h))+\alpha\,\mathrm{mean}|h-\mathrm{sgn}(h)|^3,
        \quad\partial L/\partial h:=\partial L/\partial b;
        \quad L=\text{cross entropy of }Wb,\text{ or }
        \mathrm{mean}_{i<j}\big(\cos(b_i,b_j)-\cos(x_i-\bar x,x_j-\bar x)\big)^2
        \text{ without labels}
    :shapes: x (n, d), labels (n, C) or none; h (n, bits), b = sgn(h), W (C, bits);
        codes int8 (n, bits)
    :defaults: alpha = 0.1 (public code for CIFAR-10, both variants; it uses 1 on ImageNet)
    :departures: AlexNet and VGG are replaced by a hidden layer on frozen features, also in the
        unsupervised variant, which learns one linear layer in the public code; that variant takes
        all pairs of a batch instead of its two halves, and features centred at their training
        mean: raw ones are positive, so their cosines hardly differ. Images with several labels are
        classified by binary cross entropy. Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"unsupervised": {"variant": "unsupervised"}}

    alpha: float = 0.1
    variant: str = "supervised"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("supervised", "unsupervised"):
            raise ValueError(f"variant={self.variant!r}: use 'supervised' or 'unsupervised'")

    @property
    def sees(self) -> str:
        """The variant is the supervision."""
        return self.variant

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network; supervised, it also owns the classifier so that Adam trains both."""
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        if n_classes is not None:
            network.classifier = nn.Linear(self.bits, n_classes, bias=False)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Whether each image has exactly one label, which decides the kind of cross entropy.

        Without labels, the mean of the features.
        """
        if data.y is not None:
            self.memory_ = {"one_label": (data.y.sum(1) == 1).all()}
        else:
            self.memory_ = {"mean": data.x.mean(0, dtype=torch.float64).float()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The task on codes, and the cubic distance of h from them."""
        h = self.network_(batch.x)
        b = straight_through(h)
        task = self._classification(b, batch) if batch.y is not None else self._structure(b, batch)
        return {**task, "cubic": self.alpha * (h.abs() - 1).abs().pow(3).mean()}

    def _classification(self, b: Tensor, batch: Batch) -> dict[str, Tensor]:
        classifier: Any = self.network_.classifier
        logits = classifier(b)
        one_label = bool(self.memory_["one_label"])
        cross_entropy = F.cross_entropy if one_label else F.binary_cross_entropy_with_logits
        return {"cross_entropy": cross_entropy(logits, batch.labels)}

    def _structure(self, b: Tensor, batch: Batch) -> dict[str, Tensor]:
        i, j = torch.triu_indices(len(b), len(b), offset=1)
        x = (batch.x - self.memory_["mean"]).flatten(1)
        return {"cosine": (cosines(b) - cosines(x))[i, j].square().mean()}
