"""ACMR [143]: adversarial cross-modal retrieval (survey Sections V-D, VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.cross_modal._shared import Adversarial, cross_triplet
from cbir_lite.methods.deep import Batch


@dataclass(kw_only=True, eq=False)
class ACMR(Adversarial):
    r"""A feature projector plays against a classifier of modalities.

    Both modalities are projected into one space. There, class labels must be readable from either
    one, items of one class must be nearer than items of others across modalities, and a second
    network must not be able to tell pictures from words.

    :survey: Sections V-D, VII-A
    :cite: wang2017acmr
    :source: the paper's objective as restated by later papers and the survey's row; a public copy
        of the code (BMC-SDNU/Cross-Modal-Retrieval), which reverses the judge's gradient and lets
        it grow in training, but whose optimisers never hand it to the projector, and which leaves
        the classifier of labels as it was drawn
    :objective: \min_f\max_D\ L_{label}+\alpha L_{triplet}-\beta L_{modality}(D)
    :shapes: x (n, d), other (n, d_t), labels (n, C); outputs float32 (n, bits)
    :defaults: alpha = 1, margin 1 on squared distances of unit vectors, beta = confusion = 0.1
    :departures: inputs are frozen features and word vectors; the triplets are all those of 32
        anchors of a batch, in the code a hard negative for each pair and margin 0.1; here the
        projector does descend against the judge, with a weight that stays the same; the judge
        takes one step for each step of the projector
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "text"

    alpha: float = 1.0
    margin: float = 1.0
    anchors: int = 32

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Towers, judge and the classifier that both modalities share."""
        network = super().build(x, n_classes)
        network.classifier = nn.Linear(self.bits, n_classes or 1)
        return network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Label prediction from both modalities, and triplets across them in both directions."""
        v, t = self.judged(batch)
        classifier = self.network_.get_submodule("classifier")
        target = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        label = F.cross_entropy(classifier(v), target) + F.cross_entropy(classifier(t), target)
        distance = 2 - 2 * F.normalize(v, dim=1) @ F.normalize(t, dim=1).T
        # Rows of a batch are in random order, so its first are a random choice.
        s, few = batch.similarity, slice(0, self.anchors)
        triplet = cross_triplet(distance[few], s[few], self.margin) + cross_triplet(
            distance.T[few], s[few], self.margin
        )
        return {"label": label, "triplet": self.alpha * triplet}
