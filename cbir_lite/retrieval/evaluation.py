"""Score a ranking method: every metric of a record, from codes or from real-valued distances.

Metrics as in Section II-A of the survey, which defines precision, recall and F-score in words but
leaves the denominator of average precision at a cut-off open (erratum E18); here each is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbir_lite.retrieval.codes import Int8, PackedCodes
from cbir_lite.retrieval.curves import curve_by_radius, curve_by_rank, default_ranks
from cbir_lite.retrieval.distances import (
    block_rows,
    check_distances,
    group_distances,
    group_shared,
)
from cbir_lite.retrieval.graded import gain_sums, graded_measures
from cbir_lite.retrieval.hamming import (
    check_lengths,
    check_pair,
    hamming_histograms,
    shared_label_histograms,
)
from cbir_lite.retrieval.labels import LabelPair, pair_labels
from cbir_lite.retrieval.result import Cutoff, Evaluation
from cbir_lite.retrieval.ties import DENOMINATORS, Float64, Int64, expected_sums, tie_aware_ap

DEFAULT_CUTOFFS: tuple[Cutoff, ...] = (1000, 5000, 54000, None)
NoRelevant = Literal["error", "zero", "skip"]

_GRADED_BLOCK = 256


def cutoffs_within(items: int, cutoffs: Sequence[Cutoff] = DEFAULT_CUTOFFS) -> tuple[Cutoff, ...]:
    """The cut-offs that a database of ``items`` can honour: ``None`` (all), and each k <= items."""
    return tuple(k for k in cutoffs if k is None or k <= items)


def check_cutoffs(cutoffs: Sequence[Cutoff], items: int, clip: bool = False) -> tuple[Cutoff, ...]:
    """Validate cut-offs against the size of the database.

    Each is a positive int, or None for the whole ranking. k beyond the database raises ValueError;
    with ``clip`` it becomes None, so that no result is ever named by a k that was not reached.
    """
    checked: list[Cutoff] = []
    for k in cutoffs:
        if k is not None and (isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1):
            raise ValueError(f"a cut-off is a positive int or None, got {k!r}")
        if k is not None and k > items:
            if not clip:
                raise ValueError(
                    f"cut-off {k} is beyond the {items} items of the database; choose "
                    "cut-offs with cutoffs_within(items), or pass clip=True for the whole ranking"
                )
            k = None
        k = None if k is None else int(k)
        if k not in checked:
            checked.append(k)
    if not checked:
        raise ValueError("no cut-off given")
    return tuple(checked)


def evaluate_codes(
    query_codes: Int8 | PackedCodes,
    database_codes: Int8 | PackedCodes,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    cutoffs: Sequence[Cutoff] = DEFAULT_CUTOFFS,
    *,
    radii: Sequence[int] = (2,),
    graded: bool = False,
    no_relevant: NoRelevant = "error",
    clip: bool = False,
) -> Evaluation:
    """Rank the database by Hamming distance for each query and score it.

    Codes: int8 (n, bits) in {-1, +1} or ``PackedCodes``. Labels: multi-hot uint8 or bool (n,
    classes), or class ids (n,). ``cutoffs``: k, or None for the whole database; k beyond the
    database raises ValueError unless ``clip`` (see ``check_cutoffs``). ``radii``: Hamming radii
    for the precision within a ball, where an empty ball counts as precision 0. ``graded``: NDCG,
    ACG and WAP too. ``no_relevant``: what to do with queries that have no relevant item: "error"
    names them, "zero" scores them 0, "skip" leaves them out.
    """
    query, database = check_pair(query_codes, database_codes)
    labels = pair_labels(query_labels, database_labels)
    check_lengths(len(query), len(database), labels)
    wanted = check_cutoffs(cutoffs, len(database), clip)
    for radius in radii:
        if not 0 <= radius <= query.bits:
            raise ValueError(f"radius {radius} is outside 0..{query.bits}, the bits of the codes")
    parts = []
    if graded:
        for start in range(0, len(query), _GRADED_BLOCK):
            rows = slice(start, start + _GRADED_BLOCK)
            pair = LabelPair(labels.query[rows], labels.database, labels.exclusive, labels.most)
            sums = gain_sums(shared_label_histograms(query[rows], database, pair))
            parts.append(_score(*sums[:2], wanted, graded=sums[2:]))
        items, relevant = (np.concatenate([part[name] for part in parts]) for name in _COUNTS)
    else:
        items, relevant = hamming_histograms(query, database, labels)
        parts.append(_score(items, relevant, wanted))
    keep = _keep(relevant.sum(axis=1), no_relevant)
    items, relevant = items[keep], relevant[keep]
    within = {}
    for radius in radii:
        ball, hits = (x[:, : radius + 1].sum(axis=1) for x in (items, relevant))
        within[int(radius)] = hits / np.maximum(ball, 1)
    return _assemble(parts, keep, wanted, len(database), within, curve_by_radius(items, relevant))


def evaluate_distances(
    distances: NDArray[Any] | Iterable[ArrayLike],
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    cutoffs: Sequence[Cutoff] = DEFAULT_CUTOFFS,
    *,
    graded: bool = False,
    no_relevant: NoRelevant = "error",
    clip: bool = False,
) -> Evaluation:
    """Rank the database by any real-valued distance (smaller is nearer) and score it.

    ``distances``: blocks of rows (rows, n), in the order of the queries, as ``distance_blocks``
    yields them, or one matrix (nq, n). Equal values are ties, treated as in ``evaluate_codes``;
    the other parameters are as there. Memory is bounded by a block. ValueError for NaN, naming
    the query.
    """
    labels = pair_labels(query_labels, database_labels)
    queries, size = len(labels.query), len(labels.database)
    wanted = check_cutoffs(cutoffs, size, clip)
    parts = []
    first = 0
    for chunk in [distances] if isinstance(distances, np.ndarray) else distances:
        block = check_distances(chunk, first, size)
        if first + len(block) > queries:
            raise ValueError(f"more rows of distances than the {queries} rows of query_labels")
        for start in range(0, len(block), block_rows(size)):
            rows = block[start : start + block_rows(size)]
            if graded:
                sums = group_shared(rows, labels, first)
                parts.append(_score(*sums[:2], wanted, graded=sums[2:], counts=False))
            else:
                parts.append(_score(*group_distances(rows, labels, first), wanted, counts=False))
            first += len(rows)
    if first != queries or not queries:
        raise ValueError(f"{first} rows of distances for {queries} rows of query_labels")
    keep = _keep(np.concatenate([part["all_relevant"] for part in parts]), no_relevant)
    return _assemble(parts, keep, wanted, size, {}, None)


_COUNTS = ("items", "relevant")


def _score(
    items: Int64,
    relevant: Int64,
    cutoffs: tuple[Cutoff, ...],
    graded: tuple[Float64, Float64, Int64] | None = None,
    counts: bool = True,
) -> dict[str, NDArray[Any]]:
    """Per-query arrays of one block of queries, first axis (rows,), from its tie groups."""
    size = int(items[0].sum())
    positions = [size if k is None else k for k in cutoffs]
    ranks = default_ranks(size)
    linear = expected_sums(
        items, relevant, np.arange(size + 1, dtype=np.float64), [*positions, *ranks.tolist()]
    )
    names = ("expected", "low", "high")
    part: dict[str, NDArray[Any]] = dict(
        zip(names, tie_aware_ap(items, relevant, positions), strict=True)
    )
    part["hits"], part["rank_hits"] = linear[:, : len(positions)], linear[:, len(positions) :]
    part["all_relevant"] = relevant.sum(axis=1)
    if graded is not None:
        part |= graded_measures(items, relevant, *graded, positions)
    if counts:
        part |= {"items": items, "relevant": relevant}
    return part


def _keep(all_relevant: Int64, no_relevant: NoRelevant) -> Int64:
    """Indices of the queries to score, by the policy for queries without a relevant item."""
    if no_relevant not in ("error", "zero", "skip"):
        raise ValueError(f"no_relevant is 'error', 'zero' or 'skip', got {no_relevant!r}")
    empty = np.flatnonzero(all_relevant == 0)
    if len(empty) and no_relevant == "error":
        raise ValueError(
            f"{len(empty)} of {len(all_relevant)} queries have no relevant item in the database "
            f"(first: {empty[:5].tolist()}); check the labels, or pass no_relevant='zero' or 'skip'"
        )
    if no_relevant == "skip":
        if len(empty) == len(all_relevant):
            raise ValueError("no query has a relevant item in the database: nothing to score")
        return np.flatnonzero(all_relevant)
    return np.arange(len(all_relevant))


def _assemble(parts, keep, cutoffs, size, within, by_radius):
    """Join the blocks into an ``Evaluation``, keeping the queries ``keep``."""
    whole = {
        name: np.concatenate([part[name] for part in parts])[keep]
        for name in parts[0]
        if name not in _COUNTS
    }

    def by_denominator(values: Float64) -> dict[tuple[Cutoff, str], Float64]:
        return {
            (k, name): values[:, i, j]
            for i, k in enumerate(cutoffs)
            for j, name in enumerate(DENOMINATORS)
        }

    positions = {k: size if k is None else k for k in cutoffs}
    hits = {k: whole["hits"][:, i] for i, k in enumerate(cutoffs)}
    total = whole["all_relevant"]
    return Evaluation(
        cutoffs=cutoffs,
        n_database=size,
        queries=keep,
        n_relevant=total,
        ap=by_denominator(whole["expected"]),
        ap_low=by_denominator(whole["low"]),
        ap_high=by_denominator(whole["high"]),
        precision={k: hits[k] / positions[k] for k in cutoffs},
        recall={k: hits[k] / np.maximum(total, 1) for k in cutoffs},
        f_score={k: 2 * hits[k] / (positions[k] + total) for k in cutoffs},
        precision_within=within,
        graded={
            name: {k: whole[name][:, i] for i, k in enumerate(cutoffs)}
            for name in ("ndcg", "acg", "wap")
            if name in whole
        },
        curve_by_rank=curve_by_rank(whole["rank_hits"], total, default_ranks(size)),
        curve_by_radius=by_radius,
    )
