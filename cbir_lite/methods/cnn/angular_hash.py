"""Angular deep supervised hashing [108]: margins between class directions (Section IV-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork


@dataclass(kw_only=True, eq=False)
class AngularHash(DeepMethod):
    r"""Classification by angle with a margin, and class directions as far apart as codes can be.

    Outputs are compared with one direction for each class by cosine, and the right class must win
    by a margin. The class directions, squeezed by tanh, are read as codes of the
    classes: the mean of their Hamming distances is raised and its variance lowered, so that
    no two classes end up closer than others. Called ADSH by its authors, like the asymmetric one.

    :survey: Section IV-A
    :cite: zhou2019adsh
    :source: a public re-implementation (margin loss, distances of class directions, mean and
        variance, weights) and the sentences on it in a later survey
    :objective: \min\ -\mathrm{mean}_i\log\frac{e^{s(\cos\theta_{i,y_i}-m)}}
        {e^{s(\cos\theta_{i,y_i}-m)}+\sum_{c\ne y_i}e^{s\cos\theta_{i,c}}}
        -\alpha\,\mathrm{mean}_{c<c'}D_{cc'}+\beta\,\mathrm{var}_{c<c'}D_{cc'},\quad
        D_{cc'}=\tfrac12\big(K-\tanh(\hat w_c)^\top\tanh(\hat w_{c'})\big),\ \hat w=\sqrt K\,w/\|w\|
    :shapes: x (n, d), labels (n, C); z (n, bits), w (C, bits); codes int8 (n, bits)
    :defaults: s = 10, m = 0.2, alpha = beta = 1 (public re-implementation)
    :departures: the margin is taken from the cosine, as in the re-implementation, where the later
        survey speaks of a multiple of the angle; class directions have length sqrt(K) before the
        tanh, not 1, for else no entry comes near a code's and D hardly varies; images with several
        labels share the loss equally among them, each against the labels the image lacks; the
        network is replaced by a hidden layer on frozen features; Adam with cosine decay
    :fidelity: simplified
    """

    s: float = 10.0
    m: float = 0.2
    alpha: float = 1.0
    beta: float = 1.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network with ``directions`` (C, bits), one for each class."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.directions = nn.Parameter(torch.randn(n_classes, self.bits))
        return network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Margin softmax, and mean and variance of the distances between class codes."""
        w: Any = self.network_.directions
        w = F.normalize(w, dim=1)
        y = batch.labels
        cosine = F.normalize(self.network_(batch.x), dim=1) @ w.T
        # Each own label competes, with its margin, with the labels that the image does not have.
        own = self.s * (cosine - self.m)
        others = (self.s * cosine).masked_fill(y > 0, -torch.inf).logsumexp(1, keepdim=True)
        share = y / y.sum(1, keepdim=True).clamp_min(1)
        D = distances(torch.tanh(self.bits**0.5 * w))
        return {
            "margin": (share * F.softplus(others - own)).sum(1).mean(),
            "distance": -self.alpha * D.mean(),
            "variance": self.beta * D.var(correction=0),
        }


def distances(codes: Tensor) -> Tensor:
    """Hamming distances (pairs,) of all pairs c < c' of relaxed codes (C, bits)."""
    i, j = torch.triu_indices(len(codes), len(codes), offset=1)
    return (codes.shape[1] - codes @ codes.T)[i, j] / 2
