"""One look for every figure: colours safe for colour-blind readers, type legible in print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

PAGE_WIDTH = 7.5
"""Width of a figure in inches."""
SMALL = 7.0
"""Smallest type, in points."""
LINE_SPACING = 1.1

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "bluish green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "reddish purple": "#CC79A7",
    "grey": "#777777",
}
"""Palette of Okabe and Ito (2008), with a grey for what is secondary."""

# Yellow lines are too faint on white, so it stays out of the cycle.
CYCLE = [OKABE_ITO[n] for n in OKABE_ITO if n not in ("black", "yellow", "grey")]
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":", "-.")

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 120,
    "svg.fonttype": "none",
}


@contextmanager
def use() -> Iterator[None]:
    """The style inside a ``with`` block; the settings before are restored."""
    with mpl.rc_context(_RC):
        yield


def new_axes(
    height: float, width: float = PAGE_WIDTH, layout: Literal["constrained"] | None = "constrained"
) -> Axes:
    """Axes of a new figure of `width` x `height` inches; without `layout` they fill the figure."""
    figure = plt.figure(figsize=(width, height), layout=layout)
    return figure.add_subplot() if layout else figure.add_axes((0.0, 0.0, 1.0, 1.0))


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in inches."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def canvas(ax: Axes, width: float, height: float) -> None:
    """Make the axes a sheet of paper measured in inches from the upper left, without frame."""
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("auto")


@lru_cache(maxsize=4096)
def text_width(text: str, points: float = SMALL, weight: str = "normal") -> float:
    """Width of a line of text in inches, without a figure; never less than it will be drawn."""
    font = FontProperties(family="DejaVu Sans", size=points, weight=weight)
    width = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72
    return 1.05 * width  # at screen resolution hinting widens small type by up to 5 %


def line_height(points: float = SMALL) -> float:
    """Distance of two lines in inches."""
    return LINE_SPACING * points / 72


def _pieces(text: str) -> list[str]:
    """Words, and the parts of words at hyphens; a part keeps its hyphen or following space."""
    pieces = []
    for word in text.split(" "):
        parts = word.split("-")
        pieces += [f"{part}-" for part in parts[:-1]] + [f"{parts[-1]} "]
    return [p for p in pieces if p.strip()]


def longest_piece(text: str, points: float = SMALL) -> float:
    """Width in inches that `text` needs when broken wherever it may be."""
    return max(text_width(piece.strip(), points) for piece in _pieces(text))


def _between_syllables(word: str, i: int) -> bool:
    """Whether a syllable may start at letter `i`: one consonant, then a vowel."""
    vowels = "aeiouy"
    opens = word[i] not in vowels and word[i + 1] in vowels
    return opens and word[i - 1 : i + 1] not in ("sh", "ch", "th", "ph")


def wrap(text: str, width: float, points: float = SMALL) -> list[str]:
    """Lines of at most `width` inches, broken at spaces and hyphens, else inside a word."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and text_width((line + piece).strip(), points) > width:
            lines.append(line.strip())
            line = ""
        while text_width(piece.strip(), points) > width and len(piece.strip()) > 5:
            # No lone letter on the next line, and at the end of a syllable where there is one.
            cuts = range(len(piece.strip()) - 3, 1, -1)
            fitting = [i for i in cuts if text_width(piece[:i] + "-", points) <= width] or [2]
            cut = next((i for i in fitting if _between_syllables(piece, i)), fitting[0])
            lines.append(piece[:cut] + "-")
            piece = piece[cut:]
        line += piece
    return [*lines, line.strip()] if line.strip() else lines


def tint(colour: str, strength: float = 0.16) -> tuple[float, float, float]:
    """The colour thinned with white, a background on which black is easy to read."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on the colour."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
    )
    # WCAG contrast of white is above that of black where the luminance is below 0.179.
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 else "black"


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes for each name, in order; no two alike among the first 42."""
    return {
        name: {
            "color": CYCLE[i % len(CYCLE)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(CYCLE) % len(DASHES)],
        }
        for i, name in enumerate(names)
    }
