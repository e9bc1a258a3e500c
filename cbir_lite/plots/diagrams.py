"""Networks as boxes and arrows, drawn from records of what the code did (survey, Figs 4, 6, 7)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from cbir_lite.plots import style
from cbir_lite.plots.layered import Item, arrange, with_lanes
from cbir_lite.plots.style import OKABE_ITO, PAGE_WIDTH, SMALL

EDGE = 0.06
WIDEST, NARROWEST = 1.45, 0.8
COLUMN_GAP = 0.34
PAD = 0.06
HEAD = 0.075
FEW = 8
"""So many layers are listed one by one; more are counted by type."""
COLOURS = {"input": "grey", "module": "sky blue", "loss": "vermillion"}
WORDS = {
    "input": "input",
    "module": "part of the network",
    "loss": "loss term",
    "flows": "data, and a gradient back",
    "stops": "data only",
    "same": "same weights",
}
_LINES = {"flows": "-", "stops": (0, (3, 2)), "same": (0, (1, 1.5))}


class StageLike(Protocol):
    """A record as :mod:`cbir_lite.methods.stages` makes them; ``sources`` are earlier positions."""

    @property
    def name(self) -> str:
        """What the part is called."""

    @property
    def kind(self) -> str:
        """``input``, ``module`` or ``loss``."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Types of its layers."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what it gives."""

    @property
    def sources(self) -> tuple[tuple[int, bool], ...]:
        """Stages that feed it, and whether a gradient flows back."""


def network_diagram(
    stages: Sequence[StageLike],
    *,
    copies: Sequence[str] = (),
    ax: Axes | None = None,
    width: float = PAGE_WIDTH,
) -> Axes:
    """Boxes from left to right: name, layers and output shape of each stage; losses at the end.

    A number of rows equal to that of the first input is written B. ``copies`` draws inputs and
    parts once for each role of a row in the loss, side by side, for example ``("anchor",
    "positive", "negative")``: the same parts, drawn several times. `width` in inches is for a new
    figure; given axes keep their size, and ``ValueError`` says if it is too small. ``ValueError``
    also for no stages, another kind, and a source that is no earlier stage.
    """
    _check(stages)
    with style.use():
        inches = width if ax is None else style.size_of(ax)[0]
        columns = _columns(stages)
        n = max(columns) + 1
        room = min(WIDEST, (inches - 2 * EDGE - (n - 1) * COLUMN_GAP) / n)
        if room < NARROWEST:
            raise ValueError(
                f"{n} boxes in a row do not fit into {inches:.2f} in: show fewer parts, or make "
                f"the figure {2 * EDGE + n * NARROWEST + (n - 1) * COLUMN_GAP:.2f} in wide"
            )
        boxes = _boxes(stages, columns, copies, room)
        table = with_lanes(boxes, n)
        arrange(table)
        items = [item for column in table for item in column]
        low = min(i.y - i.height / 2 for i in items) - EDGE
        bottom = max(i.y + i.height / 2 for i in items) - low + EDGE
        for item in items:
            item.y -= low
        legend = _legend_rows(_present(boxes, table), inches)
        needed = bottom + 0.06 + 0.18 * len(legend)
        if ax is None:
            ax = style.new_axes(needed, inches, layout=None)
        elif style.size_of(ax)[1] < needed - 1e-6:
            raise ValueError(
                f"the axes are {style.size_of(ax)[1]:.2f} in high; this diagram needs "
                f"{needed:.2f} in"
            )
        style.canvas(ax, inches, max(needed, style.size_of(ax)[1]))
        step = room + COLUMN_GAP
        left = (inches - n * room - (n - 1) * COLUMN_GAP) / 2
        for column in table:
            for item in column:
                _draw_arrows(ax, item, left + item.column * step, room)
        for a, b in _same(table):
            x = left + a.column * step + room / 2
            _line(ax, [(x, a.y + a.height / 2), (x, b.y - b.height / 2)], "same", "same")
        for box in boxes:
            _draw_box(ax, box, left + box.column * step, room)
        _draw_legend(ax, legend, bottom + 0.06, inches)
    return ax


def _check(stages: Sequence[StageLike]) -> None:
    if not stages:
        raise ValueError("no stages: there is nothing to draw")
    for at, stage in enumerate(stages):
        if stage.kind not in COLOURS:
            raise ValueError(f"stage {stage.name!r} is of kind {stage.kind!r}: use {[*COLOURS]}")
        for source, _ in stage.sources:
            if not 0 <= source < at or stages[source].kind == "loss":
                raise ValueError(f"stage {stage.name!r}: {source} is no stage that could feed it")


def _columns(stages: Sequence[StageLike]) -> list[int]:
    """A stage stands right of all that feed it; losses all at the end; what nothing feeds late."""
    column: list[int] = []
    for stage in stages:
        column.append(max((column[a] + 1 for a, _ in stage.sources), default=0))
    last = max(c for c, s in zip(column, stages, strict=True) if s.kind != "loss") + 1
    for at, stage in enumerate(stages):
        if stage.kind == "loss":
            column[at] = last
    for at, stage in enumerate(stages):
        if stage.kind == "module" and not stage.sources:
            fed = [column[b] for b, other in enumerate(stages) if at in dict(other.sources)]
            column[at] = max(0, min(fed, default=1) - 1)
    for at, stage in enumerate(stages):
        # Calls of one part stand in one column where that is possible.
        alike = [b for b, s in enumerate(stages) if (s.name, s.kind) == (stage.name, "module")]
        fed = [column[b] for b, other in enumerate(stages) if at in dict(other.sources)]
        furthest = max((column[b] for b in alike), default=column[at])
        if all(c > furthest for c in fed):
            column[at] = furthest if stage.kind == "module" else column[at]
    return column


def _boxes(
    stages: Sequence[StageLike], columns: list[int], copies: Sequence[str], room: float
) -> list[Item]:
    batch = next((s.shapes[0][0] for s in stages if s.kind == "input" and s.shapes), None)
    made: list[list[Item]] = []
    boxes = []
    for stage, column in zip(stages, columns, strict=True):
        roles = [""] if stage.kind == "loss" else list(copies) or [""]
        mine = []
        for k, role in enumerate(roles):
            title = f"{stage.name}: {role}" if role and stage.kind == "input" else stage.name
            box = Item(column, 0.0, stage.kind, stage.name, _text(stage, title, batch, room))
            box.height = 2 * PAD + style.line_height() * len(box.lines)
            box.order = k
            for a, flows in stage.sources:
                feeding = made[a] if stage.kind == "loss" else [made[a][k]]
                box.sources += [(source, flows) for source in feeding]
            mine.append(box)
        made.append(mine)
        boxes += mine
    return boxes


def _text(stage: StageLike, title: str, batch: int | None, room: float) -> list[tuple[str, str]]:
    """Lines of a box and what each belongs to: ``name``, ``layers`` or ``shape``."""
    inside = room - 2 * PAD
    layers = list(stage.layers)
    if len(layers) > FEW:
        counted = [f"{count}\u00a0{name}," for name, count in Counter(layers).items()]
        fits = [style.text_width(entry) <= inside for entry in counted]
        layers = [
            entry[:-1] if fit else entry[:-1].replace("\u00a0", " ")
            for entry, fit in zip(counted, fits, strict=True)
        ]
    lines = [(line, "name") for line in _wrap_name(title, inside)]
    lines += [(line, "layers") for line in style.wrap(", ".join(layers), inside)]
    for shape in stage.shapes:
        lines += [(line, "shape") for line in style.wrap(shape_text(shape, batch), inside)]
    return lines


def shape_text(shape: tuple[int, ...], batch: int | None = None) -> str:
    """A shape in round brackets; B for a first size of ``batch``.

    >>> shape_text((128, 4, 32), 128)
    '(B, 4, 32)'
    """
    sizes = [str(size) for size in shape]
    if shape and shape[0] == batch:
        sizes[0] = "B"
    return f"({', '.join(sizes)})"


def _wrap_name(name: str, width: float) -> list[str]:
    """Lines broken behind dots, else behind underscores and spaces, never inside a word."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?", name):
        fits = style.text_width(part, SMALL, "bold") <= width
        for piece in [part] if fits else re.findall(r"[^_ ]*[_ ]|[^_ ]+", part):
            if lines[-1] and style.text_width((lines[-1] + piece).strip(), SMALL, "bold") > width:
                lines.append("")
            lines[-1] += piece
    return [line.strip() for line in lines if line.strip()]


