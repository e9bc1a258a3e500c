"""Hashing with k-means pseudo labels [176], [177] (survey Section IV-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._pseudo import directions, k_means, nearest_centres
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


@dataclass(kw_only=True, eq=False)
class PseudoLabelKMeans(DeepMethod):
    r"""Clusters of the pretrained features serve as classes; the codes are to tell them apart.

    K-means runs once, before training. The network then learns as a supervised one would: a linear
    classifier reads the cluster from the relaxed code, and a second term pulls the relaxed code
    to its signs. What the clusters get wrong is learned as well.

    :survey: Section IV-C
    :cite: hu2017pseudo
    :source: the abstract of [176] (k-means labels, classification loss, quantization loss), a later
        survey's summary of it, and the survey's sentence on [176] and [177]
    :objective: \min\ \mathrm{mean}_i\,\mathrm{CE}\big(c_i,\,Wh_i+a\big)
        +\frac\lambda K\,\mathrm{mean}_i\|h_i-\mathrm{sgn}(h_i)\|^2,
        \quad h=\tanh(z),\ c=\text{k-means}(\phi(X))
    :shapes: x (n, d); W (clusters, bits); h (n, bits); codes int8 (n, bits)
    :defaults: 20 clusters (of 10 and 100, the fewer did better on a held-out part of the training
        images; the number should not have to equal that of the classes), lam = 0.1; the
        paper's values were not available; k-means on features that are centred and of unit length
    :departures: the CNN trained end to end is replaced by a hidden layer on frozen features, whose
        clusters are the labels; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "pseudo-supervised"

    clusters: int = 20
    lam: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network with ``classifier`` (bits to clusters), so that Adam trains both."""
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.classifier = nn.Linear(self.bits, self.clusters)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Centres of the clusters."""
        mean = data.x.mean(0)
        centres = k_means(directions(data.x, mean), self.clusters, self._generator(self.epochs))
        self.memory_ = {"mean": mean, "centres": centres}

    def pseudo_labels(self, x: Tensor) -> Tensor:
        """The cluster of each row of x (n, d), int64 (n,)."""
        return nearest_centres(directions(x, self.memory_["mean"]), self.memory_["centres"])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification of relaxed codes, and their distance from the signs."""
        classifier: Any = self.network_.classifier
        h = torch.tanh(self.network_(batch.x))
        return {
            "classification": F.cross_entropy(classifier(h), self.pseudo_labels(batch.x)),
            "quantization": self.lam * (h - sign(h.detach())).square().mean(),
        }
