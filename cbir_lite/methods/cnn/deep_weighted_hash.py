"""QaDWH [220]: query-adaptive image retrieval by deep weighted hashing (survey Section VII-G)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.quantizers import class_shares
from cbir_lite.methods.triplet._triplets import ranking_loss, squared_distances


class WeightedHash(HashNetwork):
    """Trunk with a hash layer and a classifier, and class-wise weights of the bits W (C, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, n_classes: int):
        super().__init__(x, width, bits, dropout)
        self.classifier = nn.Linear(width, n_classes)
        self.W = nn.Parameter(1 + 0.1 * torch.randn(n_classes, bits))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (n, bits) and class scores (n, C)."""
        hidden = self.trunk(x)
        return self.hash_layer(hidden), self.classifier(hidden)


class QueryWeights(nn.Module):
    """Weights of the bits (n, bits) for each query: those of the classes, by their probability."""

    def __init__(self, network: WeightedHash):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Non-negative weights of a batch."""
        probability = self.network.both(x)[1].softmax(1)
        return (probability @ self.network.W).clamp_min(0)


@dataclass(kw_only=True, eq=False)
class QaDWH(DeepMethod):
    r"""Bits weigh differently for each class, and a query weighs them by what it seems to show.

    Hash layer, classifier and a table of weights, one for each class and bit, are trained
    together: triplets are compared by codes whose bits are multiplied by the weights of the image's
    class. A query gets the weights of the classes, mixed by the classifier's probabilities, and is
    compared with plain binary codes by weighted Hamming distance, which has far fewer ties.

    :survey: Section VII-G
    :cite: zhang2018qadwh
    :source: the paper's abstract and the authors' public code (layers, class-wise product and its
        average over several labels, start of the weights, sigmoid codes, margin,
        classification branch)
    :objective: \min\ \mathrm{mean}_{(a,p,n)}\max\big(0,\ m+\|\hat h_a-\hat h_p\|_2^2
        -\|\hat h_a-\hat h_n\|_2^2\big)+\mathrm{mean}_i\,\mathrm{CE}(y_i,p_i),\quad
        \hat h_i=w_{y_i}\odot\sigma(z_i);\quad
        d(q,b)=\textstyle\sum_kw_k(q)\,[q_k\ne b_k],\ w(q)=\sum_cp_c(q)\,w_c
    :shapes: x (n, d), labels (n, C); z (n, bits), W (C, bits); database int8 (n, bits), queries
        float32 (n, bits): the code times its weights
    :defaults: m = bits / 4, chosen on a held-out part of the training images: with the public
        code's m = 1 few distinct codes are left, because triplets are in order long before any bit
        crosses its threshold; weights start at 1 with deviation 0.1 (public code)
    :departures: all triplets of a batch instead of a list drawn in advance; softmax against shares
        of the labels where there are several, in the code a logistic loss of each class; triplets
        weigh twice as much beside it as in the code, and the class weights and the classifier learn
        as fast as the rest, there ten times faster; weights below zero count as zero in a
        distance; VGG-19 trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "quantization"

    margin_per_bit: float = 0.25

    @property
    def margin(self) -> float:
        """The margin, which grows with the code length."""
        return self.margin_per_bit * self.bits

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk, hash layer, classifier and class-wise weights."""
        assert n_classes is not None
        return WeightedHash(x, self.width, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplets of class-weighted codes, and classification."""
        net: Any = self.network_
        z, scores = net.both(batch.x)
        share = class_shares(batch.labels)
        weighted = (share @ net.W) * z.sigmoid()
        return {
            "triplet": ranking_loss(squared_distances(weighted), batch.similarity, self.margin),
            "softmax": F.cross_entropy(scores, share),
        }

    def encode_query(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Codes times their weights, float32 (n, bits): w(q) * q."""
        self._require_fit()
        network: Any = self.network_
        weights = self._in_blocks(QueryWeights(network), x).numpy()
        return np.asarray(weights * self.encode(x), np.float32)

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """Binary codes int8 (n, bits)."""
        return self.encode(x)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Weighted Hamming distances float32 (n_queries, n_database).

        ``queries`` are codes times weights from encode_query, ``database`` codes in {-1, +1}.
        """
        self._require_fit()
        if queries.shape[1:] != (self.bits,) or database.shape[1:] != (self.bits,):
            raise ValueError(
                f"queries must be (n, {self.bits}) from encode_query and database (n, {self.bits}) "
                f"from encode_database, got {queries.shape} and {database.shape}"
            )
        # A bit that agrees gives (w - w) / 2 = 0, one that differs (w + w) / 2 = w.
        total = np.abs(queries).sum(1, dtype=np.float32)[:, None]
        d: NDArray[np.float32] = (total - queries @ database.astype(np.float32).T) / 2
        return d
