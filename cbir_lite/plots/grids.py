"""Queries with their results: right and wrong told apart by frame, sign and dash, not by colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from cbir_lite.plots import style
from cbir_lite.plots.style import OKABE_ITO, PAGE_WIDTH, SMALL

RIGHT, WRONG = OKABE_ITO["bluish green"], OKABE_ITO["vermillion"]
EDGE, GAP, QUERY_GAP, HEADER, BADGE = 0.05, 0.07, 0.2, 0.2, 0.15
Labels = Sequence[str] | None


def _image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (values 0..255), not {image.dtype}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"an image must have shape (h, w), (h, w, 1) or (h, w, 3): {image.shape}")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _relevance(relevant: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(relevant)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise ValueError(
            f"relevant must be bool (queries, k), not {array.dtype} of shape {array.shape}"
        )
    return array


def _check_labels(
    relevant: NDArray[np.bool_], query_labels: Labels, result_labels: Sequence[Sequence[str]] | None
) -> None:
    if query_labels is not None and len(query_labels) != len(relevant):
        raise ValueError(f"{len(query_labels)} query labels for {len(relevant)} queries")
    if result_labels is not None and [len(r) for r in result_labels] != [relevant.shape[1]] * len(
        relevant
    ):
        raise ValueError(f"result_labels must have shape {relevant.shape} like relevant")


def _short(text: str, width: float) -> str:
    """The text, cut to `width` inches with an ellipsis."""
    if style.text_width(text) <= width:
        return text
    while text and style.text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _put(ax: Axes, image: NDArray[np.uint8], x: float, y: float, side: float) -> None:
    """The image, undistorted, in the middle of a square."""
    h, w = image.shape[:2]
    high, wide = side * h / max(h, w), side * w / max(h, w)
    left, top = x + (side - wide) / 2, y + (side - high) / 2
    extent = (left, left + wide, top + high, top)
    ax.imshow(_image(image), extent=extent, interpolation="nearest", aspect="auto", zorder=1)


def _mark(ax: Axes, right: bool, x: float, y: float, side: float) -> None:
    hue, dash = (RIGHT, "-") if right else (WRONG, (0, (3, 1.5)))
    ax.add_patch(
        Rectangle((x, y), side, side, fill=False, edgecolor=hue, lw=2, linestyle=dash, zorder=3)
    )
    ax.add_patch(Rectangle((x + side - BADGE, y), BADGE, BADGE, facecolor=hue, lw=0, zorder=4))
    ax.text(
        x + side - BADGE / 2, y + BADGE / 2, "✓" if right else "✗", fontsize=9, color="white",
        weight="bold", ha="center", va="center_baseline", zorder=5, gid="mark",
    )  # fmt: skip


def retrieval_grid(
    query_images: Sequence[NDArray[np.uint8]],
    result_images: Sequence[Sequence[NDArray[np.uint8]]],
    relevant: ArrayLike | None,
    *,
    query_labels: Labels = None,
    result_labels: Sequence[Sequence[str]] | None = None,
    ax: Axes | None = None,
    width: float = PAGE_WIDTH,
) -> Axes:
    """One row a query: the query at the left, its top k at the right.

    `query_images` (q, h, w, c) and `result_images` (q, k, h, w, c) uint8, c = 1 or 3 (or lists of
    images of various sizes); `relevant` bool (q, k). A relevant result has a solid frame and a
    tick, another one a dashed frame and a cross; with None, where nobody knows, nothing is marked.
    Labels stand below, cut to the image's width. `ValueError` for shapes that do not fit, and for
    given axes that are too low.
    """
    right = (
        np.zeros((len(result_images), len(result_images[0])), bool)
        if relevant is None
        else _relevance(relevant)
    )
    n, k = right.shape
    if len(query_images) != n or [len(r) for r in result_images] != [k] * n:
        raise ValueError(
            f"relevant has shape {right.shape}, but there are {len(query_images)} queries with "
            f"{sorted({len(r) for r in result_images})} results"
        )
    _check_labels(right, query_labels, result_labels)
    below = 0.17 if query_labels is not None or result_labels is not None else 0.0
    with style.use():
        inches = width if ax is None else style.size_of(ax)[0]
        side = (inches - 2 * EDGE - QUERY_GAP - GAP * (k - 1)) / (k + 1)
        if side < 0.3:
            raise ValueError(f"{k} results on {inches:.2f} in are too small to see: show fewer")
        row = side + GAP + below
        needed = HEADER + n * row + EDGE
        if ax is None:
            ax = style.new_axes(needed, inches, layout=None)
        elif style.size_of(ax)[1] < needed - 1e-6:
            raise ValueError(
                f"the axes are {style.size_of(ax)[1]:.2f} in high, the grid needs {needed:.2f} in"
            )
        lefts = [EDGE + side + QUERY_GAP + i * (side + GAP) for i in range(k)]
        for column, x in zip(["query", *map(str, range(1, k + 1))], [EDGE, *lefts], strict=True):
            ax.text(
                x + side / 2, HEADER / 2, column, fontsize=8, weight="bold", ha="center",
                va="center", gid="rank",
            )  # fmt: skip
        for q in range(n):
            y = HEADER + q * row
            _put(ax, np.asarray(query_images[q]), EDGE, y, side)
            ax.add_patch(Rectangle((EDGE, y), side, side, fill=False, lw=1, zorder=3))
            if query_labels is not None:
                _caption(ax, query_labels[q], EDGE, y + side, side)
            for i, x in enumerate(lefts):
                _put(ax, np.asarray(result_images[q][i]), x, y, side)
                if relevant is not None:
                    _mark(ax, bool(right[q, i]), x, y, side)
                if result_labels is not None:
                    _caption(ax, result_labels[q][i], x, y + side, side)
        # Last, because imshow changes the limits.
        style.canvas(ax, inches, max(needed, style.size_of(ax)[1]))
    return ax


def _caption(ax: Axes, text: str, x: float, y: float, side: float) -> None:
    # A caption may be a file's name: of any bytes, and with dollars that begin no formula.
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    ax.text(
        x + side / 2, y + 0.03, _short(text, side), fontsize=SMALL, ha="center", va="top",
        gid="label", parse_math=False,
    )  # fmt: skip


def describe_grid(
    relevant: ArrayLike,
    *,
    query_labels: Labels = None,
    result_labels: Sequence[Sequence[str]] | None = None,
) -> str:
    """A text that tells what `retrieval_grid` shows, for the image's alt attribute."""
    right = _relevance(relevant)
    _check_labels(right, query_labels, result_labels)
    n, k = right.shape
    sentences = [f"{n} quer{'y' if n == 1 else 'ies'} with the top {k} results each."]
    for q, row in enumerate(right):
        name = f"Query {q + 1}" + (f" ({query_labels[q]})" if query_labels is not None else "")
        wrong = [
            str(i + 1) + (f" ({result_labels[q][i]})" if result_labels is not None else "")
            for i in np.flatnonzero(~row).tolist()
        ]
        sentence = f"{name}: {row.sum()} of {k} relevant"
        if wrong:
            sentence += f"; not relevant at rank{'s' * (len(wrong) > 1)} {', '.join(wrong)}"
        sentences.append(sentence + ".")
    return " ".join(sentences)
