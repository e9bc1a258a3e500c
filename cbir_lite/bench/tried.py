"""What a search over settings found, from its records."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from cbir_lite.methods import registry


def tried_alone(records: pd.DataFrame, measure: str = "map_all") -> pd.DataFrame:
    """One row for each setting of a system that was changed with the rest as on its card.

    Args:
        records: records of a search; those with ``params`` of ``{}`` are the card's own.
        measure: column to compare.

    Returns:
        Index ``system`` and ``setting``; ``card``, the card's value; ``measure``, the mean with it
        over seeds; ``gain of other values``, each value with what its mean adds, *clear* where its
        lowest seed is above the card's highest.
    """
    runs = records.groupby(["method", "bits", "params"])[measure].agg(["mean", "min", "max"])
    runs = runs.reset_index()
    own = runs[runs["params"] == "{}"].drop(columns="params")
    runs = runs.merge(own, on=["method", "bits"], suffixes=("", "_card"))
    lines: dict[tuple[Any, ...], list[str]] = {}
    for run in runs.to_dict("records"):
        changed = json.loads(run["params"])
        if len(changed) != 1:
            continue
        ((setting, value),) = changed.items()
        card = registry.get(run["method"]).parameters()[setting]
        clear = ", clear" if run["min"] > run["max_card"] else ""
        line = f"{value}: {run['mean'] - run['mean_card']:+.3f}{clear}"
        lines.setdefault((run["method"], setting, card, run["mean_card"]), []).append(line)
    rows = [(*key, "; ".join(gains)) for key, gains in lines.items()]
    columns = ["system", "setting", "card", measure, "gain of other values"]
    return pd.DataFrame(rows, columns=columns).set_index(["system", "setting"])


def tried_together(records: pd.DataFrame, measure: str = "map_all") -> pd.DataFrame:
    """Mean, extremes and number of runs of settings searched together, without the card's own.

    Index ``method``, ``bits`` and ``params``.
    """
    own = records.loc[records["params"] == "{}", ["method", "bits"]]
    known = pd.MultiIndex.from_frame(own)
    apart = records[~pd.MultiIndex.from_frame(records[["method", "bits"]]).isin(known)]
    runs = apart.groupby(["method", "bits", "params"])[measure]
    return runs.agg(["mean", "min", "max", "count"])
