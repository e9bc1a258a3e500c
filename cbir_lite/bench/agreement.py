"""Do two columns of numbers order the systems alike, and do neighbours in rank differ at all?

Section IX of the survey ranks systems by printed values that come from many sources (erratum E10);
`rank_agreement` compares orders inside one source only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats, which takes seconds to import, loads where it is first used
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = ["protocol", "dataset", "result_source", "measured_protocol"]
"""Within these, ranks are compared."""
AGREEMENT_COLUMNS = [
    *BLOCK, "bits", "systems", "labels",
    "spearman", "spearman_low", "spearman_high", "kendall", "kendall_low", "kendall_high", "p",
    "note",
]  # fmt: skip
NEIGHBOUR_COLUMNS = [
    "better",
    "other",
    "mean",
    "mean_other",
    "gain",
    "pairs",
    "wins",
    "p",
    "p_holm",
]
LEAST_PAIRS = 6  # fewer cannot reach 0.05 in a two-sided signed-rank test


def spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's rank correlation of each row of x and y (draws, n); NaN where a row is level."""
    a, b = (scipy.stats.rankdata(v, axis=1) for v in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def kendall(x: Floats, y: Floats) -> Floats:
    """Kendall's tau-b of each row of x and y (draws, n); NaN where a row is level."""
    a, b = (np.sign(v[:, :, None] - v[:, None, :]) for v in (x, y))
    scale = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return np.divide((a * b).sum((1, 2)), scale, out=np.full(len(a), np.nan), where=scale > 0)


def rank_agreement(
    table: pd.DataFrame, *, least: int = 4, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Rank correlation of reported and measured mAP within each block, result source and protocol
    of the measurement.

    Args:
        table: rows of `plots.reported_measured` (columns protocol, dataset, result_source,
            measured_protocol, method_label, bits, reported, measured); rows without both values
            are left out.
        least: systems from which a correlation is given; below it `note` says how many there are.
        draws: bootstrap samples of the systems; samples of fewer than three systems are not used.
        seed: of the draws.

    Returns one row a block, source, protocol and code length, and one (``bits`` missing) for the
    means over the lengths, of the systems that have all of them: number and labels of systems,
    Spearman's rho and Kendall's tau-b with 95 % percentile intervals, `p` of the two-sided test of
    tau (exact unless values are equal), and `note`. Raises `ValueError` for missing columns or a
    system that occurs twice.
    """
    needed = [*BLOCK, "bits", "method_label", "reported", "measured"]
    if missing := [c for c in needed if c not in table]:
        raise ValueError(f"the table has no column {', '.join(missing)}")
    if least < 3:
        raise ValueError(f"least={least}: an order of fewer than three systems says nothing")
    both = table.dropna(subset=["reported", "measured", "result_source"])
    rows: list[dict[str, Any]] = []
    for group, cells in both.groupby(BLOCK, sort=False):
        twice = cells[cells.duplicated(["method_label", "bits"])]
        if len(twice):
            row = twice.iloc[0]
            raise ValueError(f"{row['method_label']} occurs twice at {row['bits']} bits in {group}")
        wide = cells.pivot(index="method_label", columns="bits", values=["reported", "measured"])
        views = [
            (int(b), wide.xs(b, axis=1, level="bits").dropna())
            for b in sorted(cells["bits"].unique())
        ]
        whole = wide.dropna().T.groupby(level=0).mean().T
        columns = ["reported", "measured"]
        for bits, view in [*views, (pd.NA, whole.reindex(columns=columns))]:
            rows.append(
                dict(zip(BLOCK, group, strict=True))
                | {"bits": bits, "systems": len(view), "labels": ", ".join(view.index)}
                | _agreement(view[columns].to_numpy(float), least, draws, seed)
            )
    frame = pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)
    return frame.astype({"bits": "Int64", "result_source": "Int64"})


def _agreement(values: Floats, least: int, draws: int, seed: int) -> dict[str, Any]:
    """Correlations of the two columns of values (systems, 2), with intervals."""
    n = len(values)
    if n < least:
        return {"note": f"{n} system{'s' * (n != 1)}: too few for a rank correlation"}
    picks = np.random.default_rng(seed).integers(0, n, (draws, n))
    picks = picks[np.array([len(set(p)) >= 3 for p in picks.tolist()])]
    reported, measured = values.T
    out: dict[str, Any] = {"note": ""}
    for name, function in (("spearman", spearman), ("kendall", kendall)):
        sampled = function(reported[picks], measured[picks])
        known = sampled[~np.isnan(sampled)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        out |= {
            name: float(function(reported[None], measured[None])[0]),
            f"{name}_low": float(low),
            f"{name}_high": float(high),
        }
    return out | {"p": float(scipy.stats.kendalltau(reported, measured).pvalue)}


def holm(p: ArrayLike) -> Floats:
    """P-values (n,) adjusted for n tests by Holm's step-down rule; NaN counts as no test.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    out = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return out


def neighbours(records: pd.DataFrame, measure: str = "map_all") -> pd.DataFrame:
    """Systems in order of mean mAP, each tested against the next one.

    A pair is one code length and one seed that both systems have; the Wilcoxon signed-rank test
    (two-sided) asks whether the differences centre on zero. The pairs vary training and length
    over the same queries and images, so the answer holds for this bench, not for other data.

    Args:
        records: runs of one protocol and backbone: method, protocol, bits, seed and ``measure``.
        measure: column to compare (0..1).

    Returns one row a pair of neighbours: names, mean of each over the systems' own runs, mean
    difference ``gain`` over the ``pairs``, in how many the better ``wins``, ``p`` and ``p_holm``
    (NaN where fewer than `LEAST_PAIRS` pairs differ: equal runs say nothing). Systems that lack one
    of the lengths are left out, since the mean of a part of the lengths does not rank. Raises
    `ValueError` for mixed protocols, missing columns or several runs of one seed.
    """
    if missing := [c for c in ("method", "protocol", "bits", "seed", measure) if c not in records]:
        raise ValueError(f"records have no column {', '.join(missing)}")
    known = records[records[measure].notna()]
    if known["protocol"].nunique() > 1:
        raise ValueError(
            f"records mix protocols {', '.join(known['protocol'].unique())}: choose one"
        )
    twice = known[known.duplicated(["method", "bits", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"several records of {row['method']}, {row['bits']} bits, seed {row['seed']}"
        )
    cells = known.set_index(["bits", "seed", "method"])[measure].unstack("method")
    by_length = cells.groupby("bits").mean().dropna(axis=1)
    mean = by_length.mean().sort_values(ascending=False)
    rows = []
    for better, other in zip(mean.index, mean.index[1:], strict=False):
        gain = (cells[better] - cells[other]).dropna().to_numpy(float)
        tested = np.count_nonzero(gain) >= LEAST_PAIRS
        p = float(scipy.stats.wilcoxon(gain).pvalue) if tested else np.nan
        size = float(gain.mean()) if len(gain) else np.nan
        counts = [len(gain), int((gain > 0).sum())]
        rows.append([better, other, mean[better], mean[other], size, *counts, p])
    frame = pd.DataFrame(rows, columns=NEIGHBOUR_COLUMNS[:-1])
    frame["p_holm"] = holm(frame["p"].to_numpy(float))
    return frame
