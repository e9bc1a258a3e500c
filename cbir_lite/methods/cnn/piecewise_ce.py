"""Piecewise cross entropy [221]: fine-grained retrieval (survey Sections VII-G, VIII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import MetricLearner, UnitNetwork


class ScaledClassifier(UnitNetwork):
    """Descriptors of length one, and class scores of the descriptor times a fixed length."""

    def __init__(
        self, x: NDArray[np.generic], width: int, bits: int, n_classes: int, dropout: float
    ):
        super().__init__(x, width, bits, dropout)
        self.classifier = nn.Linear(bits, n_classes)


def piecewise_cross_entropy(p: Tensor, tau: float) -> Tensor:
    """-log p below tau; above it a parabola of equal value and slope at tau, flat at p = 1."""
    above = (p - tau).clamp_min(0)
    parabola = above.square() / (2 * tau * (1 - tau)) - above / tau
    return parabola - p.clamp(1e-12, tau).log()


@dataclass(kw_only=True, eq=False)
class PiecewiseCE(MetricLearner):
    r"""Cross entropy that stops pushing images whose class is clear already.

    Where classes are hardly different, a classifier that becomes ever more certain of its training
    images learns what does not carry over. Below a threshold the loss is the usual cross entropy;
    above it a softer piece goes on whose pull fades to nothing at certainty. Descriptors are
    normalised and scaled before they are classified, and ranked by distance without the classifier.

    Real-valued: ``bits`` is the number of dimensions, each a float32.

    :survey: Sections VII-G, VIII-A
    :cite: zeng2020pce
    :source: the survey's sentences, the paper's abstract (a variant of cross entropy, beside a
        layer that normalises and scales) and one sentence of a later survey (the confidence of the
        model is reduced); no formula was found, so the second piece is chosen here
    :objective: \min\ \sum_i\ell(p_i),\quad \ell(p)=-\log p\text{ if }p\le\tau,
        \quad -\log\tau-\frac{p-\tau}{\tau}+\frac{(p-\tau)^2}{2\tau(1-\tau)}\text{ if }p>\tau,
        \quad p_i=\sum_{c\in y_i}\mathrm{softmax}_c(Wsf_i)
    :shapes: x (n, d), labels (n, C); f float32 (n, bits), of length one
    :defaults: tau = 0.5 and a length s = 10, chosen here
    :departures: form and threshold of the second piece are not the paper's, which was not
        available; the probability of any of an image's labels where it has several; the network
        trained end to end is replaced by a hidden layer on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    tau: float = 0.5
    scale: float = 10.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Descriptors of length one and their classifier."""
        assert n_classes is not None
        return ScaledClassifier(x, self.width, self.bits, n_classes, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Piecewise cross entropy of the probability of a row's own labels, averaged."""
        network: Any = self.network_
        scores = network.classifier(self.scale * network(batch.x))
        p = (scores.softmax(1) * batch.labels).sum(1)
        return {"classification": piecewise_cross_entropy(p, self.tau).mean()}