def _same(table: list[list[Item]]) -> list[tuple[Item, Item]]:
    """Boxes of the same part that stand one below the other."""
    pairs = [(a, b) for column in table for a, b in pairwise(column)]
    return [(a, b) for a, b in pairs if a.name == b.name and a.kind == b.kind == "module"]


def _present(boxes: list[Item], table: list[list[Item]]) -> list[str]:
    kinds = [kind for kind in COLOURS if any(b.kind == kind for b in boxes)]
    flows = {f for b in boxes for _, f in b.sources}
    lines = [name for name, flag in (("flows", True), ("stops", False)) if flag in flows]
    return [*kinds, *lines, *(["same"] if _same(table) else [])]


def _draw_box(ax: Axes, box: Item, left: float, room: float) -> None:
    hue, top = OKABE_ITO[COLOURS[box.kind]], box.y - box.height / 2
    ax.add_patch(
        FancyBboxPatch(
            (left, top), room, box.height, boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=style.tint(hue, 0.2), edgecolor=hue, lw=0.8, zorder=3, gid="box",
        )
    )  # fmt: skip
    looks: dict[str, dict[str, Any]] = {
        "name": {"weight": "bold"},
        "layers": {"color": "#333333"},
        "shape": {"style": "italic"},
    }
    for k, (line, part) in enumerate(box.lines):
        ax.text(
            left + room / 2, top + PAD + (k + 0.5) * style.line_height(), line, fontsize=SMALL,
            ha="center", va="center_baseline", zorder=4, gid=part, **looks[part],
        )  # fmt: skip


