"""The one result type of ``evaluate_codes`` and ``evaluate_distances``."""

from __future__ import annotations

from dataclasses import dataclass

from cbir_lite.retrieval.curves import PrecisionRecall
from cbir_lite.retrieval.ties import DENOMINATORS, Float64, Int64

Cutoff = int | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Per-query metrics, float64 (nq,), in expectation over random order within ties.

    ``ap``, ``ap_low``, ``ap_high``: average precision by (cut-off, denominator), expected, lowest
    and highest over all tie orders. Denominators: "found" (relevant items in the top k; 0 if
    none), "min" (the smaller of k and all relevant items), "all" (all relevant items); equal for
    cut-off None, the whole ranking. ``precision``, ``recall``, ``f_score`` by cut-off: hits/k,
    hits/relevant, and their harmonic mean 2 hits / (k + relevant), all linear in the hits.
    ``precision_within`` by Hamming radius, 0 for a query with an empty ball; {} for distances.
    ``graded``: "ndcg", "acg", "wap" by cut-off, {} unless asked for. ``queries``: indices of the
    queries scored (all, unless some were skipped); ``n_relevant``: relevant items of each in the
    database of ``n_database`` items.
    """

    cutoffs: tuple[Cutoff, ...]
    n_database: int
    queries: Int64
    n_relevant: Int64
    ap: dict[tuple[Cutoff, str], Float64]
    ap_low: dict[tuple[Cutoff, str], Float64]
    ap_high: dict[tuple[Cutoff, str], Float64]
    precision: dict[Cutoff, Float64]
    recall: dict[Cutoff, Float64]
    f_score: dict[Cutoff, Float64]
    precision_within: dict[int, Float64]
    graded: dict[str, dict[Cutoff, Float64]]
    curve_by_rank: PrecisionRecall
    curve_by_radius: PrecisionRecall | None

    def mean_ap(self, k: Cutoff = None, denominator: str = "found") -> float:
        """mAP@k, the mean over queries; k None is the whole ranking."""
        return float(self._entry(self.ap, k, denominator).mean())

    def interval(self, k: Cutoff = None, denominator: str = "found") -> tuple[float, float]:
        """Lowest and highest mAP@k that any order of the ties gives."""
        low = self._entry(self.ap_low, k, denominator)
        high = self._entry(self.ap_high, k, denominator)
        return float(low.mean()), float(high.mean())

    def columns(self) -> dict[str, float]:
        """Means over queries under the column names of a record.

        ``map_all`` (whole ranking), ``map_{k}_{denominator}``, each with ``_low`` and ``_high``;
        ``precision_{k}``, ``recall_{k}``, ``f_{k}``; ``precision_radius_{r}``; ``ndcg_{k}``,
        ``acg_{k}``, ``wap_{k}`` (k is ``all`` for the whole ranking). A cut-off that was not
        evaluated has no column.
        """
        out: dict[str, float] = {}
        for k in self.cutoffs:
            for denominator in DENOMINATORS if k is not None else ("all",):
                name = "map_all" if k is None else f"map_{k}_{denominator}"
                out[name] = self.mean_ap(k, denominator)
                out[f"{name}_low"], out[f"{name}_high"] = self.interval(k, denominator)
            if k is not None:
                out[f"precision_{k}"] = float(self.precision[k].mean())
                out[f"recall_{k}"] = float(self.recall[k].mean())
                out[f"f_{k}"] = float(self.f_score[k].mean())
            for measure, values in self.graded.items():
                out[f"{measure}_{'all' if k is None else k}"] = float(values[k].mean())
        for radius, values_within in self.precision_within.items():
            out[f"precision_radius_{radius}"] = float(values_within.mean())
        return out

    def _entry(
        self, table: dict[tuple[Cutoff, str], Float64], k: Cutoff, denominator: str
    ) -> Float64:
        if (k, denominator) not in table:
            raise KeyError(
                f"no AP at cut-off {k} by {denominator!r}; "
                f"evaluated: {self.cutoffs} by {DENOMINATORS}"
            )
        return table[k, denominator]
