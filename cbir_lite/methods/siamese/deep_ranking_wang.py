"""Deep ranking [62]: fine-grained similarity (survey Sections III.2, V-C.1, VII-G)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.triplet._triplets import MetricLearner, UnitNetwork, squared_distances


def relevance(x: Tensor, s: Tensor) -> Tensor:
    """r (B, B): the cosine of two rows of centred features x (B, d) of one class, 0 otherwise.

    Negative cosines and the diagonal are 0 too.
    """
    unit = F.normalize(x)
    return (unit @ unit.T).clamp_min(0) * s * (1 - torch.eye(len(x)))


def sample_triplets(
    r: Tensor, s: Tensor, count: int, within: float, gap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Up to ``count`` triplets (query, positive, negative), int64 (T,) each, by relevance r (B, B).

    A query is drawn by its total relevance, its positive by their relevance. The negative is of
    another class, or, in a share ``within`` of the draws, of the query's class and less relevant
    than the positive by at least ``gap``; draws without such a row are dropped.
    """
    total = r.sum(1)
    if not (total > 0).any():
        none = torch.empty(0, dtype=torch.int64)
        return none, none, none
    q = torch.multinomial(total, count, replacement=True)
    p = torch.multinomial(r[q], 1)[:, 0]
    rows = torch.arange(count)
    inside = torch.rand(count) < within
    fainter = r[q] * (r[q] <= (r[q, p] - gap)[:, None])
    weight = torch.where(inside[:, None], fainter, 1 - s[q])
    valid = weight.sum(1) > 0
    rows = rows[valid]
    n = torch.multinomial(weight[rows], 1)[:, 0]
    return q[rows], p[rows], n


@dataclass(kw_only=True, eq=False)
class DeepRanking(MetricLearner):
    r"""Triplets drawn by relevance, so that order within a class is learned beside the classes.

    Labels say which images are alike, not how much. A relevance of pairs, here the cosine of the
    frozen features within a class, guides the choice of triplets: queries and positives are drawn
    the more often the more relevant they are, and some negatives come from the query's own class
    when they are clearly less relevant than the positive. A hinge on squared distances then asks
    the embedding for the order of each triplet.

    Real-valued: ``bits`` is the number of dimensions, each a float32.

    :survey: Sections III.2, V-C.1, VII-G
    :cite: wang2014deepranking
    :source: the paper's abstract, and public reimplementations with their discussions (hinge with a
        gap on distances of normalised outputs, negatives within and outside the class, relevance
        that was made by hand and never published)
    :objective: \min\ \sum_{(q,p,n)}\max\big(0,\ g+\|f_q-f_p\|_2^2-\|f_q-f_n\|_2^2\big),
        \quad \|f\|_2=1,\quad P(q)\propto\sum_jr_{qj},\ P(p|q)\propto r_{qp},
        \ r_{qp}-r_{qn}\ge T_r\text{ if }n\text{ is of the class of }q
    :shapes: x (n, d), labels (n, C); r (B, B); f float32 (n, bits), of length one
    :defaults: g = 0.5, a fifth of the negatives from within the class, T_r = 0.1 and 20 triplets
        for each row of a batch, all chosen here
    :departures: the published relevance is a weighted sum of hand-crafted features that is not
        available; triplets are drawn within a batch instead of from buffers of a stream; the
        multiscale network of three convolutional paths is replaced by one hidden layer on frozen
        features (or a small conv net on images); Adam with cosine decay instead of distributed SGD
    :fidelity: simplified
    """

    g: float = 0.5
    within: float = 0.2
    gap: float = 0.1
    draws: int = 20

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Descriptors of length one."""
        return UnitNetwork(x, self.width, self.bits, self.dropout)

    def start_fit(self, data: TrainingData) -> None:
        """The mean of the features, from which relevance is seen."""
        self.memory_ = {"mean": data.x.float().mean(0)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hinge on squared distances, averaged over the triplets drawn."""
        s = batch.similarity
        r = relevance((batch.x.float() - self.memory_["mean"]).flatten(1), s)
        q, p, n = sample_triplets(r, s, self.draws * len(s), self.within, self.gap)
        d = squared_distances(self.network_(batch.x))
        return {"ranking": (self.g + d[q, p] - d[q, n]).clamp_min(0).sum() / max(1, len(q))}
