"""Pictures with several objects, their boxes and clutter, composed from the emoji set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cbir_lite.datasets.emoji import Emoji
from cbir_lite.datasets.emoji_sources import COLOUR


@dataclass(frozen=True, eq=False)
class Scenes:
    """Several icons on one canvas.

    Attributes:
        images: uint8 (n, size, size, 3).
        concepts: int64 (n, K), what stands in each box, -1 where there are fewer than K.
        boxes: int64 (n, K, 4), left, top, right, bottom in pixels; -1 where there is none.
        labels: multi-hot uint8 (n, C) over the groups of the concepts.
    """

    images: npt.NDArray[np.uint8]
    concepts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8]


def compose_scenes(
    source: Emoji,
    concepts: npt.NDArray[np.int64],
    n: int,
    *,
    seed: int = 0,
    most: int = 4,
    size: int = 192,
    styles: tuple[str, ...] = COLOUR,
    clutter: int = 6,
) -> Scenes:
    """Compose pictures of one to ``most`` icons of different concepts, without overlap.

    Args:
        source: the set.
        concepts: which concepts may appear.
        n: pictures.
        seed: another seed gives other pictures.
        most: largest number of icons, at most 4.
        size: side of the canvas in pixels.
        styles: from which each icon takes one at random.
        clutter: line segments of random colour behind the icons.
    """
    if not 1 <= most <= 4 or len(concepts) < most:
        raise ValueError(f"most={most} must lie in 1..4 and not exceed the concepts given")
    random = np.random.default_rng(seed)
    half = size // 2
    images = np.empty((n, size, size, 3), np.uint8)
    chosen = np.full((n, most), -1, np.int64)
    boxes = np.full((n, most, 4), -1, np.int64)
    labels = np.zeros((n, len(source.group_names)), np.uint8)
    for i in range(n):
        canvas = np.broadcast_to(random.integers(150, 256, 3), (size, size, 3)).astype(np.uint8)
        canvas = _with_lines(canvas, clutter, random)
        k = int(random.integers(1, most + 1))
        cells = random.permutation(4)[:k]
        for j, concept in enumerate(random.choice(concepts, k, replace=False)):
            side = int(random.integers(half // 2, half))
            left = int(cells[j] % 2 * half + random.integers(0, half - side + 1))
            top = int(cells[j] // 2 * half + random.integers(0, half - side + 1))
            row = source.rows(np.array([concept]), (str(random.choice(styles)),))[0]
            icon = Image.fromarray(source.images[row]).resize((side, side))
            pixels = np.asarray(icon)
            # White is the paper of the icon, not part of it.
            ink = (pixels < 245).any(2, keepdims=True)
            place = canvas[top : top + side, left : left + side]
            canvas[top : top + side, left : left + side] = np.where(ink, pixels, place)
            chosen[i, j], boxes[i, j] = concept, (left, top, left + side, top + side)
            labels[i, source.groups[concept]] = 1
        images[i] = canvas
    return Scenes(images, chosen, boxes, labels)


def _with_lines(
    canvas: npt.NDArray[np.uint8], count: int, random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for _ in range(count):
        ends = random.integers(0, canvas.shape[0], 4).tolist()
        draw.line(ends, fill=tuple(random.integers(60, 220, 3).tolist()), width=2)
    return np.array(picture)
