"""Cross-modal retrieval with CNN features [134]: deep semantic matching (survey Section VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class Posterior(nn.Module):
    """A classifier through a bottleneck of ``bits`` units; gives class probabilities (n, C)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, classes: int):
        super().__init__()
        self.bottleneck = HashNetwork(x, width, bits, dropout)
        self.classifier = nn.Linear(bits, classes)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores (n, C)."""
        z: Tensor = self.classifier(F.relu(self.bottleneck(x)))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Class probabilities (n, C)."""
        return F.softmax(self.logits(x), dim=1)


@dataclass(kw_only=True, eq=False)
class DeepSemanticMatching(TwoTowerMethod):
    r"""Each modality is classified on its own, and class probabilities are compared.

    Features of a pretrained network replace hand-crafted ones, and the common space is that of the
    classes: a picture and a text match if they are believed to be of the same class.

    :survey: Sections V-A, VII-A
    :cite: wei2017baseline
    :source: the survey's row
    :objective: \min\ \mathrm{CE}(y,\hat y_{img})+\mathrm{CE}(y,\hat y_{txt})
    :shapes: x (n, d), other (n, d_t), labels (n, C); descriptors float32 (n, C)
    :defaults: a bottleneck of ``bits`` units before the classifier; cosine ranks
    :departures: the network is not fine-tuned; words are multi-hot vectors
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "text"

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two classifiers."""
        size = self.width, self.bits, self.dropout, n_classes or 1
        return TwoTowers(Posterior(np.asarray(x), *size), Posterior(self._others(), *size))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of either modality; several labels share the mass."""
        assert batch.other is not None
        target = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        towers = self.network_
        assert isinstance(towers.image, Posterior)
        assert isinstance(towers.other, Posterior)
        return {
            "image": F.cross_entropy(towers.image.logits(batch.x), target),
            "text": F.cross_entropy(towers.other.logits(batch.other), target),
        }
