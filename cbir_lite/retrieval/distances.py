"""Real-valued distances by blocks of queries, and the grouping of a sorted ranking into ties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.hamming import Int64, shared_labels
from cbir_lite.retrieval.labels import LabelPair
from cbir_lite.retrieval.parallel import launch

Floats = NDArray[Any]
Distance = Callable[[Any, Any], ArrayLike]

_BLOCK_BYTES = 2**25


def _vectors(queries: ArrayLike, database: ArrayLike) -> tuple[Floats, Floats]:
    query, items = np.asarray(queries), np.asarray(database)
    kind = np.result_type(query, items, np.float32)
    if query.ndim != 2 or items.ndim != 2 or query.shape[1] != items.shape[1]:
        raise ValueError(
            f"queries (nq, d) and database (n, d) needed, got {query.shape} and {items.shape}"
        )
    return query.astype(kind, copy=False), items.astype(kind, copy=False)


def cosine_distances(queries: ArrayLike, database: ArrayLike) -> Floats:
    """``1 - cos`` between rows of ``queries`` (nq, d) and ``database`` (n, d): float (nq, n).

    float32 stays float32. A zero vector has cosine 0 to everything. The norms divide the
    products, so vectors of small integers (codes) that tie in theory tie exactly; other ties may
    be split by rounding.
    """
    query, items = _vectors(queries, database)
    norms = np.linalg.norm(query, axis=1)[:, None], np.linalg.norm(items, axis=1)
    product = query @ items.T
    scale = norms[0] * norms[1]
    return 1 - np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)


def l2_distances(queries: ArrayLike, database: ArrayLike) -> Floats:
    """Euclidean distances between rows of ``queries`` (nq, d) and ``database`` (n, d): (nq, n).

    float32 stays float32. Through the product of the two matrices: fast, but two nearly equal
    vectors far from the origin lose digits; centre such data or pass float64.
    """
    query, items = _vectors(queries, database)
    squares = (query**2).sum(axis=1)[:, None] + (items**2).sum(axis=1) - 2 * (query @ items.T)
    return np.sqrt(np.maximum(squares, 0))


METRICS: dict[str, Distance] = {"cosine": cosine_distances, "l2": l2_distances}


def as_distance(distance: str | Distance) -> Distance:
    """Return the function behind ``"cosine"`` or ``"l2"``, or the callable itself."""
    if callable(distance):
        return distance
    if distance not in METRICS:
        raise ValueError(f"unknown distance {distance!r}; use {sorted(METRICS)} or a function")
    return METRICS[distance]


def block_rows(items: int) -> int:
    """Queries in a block, so that one float64 (rows, items) matrix takes at most 32 MB."""
    return max(1, _BLOCK_BYTES // (8 * items))


def distance_blocks(
    queries: Any, database: Any, distance: str | Distance = "cosine", block: int | None = None
) -> Iterator[Floats]:
    """Yield ``distance(queries[block], database)``, block after block: the matrix (nq, n) by rows.

    ``distance``: ``"cosine"``, ``"l2"``, or any function of (queries, database) that returns
    (rows, n), such as a quantisation method's own ``distance``. ``block``: queries at a time
    (default: 32 MB of distances).
    """
    function = as_distance(distance)
    rows = block or block_rows(len(database))
    for start in range(0, len(queries), rows):
        yield np.asarray(function(queries[start : start + rows], database))


@njit(parallel=True, cache=True)
def _pick_relevant(distances, queries, labels, exclusive, picked, counts):
    for i in prange(distances.shape[0]):
        query, count = queries[i], 0
        for j in range(distances.shape[1]):
            if shared_labels(query, labels[j], exclusive) != 0:
                picked[i, count] = distances[i, j]
                count += 1
        counts[i] = count


@njit(parallel=True, cache=True)
def _group(ranked, picked, counts, items, relevant):
    for i in prange(ranked.shape[0]):
        group, hit = 0, 0
        last = ranked[i, 0]
        for distance in ranked[i]:
            if distance != last:
                group += 1
                last = distance
            items[i, group] += 1
            while hit < counts[i] and picked[i, hit] == distance:
                relevant[i, group] += 1
                hit += 1


@njit(parallel=True, cache=True)
def _group_shared(
    distances, order, queries, labels, exclusive, items, relevant, gain, power, level
):
    for i in prange(distances.shape[0]):
        group = 0
        last = distances[i, order[i, 0]]
        for j in order[i]:
            if distances[i, j] != last:
                group += 1
                last = distances[i, j]
            shared = shared_labels(queries[i], labels[j], exclusive)
            items[i, group] += 1
            relevant[i, group] += shared != 0
            gain[i, group] += shared
            power[i, group] += 2.0**shared - 1.0
            level[i, shared] += 1


def check_distances(block: ArrayLike, first_query: int, items: int) -> Floats:
    """Return the block as float32 or float64 (rows, items); ValueError on wrong shape or NaN."""
    distances = np.asarray(block)
    if distances.ndim != 2 or distances.shape[1] != items:
        raise ValueError(
            f"distances must have shape (queries, {items}), one column for each database item; "
            f"got {distances.shape}"
        )
    if distances.dtype.kind not in "fiub":
        raise TypeError(f"distances must be real numbers, got {distances.dtype}")
    if distances.dtype not in (np.float32, np.float64):
        distances = distances.astype(np.float64)
    missing = np.isnan(distances).any(axis=1)
    if missing.any():
        raise ValueError(
            f"distance of query {first_query + int(missing.argmax())} is NaN; "
            "the method's descriptors or its distance function diverged"
        )
    return distances


def group_distances(distances: Floats, labels: LabelPair, first: int) -> tuple[Int64, Int64]:
    """Sort each row and count items and relevant items at each distinct distance.

    ``distances`` (rows, n) of the queries ``first``, ``first + 1``, ...; ties are exactly equal
    values. Returns int64 (rows, n) twice, zero beyond a row's last group.
    """
    query = labels.query[first : first + len(distances)]
    counts = np.zeros(len(distances), dtype=np.int64)
    picked = np.full_like(distances, np.inf)
    sides = query, labels.database, labels.exclusive
    launch(_pick_relevant, distances.size, distances, *sides, picked, counts)
    # Two sorts of values, all and relevant, then a merge: faster than one argsort and its gathers.
    picked = np.sort(picked[:, : max(1, counts.max())], axis=1)
    items, relevant = np.zeros((2, *distances.shape), dtype=np.int64)
    ranked = np.sort(distances, axis=1)
    launch(_group, ranked.size, ranked, picked, counts, items, relevant)
    return items, relevant


def group_shared(
    distances: Floats, labels: LabelPair, first: int
) -> tuple[Int64, Int64, NDArray[np.float64], NDArray[np.float64], Int64]:
    """As ``group_distances``, with the sums of shared labels s and of ``2**s - 1`` in each group.

    The last result is int64 (rows, most + 1): database items by number of shared labels.
    """
    items, relevant = np.zeros((2, *distances.shape), dtype=np.int64)
    gain, power = np.zeros((2, *distances.shape))
    level = np.zeros((len(distances), labels.most + 1), dtype=np.int64)
    query = labels.query[first : first + len(distances)]
    order = np.argsort(distances, axis=1)
    sides = query, labels.database, labels.exclusive
    sums = items, relevant, gain, power, level
    launch(_group_shared, distances.size, distances, order, *sides, *sums)
    return sums
