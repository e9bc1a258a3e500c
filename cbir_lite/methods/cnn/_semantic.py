"""Hash layers below a classifier: codes from which the labels can be read off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


@dataclass(kw_only=True, eq=False)
class LatentLayer(DeepMethod):
    """A hash layer and a linear classifier on top of it, learned together."""

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network with ``classifier`` (bits to C), so that Adam trains both."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.classifier = nn.Linear(self.bits, n_classes)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Whether each image has exactly one label, which decides the kind of cross entropy."""
        assert data.y is not None
        self.memory_ = {"one_label": (data.y.sum(1) == 1).all()}

    def classification(self, a: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the classifier on latent activations a (B, bits).

        Softmax where all images have one label, else one logistic term a class, averaged.
        """
        classifier: Any = self.network_.classifier
        one_label = bool(self.memory_["one_label"])
        cross_entropy = F.cross_entropy if one_label else F.binary_cross_entropy_with_logits
        value: Tensor = cross_entropy(classifier(a), labels)
        return value
