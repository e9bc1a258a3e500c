"""Hamming distances and the histograms that every Hamming metric is computed from.

One pass over the database per query counts, at each distance 0..bits, the items and the relevant
items among them. Memory is (queries x (bits + 1)), whatever the size of the database. The kernels
run on the threads Numba was given (``NUMBA_NUM_THREADS`` or ``numba.set_num_threads``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.codes import Int8, PackedCodes, as_packed
from cbir_lite.retrieval.labels import LabelPair, pair_labels
from cbir_lite.retrieval.parallel import launch

Int64 = NDArray[np.int64]

# Both counts of a distance share one 64-bit cell in the kernel: items below, relevant items above.
_SHIFT = 32
_MAX_ITEMS = 2**31 - 1
_BLOCK_BYTES = 2**26


def _popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of a uint64, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


@njit(inline="always")
def shared_labels(query, item, exclusive):
    """Number of labels that two rows of label words share (see ``LabelPair``)."""
    if exclusive:
        return np.uint64(query[0] == item[0])
    shared = np.uint64(0)
    for word in range(query.shape[0]):
        shared += popcount(query[word] & item[word])
    return shared


@njit(inline="always")
def _distance(query, item):
    distance = np.uint64(0)
    for word in range(query.shape[0]):
        distance += popcount(query[word] ^ item[word])
    return distance


@njit(parallel=True, cache=True)
def _distances(queries, gallery, out):
    for i in prange(queries.shape[0]):
        for j in range(gallery.shape[0]):
            out[i, j] = _distance(queries[i], gallery[j])


@njit(parallel=True, cache=True)
def _count_one_word(queries, gallery, query_labels, labels, exclusive, cells):
    # Codes up to 64 bits and up to 64 classes: three times the speed of the general loop.
    for i in prange(queries.shape[0]):
        code, label, row = queries[i, 0], query_labels[i, 0], cells[i]
        if exclusive:
            for j in range(gallery.shape[0]):
                hit = np.int64(label == labels[j, 0])
                row[popcount(code ^ gallery[j, 0])] += 1 + (hit << _SHIFT)
        else:
            for j in range(gallery.shape[0]):
                hit = np.int64((label & labels[j, 0]) != 0)
                row[popcount(code ^ gallery[j, 0])] += 1 + (hit << _SHIFT)


@njit(parallel=True, cache=True)
def _count(queries, gallery, query_labels, labels, exclusive, cells):
    for i in prange(queries.shape[0]):
        row, code, label = cells[i], queries[i], query_labels[i]
        for j in range(gallery.shape[0]):
            hit = np.int64(shared_labels(label, labels[j], exclusive) != 0)
            row[_distance(code, gallery[j])] += 1 + (hit << _SHIFT)


@njit(parallel=True, cache=True)
def _count_shared(queries, gallery, query_labels, labels, exclusive, counts):
    for i in prange(queries.shape[0]):
        row, code, label = counts[i], queries[i], query_labels[i]
        for j in range(gallery.shape[0]):
            shared = shared_labels(label, labels[j], exclusive)
            row[_distance(code, gallery[j]), shared] += 1


def check_pair(
    queries: Int8 | PackedCodes, gallery: Int8 | PackedCodes
) -> tuple[PackedCodes, PackedCodes]:
    """Pack both sides; ValueError if their lengths in bits differ or one side is empty."""
    query, items = as_packed(queries), as_packed(gallery)
    if query.bits != items.bits:
        raise ValueError(f"query codes have {query.bits} bits, database codes {items.bits}")
    if not len(query) or not len(items):
        raise ValueError(f"nothing to rank: {len(query)} queries, {len(items)} database items")
    if len(items) > _MAX_ITEMS or query.bits > np.iinfo(np.int16).max:
        raise ValueError(f"{len(items)} items of {query.bits} bits: beyond what the kernels count")
    return query, items


def hamming_distances(
    queries: Int8 | PackedCodes, gallery: Int8 | PackedCodes
) -> NDArray[np.int16]:
    """Hamming distances int16 (nq, n) between two small sets of codes, as one matrix.

    For many queries use ``hamming_distance_blocks``.
    """
    query, items = check_pair(queries, gallery)
    out = np.empty((len(query), len(items)), dtype=np.int16)
    launch(_distances, out.size, query.words, items.words, out)
    return out


def hamming_distance_blocks(
    queries: Int8 | PackedCodes, gallery: Int8 | PackedCodes, block: int | None = None
) -> Iterator[NDArray[np.int16]]:
    """Yield the rows of ``hamming_distances``, ``block`` queries at a time (default: 64 MB)."""
    query, items = check_pair(queries, gallery)
    rows = block or max(1, _BLOCK_BYTES // (2 * len(items)))
    for start in range(0, len(query), rows):
        yield hamming_distances(query[start : start + rows], items)


def check_lengths(queries: int, items: int, labels: LabelPair) -> None:
    """ValueError unless there is one row of labels for each query and each database item."""
    for name, count, side in (
        ("query", queries, labels.query),
        ("database", items, labels.database),
    ):
        if count != len(side):
            raise ValueError(f"{count} {name} items but {len(side)} rows of {name}_labels")


def hamming_histograms(
    queries: Int8 | PackedCodes,
    gallery: Int8 | PackedCodes,
    query_labels: ArrayLike | LabelPair,
    gallery_labels: ArrayLike | None = None,
) -> tuple[Int64, Int64]:
    """Count for each query the database items, and the relevant ones, at each Hamming distance.

    ``queries`` and ``gallery``: int8 codes or ``PackedCodes`` of the same number of bits; labels
    as in ``pair_labels`` (or the pair itself as ``query_labels``). Returns ``items`` and
    ``relevant``, int64 (nq, bits + 1); column d is distance d. Relevant means at least one shared
    label.
    """
    query, items = check_pair(queries, gallery)
    labels = _as_pair(query_labels, gallery_labels)
    check_lengths(len(query), len(items), labels)
    cells = np.zeros((len(query), query.bits + 1), dtype=np.int64)
    single = query.words.shape[1] == 1 and labels.query.shape[1] == 1
    kernel = _count_one_word if single else _count
    _count_pairs(kernel, query, items, labels, cells)
    return cells & (2**_SHIFT - 1), cells >> _SHIFT


def shared_label_histograms(
    queries: Int8 | PackedCodes,
    gallery: Int8 | PackedCodes,
    query_labels: ArrayLike | LabelPair,
    gallery_labels: ArrayLike | None = None,
) -> Int64:
    """Count for each query the database items at each distance by the number of labels they share.

    Returns int64 (nq, bits + 1, most + 1), ``most`` being the largest number of labels a query
    can share; ``[:, :, 0]`` counts irrelevant items. Large for many queries: call it by blocks of
    queries.
    """
    query, items = check_pair(queries, gallery)
    labels = _as_pair(query_labels, gallery_labels)
    check_lengths(len(query), len(items), labels)
    counts = np.zeros((len(query), query.bits + 1, labels.most + 1), dtype=np.int64)
    _count_pairs(_count_shared, query, items, labels, counts)
    return counts


def _count_pairs(
    kernel: Any, query: PackedCodes, items: PackedCodes, labels: LabelPair, counts: Int64
) -> None:
    sides = query.words, items.words, labels.query, labels.database, labels.exclusive
    launch(kernel, len(query) * len(items), *sides, counts)


def _as_pair(query_labels: ArrayLike | LabelPair, gallery_labels: ArrayLike | None) -> LabelPair:
    if isinstance(query_labels, LabelPair):
        return query_labels
    if gallery_labels is None:
        raise ValueError("gallery_labels are missing")
    return pair_labels(query_labels, gallery_labels)
