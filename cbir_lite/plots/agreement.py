"""Reported against measured as a scatter, each system labelled once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from cbir_lite.plots import style
from cbir_lite.plots.style import CYCLE, PAGE_WIDTH, SMALL
from cbir_lite.plots.tables import MEASURED

LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
FIDELITY_MARKERS = {"faithful": "o", "simplified": "^", "sketch": "X"}


def _free(box: Bbox, taken: list[Bbox], frame: Bbox) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return inside and not any(box.overlaps(other) for other in taken)


def place_labels(
    ax: Axes, anchors: list[tuple[float, float, str]], points: list[tuple[float, float]]
) -> list[Any]:
    """Write a text near each anchor (x, y, text in data units) so that none hides another.

    Texts keep off each other and off all `points`; the nearest free place in a spiral is taken,
    with a thin line to the anchor where it is not beside it. `ValueError` if no room is left.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    dot = figure.dpi / 72
    frame = ax.get_window_extent()
    marks = ax.transData.transform(points) if points else np.empty((0, 2))
    taken = [
        Bbox.from_extents(x - 3 * dot, y - 3 * dot, x + 3 * dot, y + 3 * dot) for x, y in marks
    ]
    texts = []
    for x, y, name in anchors:
        px, py = ax.transData.transform((x, y))
        w, h = style.text_width(name) * figure.dpi, style.line_height(SMALL) * figure.dpi
        spiral = itertools.product(np.arange(7, 240, 4) * dot, np.arange(0, 2 * np.pi, np.pi / 8))
        for radius, angle in spiral:
            # The box touches the circle with the side that faces the anchor.
            cx = px + radius * np.cos(angle) + np.cos(angle) * w / 2
            cy = py + radius * np.sin(angle) + np.sin(angle) * h / 2
            box = Bbox.from_bounds(cx - w / 2, cy - h / 2, w, h)
            if _free(box, taken, frame):
                break
        else:
            raise ValueError(f"no room for the label {name!r}: draw fewer systems or larger axes")
        taken.append(box)
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 2}
        texts.append(
            ax.annotate(
                name, (x, y), xytext=((cx - px) / dot, (cy - py) / dot), gid="label",
                textcoords="offset points", fontsize=SMALL, ha="center", va="center",
                arrowprops=line if radius > 9 * dot else None,
            )
        )  # fmt: skip
    return texts


def agreement(df: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """mAP reported by the survey against mAP measured, in percent, on equal axes.

    `df` from `reported_measured` (or several, concatenated). Colour and dash: the printed measure
    and data set; marker: the system's fidelity; bar: one standard deviation over seeds; a thin line
    joins the code lengths of a system; on the dashed diagonal both agree. `ValueError` if no row
    has both values.
    """
    both = df[(df["status"] == MEASURED) & df["reported"].notna()]
    if both.empty:
        raise ValueError("no row has both a reported and a measured value")
    blocks = list(dict.fromkeys(both["protocol"] + ", " + both["dataset"]))
    looks = dict(zip(blocks, itertools.cycle(zip(CYCLE, LINES, strict=False)), strict=False))
    with style.use():
        if ax is None:
            ax = style.new_axes(6.3, PAGE_WIDTH)
        low = max(0.0, min(both["reported"].min(), both["measured"].min()) - 6)
        high = min(100.0, max(both["reported"].max(), both["measured"].max()) + 6)
        ax.plot([low, high], [low, high], color="#777777", lw=1, linestyle=(0, (5, 3)))
        anchors, points = [], []
        keys = ["protocol", "dataset", "method_label", "result_source", "fidelity"]
        for _, rows in both.groupby(keys, sort=False):
            rows = rows.sort_values("bits")
            protocol, dataset, label, _, fidelity = rows.iloc[0][keys]
            hue, line = looks[f"{protocol}, {dataset}"]
            ax.errorbar(
                rows["reported"], rows["measured"], rows["spread"].fillna(0), color=hue, lw=0.7,
                linestyle=line, elinewidth=0.7, marker=FIDELITY_MARKERS.get(fidelity, "s"),
                markersize=5, markeredgecolor="white", markeredgewidth=0.4,
            )  # fmt: skip
            points += list(zip(rows["reported"], rows["measured"], strict=True))
            anchors.append((*points[-1], label))
        ax.set(
            xlim=(low, high), ylim=(low, high), aspect="equal",
            xlabel="reported by the survey (mAP, %)", ylabel="measured here (mAP, %)",
        )  # fmt: skip
        handles = [
            Line2D([], [], color=hue, linestyle=line, label=b) for b, (hue, line) in looks.items()
        ]
        used = [f for f in FIDELITY_MARKERS if f in set(both["fidelity"])]
        handles += [
            Line2D([], [], color="#555555", lw=0, marker=FIDELITY_MARKERS[f], label=f) for f in used
        ]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        place_labels(ax, anchors, points)
    return ax
