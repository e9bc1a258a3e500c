"""Views of training images: the same picture turned, mirrored or cropped.

Systems that learn from invariance alone (survey Sections IV-B, IV-E) compare an image with views of
itself; the views go through the same backbone as the images.
"""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_ROTATION = re.compile(r"^rotate(-?\d+)$")
_CROP = re.compile(r"^crop(\d*)$")
_BLOCK = 4096
CROP_AREA = (0.4, 1.0)
"""Share of the picture that ``crop`` keeps: uniform between the two."""


def augment(images: NDArray[np.uint8], view: str) -> NDArray[np.uint8]:
    """One view of every image.

    Args:
        images: uint8 (n, h, w, c).
        view: ``rotateD`` (D whole degrees, counter-clockwise, e.g. ``rotate-10``), ``flip``
            (left and right exchanged) or ``cropN`` (a random part of the picture's proportions,
            mirrored half the time, resized back; another N gives other crops). What lies outside
            the picture is filled by reflection.

    Returns:
        uint8 of the same shape; what is turned keeps its proportions. Raises ``ValueError`` for
        another view.

    >>> augment(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), "flip").ravel()
    array([1, 0, 3, 2], dtype=uint8)
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (n, h, w, c), got {images.dtype} of shape {images.shape}"
        )
    if view == "flip":
        return np.ascontiguousarray(images[:, :, ::-1])
    theta = _maps(len(images), view, images.shape[1] / images.shape[2])
    parts = [
        _resample(images[a : a + _BLOCK], theta[a : a + _BLOCK])
        for a in range(0, len(images), _BLOCK)
    ]
    return np.concatenate(parts)


def _maps(n: int, view: str, aspect: float) -> Tensor:
    """Affine maps (n, 2, 3) from places of the view to places of the picture, both in [-1, 1].

    ``aspect`` is the height of the pictures over their width: a unit is not as long along both.
    """
    rotation = _ROTATION.match(view)
    if rotation:
        angle = math.radians(int(rotation[1]))
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, -s * aspect, 0.0], [s / aspect, c, 0.0]]).expand(n, 2, 3)
    crop = _CROP.match(view)
    if crop:
        generator = np.random.default_rng(int(crop[1] or 0))
        side = np.sqrt(generator.uniform(*CROP_AREA, n))
        centre = generator.uniform(-1, 1, (2, n)) * (1 - side)
        mirror = generator.choice([-1.0, 1.0], n)
        theta = np.zeros((n, 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = side * mirror, side
        theta[:, 0, 2], theta[:, 1, 2] = centre
        return torch.from_numpy(theta)
    raise ValueError(f"unknown view {view!r}: use rotateD (D whole degrees), flip or cropN")


def _resample(images: NDArray[np.uint8], theta: Tensor) -> NDArray[np.uint8]:
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    # In double: products of floats depend on how a process multiplies, and pixels would with them.
    grid = F.affine_grid(theta.double(), list(x.shape), align_corners=False).float()
    y = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return y.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
