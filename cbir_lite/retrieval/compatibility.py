"""Average precision as most public code computes it: ties in the order the sort leaves them.

Only to compare with published scripts. The value depends on the order of the database, so it
measures the file layout too; every default elsewhere is the expectation over tie order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.distances import check_distances
from cbir_lite.retrieval.evaluation import DEFAULT_CUTOFFS, check_cutoffs
from cbir_lite.retrieval.hamming import shared_labels
from cbir_lite.retrieval.labels import pair_labels
from cbir_lite.retrieval.parallel import launch
from cbir_lite.retrieval.result import Cutoff
from cbir_lite.retrieval.ties import DENOMINATORS, Float64


@njit(parallel=True, cache=True)
def _ordered_ap(order, queries, labels, exclusive, cutoffs, out):
    for i in prange(order.shape[0]):
        found, total, cut = 0, 0.0, 0
        for position in range(order.shape[1]):
            if shared_labels(queries[i], labels[order[i, position]], exclusive) != 0:
                found += 1
                total += found / (position + 1)
            while cut < len(cutoffs) and cutoffs[cut] == position + 1:
                out[i, cut, 0] = total / max(found, 1)
                out[i, cut, 1] = total
                out[i, cut, 2] = total
                cut += 1
        for cut in range(len(cutoffs)):
            out[i, cut, 1] /= max(min(cutoffs[cut], found), 1)
            out[i, cut, 2] /= max(found, 1)


def stable_sort_ap(
    distances: NDArray[Any] | Iterable[ArrayLike],
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    cutoffs: Sequence[Cutoff] = DEFAULT_CUTOFFS,
) -> dict[tuple[Cutoff, str], Float64]:
    """AP of each query with ties in database order (a stable sort), by (cut-off, denominator).

    ``distances``: one matrix (nq, n) or blocks of its rows, from ``hamming_distance_blocks`` or
    ``distance_blocks``. Labels, cut-offs and denominators as in ``evaluate_distances``. Queries
    without a relevant item get 0.
    """
    labels = pair_labels(query_labels, database_labels)
    size = len(labels.database)
    wanted = check_cutoffs(cutoffs, size)
    positions = np.array([size if k is None else k for k in wanted], dtype=np.int64)
    ascending = np.argsort(positions, kind="stable")
    parts = []
    first = 0
    for chunk in [distances] if isinstance(distances, np.ndarray) else distances:
        block = np.asarray(chunk)
        # Hamming distances stay 16-bit integers: NumPy sorts those by radix.
        block = block if block.dtype == np.int16 else check_distances(block, first, size)
        order = np.argsort(block, axis=1, kind="stable")
        query = labels.query[first : first + len(block)]
        if len(query) != len(block) or block.shape[1] != size:
            raise ValueError(
                f"distances must be ({len(labels.query)}, {size}) in all; "
                f"got a block {block.shape} from query {first}"
            )
        out = np.zeros((len(block), len(wanted), len(DENOMINATORS)))
        given = (order, query, labels.database, labels.exclusive, positions[ascending], out)
        launch(_ordered_ap, order.size, *given)
        parts.append(out)
        first += len(block)
    if first != len(labels.query):
        raise ValueError(f"{first} rows of distances for {len(labels.query)} rows of query_labels")
    values = np.concatenate(parts)[:, np.argsort(ascending)]
    return {
        (k, name): values[:, i, j]
        for i, k in enumerate(wanted)
        for j, name in enumerate(DENOMINATORS)
    }
