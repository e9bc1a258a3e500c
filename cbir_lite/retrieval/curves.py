"""Precision-recall curves, by Hamming radius and by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cbir_lite.retrieval.ties import Float64, Int64


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A curve: ``precision`` and ``recall`` float64 (points,) at each radius or rank in ``at``."""

    axis: Literal["radius", "rank"]
    at: Int64
    precision: Float64
    recall: Float64


def default_ranks(items: int, points: int = 100) -> Int64:
    """About ``points`` ranks from 1 to ``items``, evenly spaced in the logarithm."""
    return np.unique(np.geomspace(1, items, points).round().astype(np.int64))


def curve_by_radius(items: Int64, relevant: Int64) -> PrecisionRecall:
    """Precision and recall of the ball of each Hamming radius 0..bits, pooled over all queries.

    ``items``, ``relevant``: int64 (nq, bits + 1). Ties need no rule here: a ball takes a distance
    whole. Pooled (relevant pairs retrieved / pairs retrieved, / relevant pairs), since a single
    query's precision is undefined while its ball is empty; a radius that retrieves nothing for
    any query has precision NaN.
    """
    retrieved = items.sum(axis=0).cumsum().astype(np.float64)
    hits = relevant.sum(axis=0).cumsum().astype(np.float64)
    nothing = np.full_like(hits, np.nan)
    return PrecisionRecall(
        axis="radius",
        at=np.arange(items.shape[1]),
        precision=np.divide(hits, retrieved, out=nothing.copy(), where=retrieved > 0),
        recall=hits / hits[-1] if hits[-1] > 0 else nothing,
    )


def curve_by_rank(
    hits: Float64, all_relevant: Int64, ranks: Sequence[int] | Int64
) -> PrecisionRecall:
    """Mean over queries of expected precision and recall at each rank.

    ``hits`` float64 (nq, ranks): relevant items expected in the top k; ``all_relevant`` int64
    (nq,). A query without a relevant item counts with recall 0.
    """
    at = np.asarray(ranks, dtype=np.int64)
    return PrecisionRecall(
        axis="rank",
        at=at,
        precision=(hits / at).mean(axis=0),
        recall=(hits / np.maximum(all_relevant, 1)[:, None]).mean(axis=0),
    )
