"""DPQ [105]: deep product quantization (survey Section IV-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import trunk
from cbir_lite.methods.quantizers import (
    LookUpMethod,
    class_shares,
    concatenate_words,
    squared_distances,
)


class Assignment(nn.Module):
    """Trunk, M parts of N outputs, and for each part its own layer to K words: (n, M, K)."""

    def __init__(self, x: NDArray[Any], width: int, dropout: float, M: int, N: int, K: int):
        super().__init__()
        self.trunk = trunk(x, width, dropout)
        self.parts = nn.Sequential(nn.Linear(width, M * N), nn.ReLU(), nn.Unflatten(1, (M, N)))
        self.weight = nn.Parameter(torch.randn(M, N, K) / N**0.5)
        self.bias = nn.Parameter(torch.zeros(M, 1, K))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the words of each codebook."""
        parts = self.parts(self.trunk(x)).transpose(0, 1)
        return (parts @ self.weight + self.bias).transpose(0, 1)


class ProductNetwork(nn.Module):
    """Assignment, codebooks C (M, K, D), classifier and centres O (n_classes, R)."""

    def __init__(self, assignment: Assignment, M: int, K: int, D: int, n_classes: int):
        super().__init__()
        self.assignment = assignment
        self.C = nn.Parameter(torch.randn(M, K, D) / D**0.5)
        self.classifier = nn.Linear(M * D, n_classes)
        self.O = nn.Parameter(torch.zeros(n_classes, M * D))

    def combine(self, p: Tensor) -> Tensor:
        """Words averaged by weights p (n, M, K), side by side: (n, R)."""
        return (p.transpose(0, 1) @ self.C).transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """The soft representation (n, R)."""
        return self.combine(self.assignment(x).softmax(2))


@dataclass(kw_only=True, eq=False)
class DPQ(LookUpMethod):
    r"""Product quantization learned end to end, by a soft and a hard representation at once.

    For each of M parts a softmax chooses among the words of a codebook. The soft representation
    averages the words by these probabilities, the hard one takes the most probable word, with the
    gradient passed straight through. One classifier reads both and one centre of each class
    attracts both, which keeps them alike. Two penalties from the Gini impurity ask that all
    words are used over a batch and that each image is sure of its own. The database stores the
    hard word numbers, a query its soft representation, compared through look-up tables.

    :survey: Section IV-A
    :cite: klein2019dpq
    :source: a summary of the paper (terms, straight-through estimator, weight of the central loss),
        a later survey of deep hashing (architecture) and two public re-implementations (central
        loss, weights of the Gini terms)
    :objective: \min\ \mathrm{CE}(y,W\,\mathrm{soft})+\mathrm{CE}(y,W\,\mathrm{hard})
        +\tfrac{\lambda}2\,\mathrm{mean}_i\big(\|\mathrm{soft}_i-O_{y_i}\|_2^2
        +\|\mathrm{hard}_i-O_{y_i}\|_2^2\big)+\gamma\sum_m\big(
        \textstyle\sum_k\bar p_{mk}^2-\mathrm{mean}_i\sum_kp_{imk}^2\big);\quad
        \mathrm{soft}_m=\sum_kp_mk C_{mk},\ \mathrm{hard}_m=C_{m,\arg\max_kp_{mk}}
    :shapes: x (n, d), labels (n, C); p (n, M, K), K = 2^(bits/M); soft, hard (n, R); database
        uint8 (n, M), queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 256 (cut to a multiple of M), parts of 64 outputs,
        lambda = 0.1 (paper), gamma = 1e-3 (a re-implementation); squared Euclidean distance
    :departures: the sizes are this package's; the network in front is a hidden layer on frozen
        features instead of one trained end to end; the centre of a row with several labels is
        the mean of theirs; Adam with cosine decay; no normalisation of parts, which the paper
        uses across domains
    :fidelity: simplified
    """

    dim: int = 256
    parts: int = 64
    lam: float = 0.1
    gamma: float = 1e-3

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Assignment to words, codebooks, classifier and centres."""
        assert n_classes is not None
        assignment = Assignment(x, self.width, self.dropout, self.M, self.parts, self.K)
        return ProductNetwork(assignment, self.M, self.K, self.R // self.M, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Two classifications, the joint central loss and the two Gini terms."""
        net: Any = self.network_
        p = net.assignment(batch.x).softmax(2)
        one_hot = F.one_hot(p.argmax(2), self.K).float()
        soft, hard = net.combine(p), net.combine(p + (one_hot - p).detach())
        share = class_shares(batch.labels)
        centre = share @ net.O
        distance = (soft - centre).square().sum(1) + (hard - centre).square().sum(1)
        return {
            "soft": F.cross_entropy(net.classifier(soft), share),
            "hard": F.cross_entropy(net.classifier(hard), share),
            "central": 0.5 * self.lam * distance.mean(),
            "gini_batch": self.gamma * p.mean(0).square().sum(),
            "gini_sample": -self.gamma * p.square().sum((1, 2)).mean(),
        }

    def find_words(self, z: Tensor) -> Tensor:
        """The most probable words of logits (n, M, K)."""
        return z.argmax(2)

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """Word numbers uint8 (n, M), of which each takes bits / M bits."""
        self._require_fit()
        logits = self._in_blocks(self.network_.get_submodule("assignment"), x)
        return self.find_words(logits).numpy().astype(np.uint8)

    def tables(self, z: Tensor) -> Tensor:
        """Squared distances of parts of queries and words."""
        return squared_distances(z, self._codebooks())

    def reconstruct(self, words: NDArray[Any]) -> NDArray[np.float32]:
        """Hard representations float32 (n, R) of word numbers (n, M)."""
        b = torch.from_numpy(words.astype(np.int64))
        hard: NDArray[np.float32] = concatenate_words(b, self._codebooks()).numpy()
        return hard

    def _codebooks(self) -> Tensor:
        self._require_fit()
        return self.network_.get_parameter("C").detach()