def _draw_arrows(ax: Axes, item: Item, left: float, room: float) -> None:
    """Into a box or a lane from its neighbours on the left; a lane is crossed as well."""
    ports = sorted(item.sources, key=lambda s: s[0].y)
    spread = 0.0 if not item.kind else min(0.11, 0.7 * item.height / max(1, len(ports)))
    for k, (source, flows) in enumerate(ports):
        y = item.y + (k - (len(ports) - 1) / 2) * spread
        start, end = left - COLUMN_GAP, left - (HEAD if item.kind else 0)
        line = "flows" if flows else "stops"
        middle = (start + end) / 2
        _line(ax, [(start, source.y), (middle, source.y), (middle, y), (end, y)], line, "arrow")
        if item.kind:
            tip = [(left, y), (end, y - 0.032), (end, y + 0.032)]
            ax.add_patch(Polygon(tip, facecolor="#444444", lw=0, zorder=2))
        else:
            _line(ax, [(left, y), (left + room, y)], line, "lane")


def _line(ax: Axes, points: list[tuple[float, float]], line: str, gid: str) -> None:
    codes = [Path.MOVETO, *([Path.CURVE4] * 3 if len(points) == 4 else [Path.LINETO])]
    ax.add_patch(
        PathPatch(
            Path(points, codes), fill=False, edgecolor="#444444", lw=0.9, zorder=1,
            linestyle=_LINES[line], gid=gid, capstyle="butt",
        )
    )  # fmt: skip


def _legend_rows(entries: list[str], width: float) -> list[list[tuple[str, float]]]:
    """Entries with their left ends, in as many rows as they need."""
    rows: list[list[tuple[str, float]]] = [[]]
    x = EDGE
    for entry in entries:
        needed = 0.3 + style.text_width(WORDS[entry], SMALL)
        if rows[-1] and x + needed > width - EDGE:
            rows.append([])
            x = EDGE
        rows[-1].append((entry, x))
        x += needed + 0.22
    return rows


def _draw_legend(ax: Axes, rows: list[list[tuple[str, float]]], top: float, width: float) -> None:
    for k, row in enumerate(rows):
        y = top + 0.18 * k + 0.08
        for entry, x in row:
            if entry in COLOURS:
                hue = OKABE_ITO[COLOURS[entry]]
                ax.add_patch(
                    FancyBboxPatch(
                        (x, y - 0.045), 0.22, 0.09, boxstyle="round,pad=0,rounding_size=0.02",
                        facecolor=style.tint(hue, 0.2), edgecolor=hue, lw=0.8,
                    )
                )  # fmt: skip
            else:
                _line(ax, [(x, y), (x + 0.22, y)], entry, "key")
            ax.text(x + 0.28, y, WORDS[entry], fontsize=SMALL, va="center_baseline", gid="legend")
