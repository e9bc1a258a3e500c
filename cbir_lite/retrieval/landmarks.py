"""Scores of the Oxford and Paris benchmarks: trapezoidal AP and mP@k with junk left out.

Average precision here is the area under the precision-recall curve by trapezoids, as the Oxford
buildings benchmark defines it, and not the mean of precisions that the rest of the package uses.
Checked against the public evaluation script of Radenovic et al., Revisiting Oxford and Paris
(CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.distances import check_distances

Float64 = NDArray[np.float64]
Rows = Sequence[ArrayLike]

CUTOFFS = (1, 5, 10)
"""Those of the revisited benchmarks."""


@dataclass(frozen=True, eq=False)
class LandmarkScores:
    """Per query, float64 (nq,), NaN for queries that have nothing to find.

    ``ap``: trapezoidal average precision. ``precision`` by cut-off k: the share of the first k that
    are positive, where k is at most the rank of the last positive. Both in expectation over the
    order of equal distances.
    """

    ap: Float64
    precision: dict[int, Float64]

    @property
    def mean_ap(self) -> float:
        """mAP over the queries that have something to find."""
        return float(np.nanmean(self.ap))

    def mean_precision(self, k: int) -> float:
        """mP@k over the same queries."""
        return float(np.nanmean(self.precision[k]))


def landmark_scores(
    distances: ArrayLike, positive: Rows, junk: Rows | None = None, cutoffs: Sequence[int] = CUTOFFS
) -> LandmarkScores:
    """Score distances (nq, n), smaller is nearer, against rows of the database for each query.

    ``positive`` and ``junk`` hold the rows of each query, (any,) integers; junk is taken out of the
    ranking before it is scored, so that it counts neither way. For rankings instead of distances
    see :func:`as_distances`. Raises ``ValueError`` for NaN, for rows that do not exist or are of
    both kinds, for cut-offs below 1, and if no query has anything to find.
    """
    block: Any = np.asarray(distances)
    if block.ndim != 2:
        raise ValueError(f"distances must be of shape (queries, items), got {block.shape}")
    block = check_distances(block, 0, block.shape[1])
    parts = [positive, [()] * len(block) if junk is None else junk]
    for name, rows in zip(("positive", "junk"), parts, strict=True):
        if len(rows) != len(block):
            raise ValueError(f"{len(rows)} lists of {name} items for {len(block)} queries")
    if any(k < 1 for k in cutoffs):
        raise ValueError(f"cut-offs must be at least 1, got {list(cutoffs)}")
    ap = np.full(len(block), np.nan)
    precision = {int(k): np.full(len(block), np.nan) for k in cutoffs}
    for i, row in enumerate(block):
        wanted, left_out = (_mask(i, len(row), rows[i]) for rows in parts)
        if (wanted & left_out).any():
            at = int(np.flatnonzero(wanted & left_out)[0])
            raise ValueError(f"query {i}: item {at} is both positive and junk")
        if wanted.any():
            items, hits = _groups(row[~left_out], wanted[~left_out])
            ap[i] = _trapezoids(items, hits)
            for k in precision:
                precision[k][i] = _precision(items, hits, k)
    if np.isnan(ap).all():
        raise ValueError("no query has anything to find: nothing to score")
    return LandmarkScores(ap, precision)


def revisited_scores(
    distances: ArrayLike, easy: Rows, hard: Rows, junk: Rows, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, LandmarkScores]:
    """The three set-ups of the revisited benchmarks: ``easy``, ``medium`` and ``hard``.

    Easy items are to be found and hard ones count neither way; all of them are to be found; or the
    hard ones are and the easy ones count neither way.
    """

    def both(a: Rows, b: Rows) -> list[NDArray[Any]]:
        return [np.r_[np.asarray(x, int), np.asarray(y, int)] for x, y in zip(a, b, strict=True)]

    setups = {
        "easy": (easy, both(junk, hard)),
        "medium": (both(easy, hard), junk),
        "hard": (hard, both(junk, easy)),
    }
    return {
        name: landmark_scores(distances, positive, left_out, cutoffs)
        for name, (positive, left_out) in setups.items()
    }


def as_distances(rankings: ArrayLike) -> NDArray[np.int64]:
    """Ranks (nq, n) of items from rankings (nq, n): rows of the database, the nearest first.

    >>> as_distances([[2, 0, 1]])
    array([[1, 2, 0]])
    """
    order = np.asarray(rankings)
    if order.ndim != 2 or not (np.sort(order, axis=1) == np.arange(order.shape[1])).all():
        raise ValueError("rankings must hold every item of the database once for each query")
    ranks = np.empty(order.shape, np.int64)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks


def _mask(query: int, n: int, rows: ArrayLike) -> NDArray[np.bool_]:
    index = np.asarray(rows, dtype=np.int64).reshape(-1)
    if len(index) and not (index.min() >= 0 and index.max() < n):
        raise ValueError(f"query {query}: items {index.min()}..{index.max()} of a database of {n}")
    mask = np.zeros(n, bool)
    mask[index] = True
    return mask


def _groups(row: NDArray[Any], wanted: NDArray[np.bool_]) -> tuple[Float64, Float64]:
    """Items and positives in each group of equal distance, the nearest group first."""
    _, group = np.unique(row, return_inverse=True)
    return (
        np.bincount(group).astype(np.float64),
        np.bincount(group, wanted).astype(np.float64),
    )


def _trapezoids(items: Float64, hits: Float64) -> float:
    """Expected area: a positive at rank r (from 0) after j others adds j/r and (j+1)/(r+1), halved.

    Before the first item the precision counts as one. Given that the item at place i of a group of
    N with R positives is one, i (R - 1) / (N - 1) of those before it in the group are expected.
    """
    before, found, total = 0.0, 0.0, 0.0
    for N, R in zip(items, hits, strict=True):
        if R:
            i = np.arange(N)
            j = found + i * (R - 1) / max(N - 1, 1)
            r = before + i
            left = np.where(r == 0, 1.0, j / np.maximum(r, 1))
            total += (R / N) * float((left + (j + 1) / (r + 1)).sum()) / 2
        before, found = before + N, found + R
    return total / found


def _precision(items: Float64, hits: Float64, k: int) -> float:
    """Expected precision of the first min(k, rank of the last positive) items.

    If all positives lie in the first k, it is their number by the rank of the last one; else it is
    linear in the positives of the first k, whose expectation ties only make proportional.
    """
    last = int(np.flatnonzero(hits)[-1])
    starts = np.cumsum(items) - items
    total, N, R, start = hits.sum(), items[last], hits[last], starts[last]
    # P(the last positive is at place i of its group), from i = N down to R.
    chance, all_in, value = R / N, 0.0, 0.0
    for i in range(int(N), int(R) - 1, -1):
        if start + i <= k:
            all_in += chance
            value += chance * total / (start + i)
        chance *= (i - R) / max(i - 1, 1)
    expected = float((hits * np.clip((k - starts) / items, 0, 1)).sum())
    return float(value + (expected - total * all_in) / k)
