"""Chronological views of the systems: Figs. 3, 5 and 8 of the survey, redrawn from its text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cache

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from cbir_lite import survey
from cbir_lite.plots import style
from cbir_lite.plots.style import CYCLE, OKABE_ITO, PAGE_WIDTH, SMALL

# Heading in the columns, words for the legend, and the colour that the captions of Figs. 5 and 8
# name, in the nearest safe hue (None: no caption names one). The order is that of the columns.
GROUPS: dict[str, tuple[str, str, str | None]] = {
    "cnn": ("CNN", "Convolutional network (CNN)", "vermillion"),
    "autoencoder": ("AE", "Autoencoder (AE)", "sky blue"),
    "variational": ("Variational", "Variational network", "orange"),
    "siamese": ("Siamese", "Siamese network", "reddish purple"),
    "triplet": ("Triplet", "Triplet network", "reddish purple"),
    "rnn": ("RNN", "Recurrent network (RNN)", "black"),
    "gan": ("GAN", "Generative adversarial network (GAN)", "blue"),
    "attention": ("Attention", "Attention network", "bluish green"),
    "rl": ("RL", "Reinforcement learning (RL)", "yellow"),
    "dnn": ("DNN", "Fully connected network (DNN)", "grey"),
    "binary": ("Binary", "Binary descriptor", "vermillion"),
    "real": ("Real-valued", "Real-valued descriptor", "blue"),
    "aggregation": ("Aggregated", "Aggregated descriptor", "sky blue"),
    "2011-2015": ("", "2011-2015", "sky blue"),
    "2016-2020": ("", "2016-2020", "vermillion"),
    "supervised": ("Supervised", "Supervised", None),
    "unsupervised": ("Unsupervised", "Unsupervised", None),
    "semi": ("Semi", "Semi-supervised", None),
    "weak": ("Weak", "Weakly supervised", None),
    "pseudo": ("Pseudo", "Pseudo-supervised", None),
    "self": ("Self", "Self-supervised", None),
    "cross_modal": ("Cross-modal", "Cross-modal", None),
    "sketch": ("Sketch", "Sketch-based", None),
    "multi_label": ("Multi-label", "Multi-label", None),
    "instance": ("Instance", "Instance", None),
    "object": ("Object", "Object", None),
    "semantic": ("Semantic", "Semantic", None),
    "fine_grained": ("Fine-grained", "Fine-grained", None),
    "asymmetric": ("Asymmetric", "Asymmetric", None),
}
FREE_COLOURS = [*CYCLE, *(OKABE_ITO[name] for name in ("yellow", "grey", "black"))]
UNKNOWN = "year\nunknown"
PRINTED = ("survey_text", "table", "figure")
HEADER, LEGEND_LINE, EDGE = 0.3, 0.17, 0.05
GUTTER, LEFT, RIGHT, PAD, GAP, BLOCK_GAP = 0.05, 0.045, 0.015, 0.02, 0.03, 0.05
HEADING, CUT_WORD, STEP = 0.15, 0.06, 0.03


@dataclass
class _Label:
    text: str
    printed: bool
    lines: list[str] = field(default_factory=list)

    @property
    def height(self) -> float:
        return len(self.lines) * style.line_height() + 2 * PAD


@dataclass
class _Block:
    """The systems of one group in one year."""

    column: int
    group: str
    heading: str
    labels: list[_Label]

    @property
    def height(self) -> float:
        heading = HEADING + GAP / 2 if self.heading else 0.0
        return heading + sum(label.height + GAP for label in self.labels) - GAP


def _colours(groups: list[str]) -> dict[str, str]:
    """Colour of each group; those that no caption colours take the free ones in turn."""
    named = {g: GROUPS[g][2] for g in groups}
    free = itertools.cycle(FREE_COLOURS)
    return {g: next(free) if name is None else OKABE_ITO[name] for g, name in named.items()}


def _blocks(frame: pd.DataFrame, groups: list[str], years: list) -> list[_Block]:
    blocks: dict[tuple[int, str], _Block] = {}
    frame = frame.assign(rank=[groups.index(g) for g in frame["group"]])
    frame = frame.sort_values(["rank", "year", "citation"], kind="stable")
    for _, rows in frame.groupby(["group", "year", "label"], sort=False, dropna=False):
        group, year, name = rows.iloc[0][["group", "year", "label"]]
        column = len(years) - 1 if pd.isna(year) else years.index(int(year))
        missing = [f"[{n}]" for n in rows["citation"] if f"[{n}]" not in name]
        printed = bool(rows["year_basis"].isin(PRINTED).all())
        block = blocks.setdefault((column, group), _Block(column, group, GROUPS[group][0], []))
        block.labels.append(_Label(" ".join([name, *missing]), printed))
    return list(blocks.values())


def _break(blocks: list[_Block], width: float) -> tuple[float, int]:
    """Break a year's labels to a column width; the stack's height and the number of cut words."""
    room = width - GUTTER - LEFT - RIGHT
    height, cut = 0.0, 0
    for block in blocks:
        for label in block.labels:
            label.lines = style.wrap(label.text, room)
            cut += style.longest_piece(label.text) > room
        height += block.height + BLOCK_GAP
    return height, cut


def _columns(years: list[list[_Block]], width: float) -> list[float]:
    """Widths of the years: room moves from one to another while that lowers the whole figure.

    A cut word counts as much as `CUT_WORD` inches of height.
    """
    n = len(years)
    least = []
    for year in years:
        headings = [style.text_width(b.heading, SMALL, "bold") + LEFT + RIGHT for b in year]
        least.append(max([style.text_width("2000", 9, "bold"), *headings]) + GUTTER)
    widths = [w + (width - sum(least)) / n for w in least]

    @cache
    def measure(year: int, steps: int) -> tuple[float, int]:
        return _break(years[year], widths[year] + STEP * steps)

    def cost(steps: tuple[int, ...]) -> float:
        heights, cuts = zip(*map(measure, range(n), steps), strict=True)
        return max(heights) + sum(heights) / 1000 + CUT_WORD * sum(cuts)

    best = tuple([0] * n)
    while True:
        neighbours = []
        for giver, taker in itertools.permutations(range(n), 2):
            for move in (1, 2, 4, 8):
                steps = list(best)
                steps[giver] -= move
                steps[taker] += move
                if widths[giver] + STEP * steps[giver] >= least[giver]:
                    neighbours.append(tuple(steps))
        better = min(neighbours, key=cost, default=best)
        if cost(better) >= cost(best) - 1e-9:
            return [w + STEP * s for w, s in zip(widths, best, strict=True)]
        best = better


def _legend_rows(entries: list[str], width: float) -> int:
    """The fewest rows in which the entries fit, filled column by column."""
    widths = [style.text_width(entry, 8) + 0.45 for entry in entries]
    for rows in range(1, len(entries)):
        if sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) <= width:
            return rows
    return len(entries)


def timeline(fig: int | str = 3, *, ax: Axes | None = None, width: float = PAGE_WIDTH) -> Axes:
    """Systems by year: `fig` 3 (evolution), 5 (network types), 8 (descriptor types).

    Also "supervision" (Section IV) and "retrieval" (Section VII), which the survey does not draw.
    One column a year, as wide as its labels need; in it the systems by group; a label is
    "name [citation]". A dashed frame: the survey does not print that year. No two labels overlap:
    the height follows from the labels. `width` in inches is for a new figure; given axes keep
    their size, and `ValueError` says how high they must be if they are too low.
    """
    frame = survey.timeline(fig)
    found = list(dict.fromkeys(frame["group"]))
    groups = sorted(found, key=list(GROUPS).index)
    colours = _colours(groups)
    known = frame["year"].dropna().astype(int)
    years: list = list(range(known.min(), known.max() + 1))
    if frame["year"].isna().any():
        years.append(UNKNOWN)
    blocks = _blocks(frame, groups, years)
    with style.use():
        inches = width if ax is None else style.size_of(ax)[0]
        stacks = [[b for b in blocks if b.column == i] for i in range(len(years))]
        columns = _columns(stacks, inches - 2 * EDGE)
        bottom = HEADER + max(map(_break, stacks, columns))[0] + BLOCK_GAP
        entries = [GROUPS[g][1] for g in groups]
        if not all(label.printed for block in blocks for label in block.labels):
            entries.append("year not printed in the survey")
        legend_rows = _legend_rows(entries, inches)
        needed = bottom + 0.12 + LEGEND_LINE * legend_rows
        if ax is None:
            ax = style.new_axes(needed, inches, layout=None)
        elif style.size_of(ax)[1] < needed - 1e-6:
            raise ValueError(
                f"the axes are {style.size_of(ax)[1]:.2f} in high; at a width of {inches:.2f} in "
                f"this timeline needs {needed:.2f} in, else labels overlap"
            )
        style.canvas(ax, inches, max(needed, style.size_of(ax)[1]))
        lefts = [EDGE + sum(columns[:i]) for i in range(len(columns))]
        _years(ax, years, lefts, columns, bottom)
        tops = [HEADER + BLOCK_GAP] * len(years)
        for block in blocks:
            i = block.column
            hue = colours[block.group]
            _draw(ax, block, hue, lefts[i] + GUTTER / 2, tops[i], columns[i] - GUTTER)
            tops[i] += block.height + BLOCK_GAP
        _legend(ax, list(colours.values()), entries, bottom, legend_rows, inches)
    return ax


def _years(ax: Axes, years: list, lefts: list[float], columns: list[float], bottom: float) -> None:
    for i, year in enumerate(years):
        if i % 2 == 0:
            band = Rectangle((lefts[i], 0), columns[i], bottom, facecolor="#F4F4F4", lw=0, zorder=0)
            ax.add_patch(band)
        size = SMALL if year == UNKNOWN else 9
        ax.text(
            lefts[i] + columns[i] / 2, HEADER / 2, str(year), fontsize=size, weight="bold",
            ha="center", va="center", gid="year", linespacing=1.0,
        )  # fmt: skip
    ax.plot([lefts[0], lefts[-1] + columns[-1]], [HEADER, HEADER], color="black", lw=0.8)


def _draw(ax: Axes, block: _Block, hue: str, left: float, top: float, width: float) -> None:
    if block.heading:
        ax.add_patch(Rectangle((left, top), width, HEADING, facecolor=hue, lw=0, zorder=2))
        ax.text(
            left + LEFT, top + HEADING / 2, block.heading, fontsize=SMALL, weight="bold",
            color=style.ink_on(hue), va="center_baseline", zorder=4, gid="heading",
        )  # fmt: skip
        top += HEADING + GAP / 2
    for label in block.labels:
        frame = {"lw": 0.0} if label.printed else {"lw": 0.7, "linestyle": (0, (3, 2))}
        ax.add_patch(
            Rectangle(
                (left, top), width, label.height, facecolor=style.tint(hue), zorder=2,
                edgecolor="#444444", **frame,
            )
        )  # fmt: skip
        ax.add_patch(Rectangle((left, top), 0.025, label.height, facecolor=hue, lw=0, zorder=3))
        ax.text(
            left + LEFT, top + PAD, "\n".join(label.lines), fontsize=SMALL, va="top",
            linespacing=style.LINE_SPACING, zorder=4, gid="label",
        )  # fmt: skip
        top += label.height + GAP


def _legend(
    ax: Axes, colours: list[str], entries: list[str], top: float, rows: int, width: float
) -> None:
    handles = [Patch(facecolor=colour) for colour in colours]
    if len(entries) > len(colours):
        handles.append(Patch(facecolor="white", edgecolor="#444444", linestyle=(0, (3, 2))))
    bottom, _ = ax.get_ylim()
    ax.legend(
        handles, entries, loc="upper left", ncols=-(-len(entries) // rows), fontsize=8,
        bbox_to_anchor=(EDGE / width, 1 - (top + 0.06) / bottom), borderaxespad=0, borderpad=0,
        labelspacing=0.3, columnspacing=1.2, handlelength=1.4,
    )  # fmt: skip
