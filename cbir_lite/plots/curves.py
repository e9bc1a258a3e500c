"""Curves of measured systems: precision against recall or rank, mAP against code length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from cbir_lite.plots import style
from cbir_lite.plots.tables import one_run_a_seed

Floats = NDArray[np.float64]
MEASURES = {"map_1000": "mAP@1000", "map_5000": "mAP@5000", "map_54000": "mAP@54000"}
MEASURES |= {"map_all": "mAP@all", "p_1000": "P@1000", "p_radius2": "precision within radius 2"}
LONGEST_CODE = 256  # above it, `bits` counts the dimensions of a real-valued reference


def _seeds(values: ArrayLike, what: str) -> Floats:
    """(seeds, points) of a curve given for one seed (points,) or several."""
    array = np.atleast_2d(np.asarray(values, np.float64))
    finite = array[np.isfinite(array)]
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{what} must have shape (points,) or (seeds, points), not {array.shape}")
    if ((finite < 0) | (finite > 1)).any():
        raise ValueError(f"{what} must lie in 0..1, found {finite.min():g} to {finite.max():g}")
    return array


def _same_shape(name: str, x: Floats, y: Floats) -> None:
    if x.shape[1] != y.shape[1] or (len(x) not in (1, len(y))):
        raise ValueError(f"{name}: {x.shape} and {y.shape} (seeds, points) do not belong together")


def _line(ax: Axes, x: Floats, runs: Floats, name: str, look: dict[str, Any]) -> None:
    """Mean over seeds, and a band of one standard deviation (n - 1) where there are several."""
    mean = runs.mean(0)
    every = max(1, len(x) // 10)
    ax.plot(x, mean, label=name, markevery=every, **look)
    if len(runs) > 1:
        spread = runs.std(0, ddof=1)
        low, high = mean - spread, np.minimum(mean + spread, 1)
        ax.fill_between(x, np.maximum(low, 0), high, color=look["color"], alpha=0.18, lw=0)


def _legend(ax: Axes, order: Iterable[str]) -> None:
    """A legend right of the axes, in the given order of names."""
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    names = [n for n in order if n in entries]
    ax.legend(
        [entries[n] for n in names],
        names,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
        handlelength=3,
    )


def pr_curve(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, ax: Axes | None = None) -> Axes:
    """Precision against recall, one line a method.

    `curves`: name to (precision, recall), each (points,) or (seeds, points), values in 0..1. Over
    seeds the mean at each point (radius or rank) is drawn, and a band of one standard deviation of
    the precision. Points with NaN (a radius that retrieves nothing) are left out. `ValueError` for
    other shapes or values.
    """
    with style.use():
        ax = style.new_axes(3.6) if ax is None else ax
        looks = style.line_styles(curves)
        for name, (precision, recall) in curves.items():
            p, r = _seeds(precision, f"precision of {name}"), _seeds(recall, f"recall of {name}")
            _same_shape(name, r, p)
            known = np.isfinite(p).all(0) & np.isfinite(r).all(0)
            _line(ax, r[:, known].mean(0), p[:, known], name, looks[name])
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        _legend(ax, curves)
    return ax


def precision_at_k(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, ax: Axes | None = None
) -> Axes:
    """Precision of the top k against k, one line a method, k on a logarithmic axis.

    `curves`: name to (k, precision): k (points,), precision (points,) or (seeds, points) in 0..1.
    """
    with style.use():
        ax = style.new_axes(3.6) if ax is None else ax
        looks = style.line_styles(curves)
        for name, (ranks, precision) in curves.items():
            k = np.asarray(ranks, np.float64)
            p = _seeds(precision, f"precision of {name}")
            if k.ndim != 1 or (k < 1).any():
                raise ValueError(f"{name}: k must be ranks from 1, of shape (points,)")
            _same_shape(name, k[None], p)
            _line(ax, k, p, name, looks[name])
        ax.set(xlabel="k (items returned)", ylabel="precision@k", ylim=(0, 1.02), xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        _legend(ax, curves)
    return ax


def map_by_bits(
    records: pd.DataFrame,
    measure: str = "map_all",
    *,
    methods: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """mAP in percent against code length, mean over seeds with bars of one standard deviation.

    `records`: columns method, protocol, bits, seed and `measure` (0..1), of one protocol and one
    backbone. A method of more than 256 "bits" (dimensions of a real-valued reference) becomes a
    level line. `methods` picks and orders; by default all, best first. `ValueError` for mixed
    protocols or backbones, unknown methods, and for several runs with one seed.
    """
    for column in ("protocol", "backbone"):
        found = sorted(records[column].dropna().unique()) if column in records else []
        if len(found) > 1:
            raise ValueError(f"records mix {column}s {', '.join(found)}: choose one")
    one_run_a_seed(records)
    table = records.groupby(["method", "bits"])[measure].agg(["mean", "std"]).dropna(how="all")
    if table.empty:
        raise ValueError(f"no record has a value of {measure}")
    best = table["mean"].groupby("method").max().sort_values(ascending=False)
    chosen = list(best.index) if methods is None else list(methods)
    if unknown := [m for m in chosen if m not in best.index]:
        raise ValueError(f"no record of {', '.join(unknown)}; there are {', '.join(best.index)}")
    with style.use():
        ax = style.new_axes(max(3.8, 0.5 + 0.19 * len(chosen))) if ax is None else ax
        lengths: set[int] = set()
        order: list[str] = []
        for name, look in style.line_styles(chosen).items():
            rows = table.loc[name] * 100
            codes = rows[rows.index <= LONGEST_CODE]
            if len(codes):
                ax.errorbar(codes.index, codes["mean"], codes["std"].fillna(0), capsize=2,
                            elinewidth=0.8, label=name, **look)  # fmt: skip
                lengths |= set(codes.index)
                order.append(name)
            for dimensions, value in rows[rows.index > LONGEST_CODE]["mean"].items():
                order.append(f"{name} ({dimensions} numbers)")
                ax.axhline(value, color=look["color"], linestyle=(0, (6, 2)), lw=1, label=order[-1])
        ticks = sorted(lengths)
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set(xlabel="code length (bits)", ylabel=f"{MEASURES.get(measure, measure)} (%)")
        _legend(ax, order)
    return ax
