"""Nearest items, for showing pictures: a fixed order within ties, so not for scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbir_lite.retrieval.codes import PackedCodes
from cbir_lite.retrieval.distances import (
    Distance,
    block_rows,
    check_distances,
    distance_blocks,
)
from cbir_lite.retrieval.hamming import Int64, hamming_distance_blocks


def top_k(
    queries: Any, database: Any, k: int, distance: str | Distance | None = None
) -> tuple[Int64, NDArray[Any]]:
    """Return the k nearest items of each query: ``indices`` int64 and ``distances``, (nq, k).

    ``PackedCodes`` or int8 codes are ranked by Hamming distance (int16), float vectors by
    ``"cosine"`` (default), ``"l2"`` or a function of (queries, database). Nearest first, ties by
    index: good for a display, biased for a metric. ValueError if k is not within 1..items, or for
    NaN.
    """
    if not 1 <= k <= len(database):
        raise ValueError(f"k must be within 1..{len(database)}, the items of the database; got {k}")
    codes = isinstance(queries, PackedCodes) or getattr(queries, "dtype", None) == np.int8
    if codes and distance is not None:
        raise ValueError(
            f"codes are ranked by Hamming distance; distance={distance!r} is for vectors"
        )
    rows = block_rows(len(database))
    indices, nearest = [], []
    first = 0
    for block in (
        hamming_distance_blocks(queries, database, rows)
        if codes
        else distance_blocks(queries, database, distance or "cosine", rows)
    ):
        if not codes:
            block = check_distances(block, first, len(database))
        first += len(block)
        # The k-th smallest value splits each row; of the items equal to it, the first by index.
        bound = np.partition(block, k - 1, axis=1)[:, k - 1 : k]
        below, equal = block < bound, block == bound
        room = k - below.sum(axis=1, keepdims=True)
        taken = below | (equal & (np.cumsum(equal, axis=1) <= room))
        index = np.nonzero(taken)[1].reshape(-1, k)
        value = np.take_along_axis(block, index, axis=1)
        order = np.argsort(value, axis=1, kind="stable")
        indices.append(np.take_along_axis(index, order, axis=1))
        nearest.append(np.take_along_axis(value, order, axis=1))
    if not indices:
        raise ValueError("no query given")
    return np.concatenate(indices), np.concatenate(nearest)
