"""Graded measures for multi-label data: NDCG, ACG and weighted AP, in expectation over tie order.

The gain of an item is the number s of labels it shares with the query (Zhao et al., Deep Semantic
Ranking Based Hashing, CVPR 2015, after Jarvelin and Kekalainen). With s(i) at position i of the
ranking:

- ``ACG@k``  = (1/k) sum over i <= k of s(i);
- ``NDCG@k`` = (1/Z) sum over i <= k of (2**s(i) - 1) / log2(1 + i), Z the same sum for the best
  ranking;
- ``WAP@k``  = (1/M) sum over relevant i <= k of ACG@i, M the number of relevant items in the top k.

ACG and NDCG are linear in the gains, so the mean gain of a tie group stands exactly for each of its
positions. WAP is not; it has the closed form of ``ties``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cbir_lite.retrieval.ties import DENOMINATORS, Float64, Int64, expected_sums, tie_aware_ap


def gain_sums(counts: Int64) -> tuple[Int64, Int64, Float64, Float64, Int64]:
    """Reduce counts (nq, groups, most + 1) by shared labels to what ``graded_measures`` takes."""
    shared = np.arange(counts.shape[2], dtype=np.float64)
    items = counts.sum(axis=2)
    return items, items - counts[:, :, 0], counts @ shared, counts @ (2**shared - 1), counts.sum(1)


def graded_measures(
    items: Int64,
    relevant: Int64,
    gain: Float64,
    power: Float64,
    level: Int64,
    cutoffs: Sequence[int],
) -> dict[str, NDArray[np.float64]]:
    """Return ``ndcg``, ``acg`` and ``wap``, each float64 (nq, cutoffs).

    ``items``, ``relevant``, ``gain``, ``power`` (nq, groups): in each tie group, in ranking
    order, the items, the relevant items, and the sums of s and of ``2**s - 1``. ``level`` int64
    (nq, most + 1): database items by s. A query without a relevant item gets 0.
    """
    ranks = np.arange(1, int(items.sum(axis=1).max()) + 1, dtype=np.float64)
    plain = np.concatenate([[0.0], ranks])
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + ranks))])
    shared = np.arange(level.shape[1], dtype=np.float64)
    best = np.ascontiguousarray(level[:, ::-1])
    ideal = expected_sums(best, best * (2**shared - 1)[::-1], discount, cutoffs)
    dcg = expected_sums(items, power, discount, cutoffs)
    expected, _, _ = tie_aware_ap(items, relevant, cutoffs, gains=gain)
    return {
        "ndcg": np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0),
        "acg": expected_sums(items, gain, plain, cutoffs) / np.asarray(cutoffs),
        "wap": expected[:, :, DENOMINATORS.index("found")],
    }
