"""Relevance: two items are relevant to each other if they share at least one label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.codes import Words, pack_bits

MAX_CLASS_ID = 1_000_000


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Labels of queries and database as words that a kernel can compare.

    ``query`` (nq, w) and ``database`` (n, w) uint64. With ``exclusive`` False the shared labels
    are the set bits of ``query & database``; with True (one label an item, more than 64 classes)
    w is 1, a word is a class id, and one label is shared if the ids are equal. ``most`` is the
    largest number of labels a query can share.
    """

    query: Words
    database: Words
    exclusive: bool
    most: int


def _check(labels: ArrayLike, name: str) -> NDArray[np.int64] | NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.ndim == 1 and array.size and np.issubdtype(array.dtype, np.integer):
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > MAX_CLASS_ID:
            bad, where = (low, array.argmin()) if low < 0 else (high, array.argmax())
            raise ValueError(
                f"{name}: class id {bad} of item {where} is not within 0..{MAX_CLASS_ID}; "
                "number the classes from 0"
            )
        return array.astype(np.int64)
    if array.ndim == 2 and array.size and array.dtype in (np.uint8, np.bool_):
        if array.dtype == np.uint8 and array.max() > 1:
            row, column = np.argwhere(array > 1)[0]
            raise ValueError(
                f"{name}: multi-hot labels hold 0 and 1 only, found {array[row, column]} "
                f"at item {row}, class {column}"
            )
        return array.astype(bool)
    raise ValueError(
        f"{name} must be integer class ids (n,) or multi-hot uint8 or bool (n, classes), "
        f"not empty; got {array.dtype} {array.shape}"
    )


def pair_labels(query_labels: ArrayLike, database_labels: ArrayLike) -> LabelPair:
    """Bring the labels of queries and database to comparable words.

    Each side is multi-hot uint8 or bool (n, classes), or integer class ids (n,). Raises
    ValueError for ids below 0 or above ``MAX_CLASS_ID``, values other than 0 and 1 in multi-hot
    labels, or different numbers of classes.
    """
    query = _check(query_labels, "query_labels")
    database = _check(database_labels, "database_labels")
    widths = {side.shape[1] for side in (query, database) if side.ndim == 2}
    if len(widths) > 1:
        raise ValueError(
            f"query_labels have {query.shape[1]} classes, database_labels {database.shape[1]}"
        )
    ids = [
        side if side.ndim == 1 else side.argmax(axis=1)
        for side in (query, database)
        if side.ndim == 1 or bool((side.sum(axis=1) == 1).all())
    ]
    top = max((int(side.max()) for side in (query, database) if side.ndim == 1), default=-1)
    classes = widths.pop() if widths else top + 1
    if top >= classes:
        raise ValueError(f"class id {top} is outside the {classes} classes of the multi-hot labels")
    if classes > 64 and len(ids) == 2:
        words = [side.astype(np.uint64)[:, None] for side in ids]
        return LabelPair(words[0], words[1], exclusive=True, most=1)
    packed = [pack_bits(_one_hot(side, classes)) for side in (query, database)]
    counts = [int(np.bitwise_count(words).sum(axis=1).max()) for words in packed]
    return LabelPair(packed[0], packed[1], exclusive=False, most=min(counts))


def _one_hot(labels: NDArray[np.int64] | NDArray[np.bool_], classes: int) -> NDArray[np.bool_]:
    if labels.ndim == 2:
        return labels.astype(bool, copy=False)
    hot = np.zeros((len(labels), classes), dtype=bool)
    hot[np.arange(len(labels)), labels] = True
    return hot
