"""PCDH [200]: pairwise correlation discrete hashing (survey Section VI-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import Codes, sign
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.quantizers import class_shares
from cbir_lite.methods.triplet._triplets import MetricLearner, squared_distances


class DiscreteNetwork(HashNetwork):
    """Trunk, hash-like layer (tanh), discrete hash layer (signs) and a classifier of the signs."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, n_classes: int):
        super().__init__(x, width, bits, dropout)
        self.discrete = nn.Linear(bits, bits)
        self.classifier = nn.Linear(bits, n_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Hash-like outputs h of a batch, in (-1, 1)."""
        return torch.tanh(super().forward(x))

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features f (n, width), h (n, bits), and discrete b with the gradient of tanh."""
        f = self.trunk(x)
        h = torch.tanh(self.hash_layer(f))
        soft = torch.tanh(self.discrete(h))
        return f, h, soft + (sign(soft.detach()).float() - soft).detach()


class DiscreteCodes(nn.Module):
    """Inputs to the signed outputs (n, bits) of the discrete layer."""

    def __init__(self, network: DiscreteNetwork):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Before the sign."""
        z: Tensor = self.network.discrete(self.network(x))
        return z


def contrast(z: Tensor, s: Tensor, margin: float) -> Tensor:
    """Mean over pairs of s d / 2 + (1 - s) max(0, 1 - d) / 2, d = |z_i - z_j|^2 / margin."""
    d = squared_distances(z) / margin
    return 0.5 * (s * d + (1 - s) * (1 - d).clamp_min(0)).mean()


@dataclass(kw_only=True, eq=False)
class PCDH(MetricLearner):
    r"""Pairs shape the features and the hash-like outputs alike; labels are read from signs.

    The same contrastive loss is put on the deep features and on the hash-like layer after them, so
    that the correlation of pairs is kept on the way. A further layer takes signs, and its
    classifier sees nothing but those. The survey counts the system among real-valued ones, so
    images are ranked by Euclidean distance of the hash-like outputs; :meth:`encode` gives the
    discrete codes.

    :survey: Section VI-B
    :cite: chen2020pcdh
    :source: a public re-implementation (layers, contrastive loss on both, weights, margin,
        classification from signs) and the survey's sentence
    :objective: \min\ \mathrm{mean}_{i,j}\,\ell(h_i,h_j)+\alpha\,\mathrm{mean}_{i,j}\,\ell(f_i,f_j)
        +\beta\,\mathrm{mean}_i\,\mathrm{CE}(y_i,Wb_i),\quad \ell(a,c)=\tfrac{s_{ij}}{2m}\|a-c\|_2^2
        +\tfrac{1-s_{ij}}2\max\big(0,\ 1-\tfrac1m\|a-c\|_2^2\big),\ b=\mathrm{sgn}(Vh+v)
    :shapes: x (n, d), labels (n, C); f (n, width), h float32 (n, bits); discrete codes
        int8 (n, bits)
    :defaults: alpha = beta = 1, m = 2 bits (re-implementation); bits is the number of dimensions
    :departures: signs pass the gradient of a tanh, without which the classification would reach
        nothing before its own layer; pair losses are divided by the margin, and the hinge is
        not squared again, as squared distances are squared already; a convolutional network
        from scratch is replaced by a hidden layer on frozen features; Adam with cosine decay
    :fidelity: simplified
    """

    alpha: float = 1.0
    beta: float = 1.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk, hash-like layer, discrete layer and classifier."""
        assert n_classes is not None
        return DiscreteNetwork(x, self.width, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pairs of hash-like outputs, pairs of features, classification of signs."""
        network: Any = self.network_
        f, h, b = network.layers(batch.x)
        s, m = batch.similarity, 2.0 * self.bits
        scores = network.classifier(b)
        return {
            "hash_pairs": contrast(h, s, m),
            "feature_pairs": self.alpha * contrast(f, s, m),
            "classification": self.beta * F.cross_entropy(scores, class_shares(batch.labels)),
        }

    def encode(self, x: NDArray[Any]) -> Codes:
        """Discrete codes int8 (n, bits)."""
        self._require_fit()
        network: Any = self.network_
        codes: Codes = sign(self._in_blocks(DiscreteCodes(network), x)).numpy()
        return codes
