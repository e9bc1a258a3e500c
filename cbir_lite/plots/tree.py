"""The taxonomy of the survey (Fig. 2), rebuilt from the headings of Sections IV to VIII."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from cbir_lite import survey
from cbir_lite.plots import style
from cbir_lite.plots.style import CYCLE, PAGE_WIDTH

ROW, BRANCH_GAP, EDGE = 0.185, 0.11, 0.05
ROOT, BRANCH, LEAF = (
    (0.0, 0.15),
    (0.2, 0.19),
    (0.44, 0.56),
)  # left and width, of the drawing's width


def _box(ax: Axes, left: float, middle: float, width: float, lines: list[str], hue: str) -> None:
    height = len(lines) * style.line_height(8) + 0.08
    ax.add_patch(
        Rectangle(
            (left, middle - height / 2), width, height, facecolor=style.tint(hue, 0.3),
            edgecolor=hue, lw=1, zorder=2,
        )
    )  # fmt: skip
    ax.text(
        left + width / 2, middle, "\n".join(lines), fontsize=8, weight="bold", ha="center",
        va="center", linespacing=style.LINE_SPACING, zorder=3, gid="label",
    )  # fmt: skip


def _link(ax: Axes, start: tuple[float, float], end: tuple[float, float], hue: str) -> None:
    bend = (start[0] + end[0]) / 2
    ax.plot([start[0], bend, bend, end[0]], [start[1], start[1], end[1], end[1]], color=hue, lw=1)


def taxonomy_tree(*, ax: Axes | None = None, width: float = PAGE_WIDTH) -> Axes:
    """Fig. 2: five facets and their leaves, with the section and the number of systems of each.

    A leaf in italics is a network type that stands only in the network column of Tables II-IV.
    `width` in inches is for a new figure; `ValueError` says how high given axes must be.
    """
    tree = survey.tree()
    needed = 2 * EDGE + ROW * len(list(tree.leaves())) + BRANCH_GAP * (len(tree.children) - 1)
    with style.use():
        inches = width if ax is None else style.size_of(ax)[0]
        if ax is None:
            ax = style.new_axes(needed, inches, layout=None)
        elif style.size_of(ax)[1] < needed - 1e-6:
            raise ValueError(
                f"the axes are {style.size_of(ax)[1]:.2f} in high, the tree needs {needed:.2f} in"
            )
        style.canvas(ax, inches, max(needed, style.size_of(ax)[1]))
        room = inches - 2 * EDGE
        root, branch, leaf = ((EDGE + a * room, w * room) for a, w in (ROOT, BRANCH, LEAF))
        middle, top = needed / 2, EDGE
        for node, hue in zip(tree.children, CYCLE, strict=False):
            centre = top + ROW * len(node.children) / 2
            _link(ax, (root[0] + root[1], middle), (branch[0], centre), "#777777")
            lines = style.wrap(f"{node.name} ({node.section})", branch[1] - 0.15, 8)
            _box(ax, branch[0], centre, branch[1], lines, hue)
            for child in node.children:
                y = top + ROW / 2
                _link(ax, (branch[0] + branch[1], centre), (leaf[0], y), hue)
                count = f"{len(child.methods)} system" + "s" * (len(child.methods) != 1)
                where = child.section or "tables only"
                ax.text(
                    leaf[0] + 0.05, y, f"{child.name} ({where}): {count}", fontsize=8,
                    va="center_baseline", style="normal" if child.section else "italic",
                    gid="label",
                )  # fmt: skip
                top += ROW
            top += BRANCH_GAP
        _box(ax, root[0], middle, root[1], style.wrap(tree.name, root[1] - 0.15, 8), "#777777")
    return ax
