"""WMDRH [109]: weighted multi-deep ranking supervised hashing (survey Section IV-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.quantizers import class_shares


class Tables(HashNetwork):
    """A trunk, a hash layer for each table side by side, and a classifier of each table's bits."""

    def __init__(
        self,
        x: NDArray[np.generic],
        width: int,
        bits: int,
        tables: int,
        n_classes: int,
        dropout: float,
    ):
        super().__init__(x, width, bits, dropout)
        self.classifiers = nn.ModuleList(
            nn.Linear(bits // tables, n_classes) for _ in range(tables)
        )


def bit_weights(b: NDArray[Any]) -> NDArray[np.float64]:
    """Weights (K,) of the bits of one table, with mean one, from its codes b (n, K).

    A bit counts by the information it holds, the entropy of its values, times its diversity, one
    minus the mean size of its correlations with the other bits.
    """
    n, K = b.shape
    p = np.clip((b == 1).mean(0), 1e-12, 1 - 1e-12)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    centred = b - b.mean(0)
    deviation = np.maximum(centred.std(0), 1e-12)
    correlation = np.abs(centred.T @ centred / n / np.outer(deviation, deviation))
    others = (correlation.sum(0) - correlation.diagonal()) / max(1, K - 1)
    w = np.maximum(entropy * (1 - others), 0)
    return w * K / w.sum() if w.sum() > 0 else np.ones(K)


def weighted_hamming(
    q: NDArray[Any], b: NDArray[Any], w: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Sums (n_q, n_b) of the weights w (bits,) of the bits in which codes q and b differ."""
    w = w.astype(np.float32)
    d: NDArray[np.float32] = (w.sum() - (q * w) @ b.T.astype(np.float32)) / 2
    return d


def mean_average_precision(d: NDArray[np.float32], relevant: NDArray[np.bool_]) -> float:
    """mAP of rankings by distances d (n_q, n), queries without a relevant item left out."""
    hits = np.take_along_axis(relevant, np.argsort(d, 1, kind="stable"), 1)
    found = hits.sum(1)
    precision = hits.cumsum(1) / np.arange(1, d.shape[1] + 1)
    ap = (precision * hits).sum(1) / np.maximum(found, 1)
    return float(ap[found > 0].mean()) if (found > 0).any() else 0.0


@dataclass(kw_only=True, eq=False)
class WMDRH(DeepMethod):
    r"""Several short hash tables instead of one long code, bits and tables weighted by their worth.

    Each table is a hash layer with a loss of its own: pairs are penalised the more, the farther
    apart similar and the nearer together dissimilar ones are, and the table's bits must tell the
    classes. After training a bit is weighted by its information and its difference from the other
    bits of its table, a table by the mean average precision that it reaches alone on training
    images. Rankings add the weighted distances of all tables.

    :survey: Section IV-A
    :cite: li2020wmdrh
    :source: the paper's abstract, which names these parts but gives no formula
    :objective: \min\ \sum_t\Big[\mathrm{mean}_{s_{ij}=1}\big(\tfrac{d^t_{ij}}{K}\big)^2
        +\mathrm{mean}_{s_{ij}=0}\big(\tfrac{\max(0,K/2-d^t_{ij})}{K/2}\big)^2
        +\mathrm{CE}(y,W_th^t)\Big],\quad d^t_{ij}=\tfrac12(K-h_i^{t\top}h^t_j),\ h=\tanh z;
        \quad d(q,b)=\textstyle\sum_t\alpha_t\sum_kw_{tk}[q_{tk}\ne b_{tk}]
    :shapes: x (n, d), labels (n, C); h^t (n, K), K = bits / tables; codes int8 (n, bits), the
        tables one after the other
    :defaults: 2 tables, 500 training images as queries of a table's precision, all chosen here
    :departures: the forms of the ranking loss, of information and of diversity are not the paper's,
        which was not available; all tables share one trunk and are trained together; the network
        trained end to end is replaced by a hidden layer on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    descriptor: ClassVar[str] = "quantization"

    tables: int = 2
    queries: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tables < 1 or self.bits % self.tables:
            raise ValueError(f"bits={self.bits} must be a multiple of tables={self.tables}")

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The tables and their classifiers."""
        assert n_classes is not None
        return Tables(x, self.width, self.bits, self.tables, n_classes, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking of pairs i != j and classification, summed over tables."""
        network: Any = self.network_
        h = torch.tanh(network(batch.x))
        s = batch.similarity
        similar, dissimilar = s - torch.eye(len(s)) * s, 1 - s
        share = class_shares(batch.labels)
        K = self.bits // self.tables
        near = far = classes = torch.zeros(())
        for ht, classifier in zip(h.split(K, 1), network.classifiers, strict=True):
            d = (K - ht @ ht.T) / 2
            near = near + (similar * (d / K).square()).sum() / similar.sum().clamp_min(1)
            short = (1 - d / (K / 2)).clamp_min(0)
            far = far + (dissimilar * short.square()).sum() / dissimilar.sum().clamp_min(1)
            classes = classes + F.cross_entropy(classifier(ht), share)
        return {"similar": near, "dissimilar": far, "classification": classes}

    def fit(self, split: Split, **loop: Any) -> Self:
        """Train the tables, then weigh bits and tables on the training images."""
        super().fit(split, **loop)
        b = self.encode(split.x)
        rows = np.random.default_rng(self.seed).permutation(len(b))[: self.queries]
        y = split.labels.astype(np.int64)
        itself = np.arange(len(rows)), rows
        relevant = y[rows] @ y.T > 0
        relevant[itself] = False
        weights = []
        for table in np.split(b, self.tables, 1):
            w = bit_weights(table)
            d = weighted_hamming(table[rows], table, w)
            d[itself] = np.inf
            weights.append(w * mean_average_precision(d, relevant))
        self.weights_: NDArray[np.float32] = np.concatenate(weights).astype(np.float32)
        return self

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Weighted Hamming distances float32 (n_queries, n_database) of codes int8 (n, bits)."""
        self._require_fit()
        return weighted_hamming(queries, database, self.weights_)
