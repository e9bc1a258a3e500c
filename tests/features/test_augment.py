"""Views of images: what is known exactly, and that nothing is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.features import augment
from cbir_lite.features.augment import _maps

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)


def test_flip_exchanges_left_and_right():
    np.testing.assert_array_equal(augment(IMAGES, "flip"), IMAGES[:, :, ::-1])


@pytest.mark.parametrize(("degrees", "times"), [(90, 1), (180, 2), (-90, 3), (0, 0)])
def test_right_angles_are_exact_turns(degrees, times):
    expected = np.rot90(IMAGES, times, axes=(1, 2))
    np.testing.assert_allclose(augment(IMAGES, f"rotate{degrees}").astype(int), expected, atol=1)


def test_a_small_rotation_changes_little_and_back_is_near():
    smooth = np.kron(IMAGES[:, ::3, ::3], np.ones((1, 8, 8, 1))).astype(np.uint8)
    turned = augment(smooth, "rotate5").astype(int)
    assert 0 < np.abs(turned - smooth).mean() < 20
    back = augment(turned.astype(np.uint8), "rotate-5")
    assert np.abs(back.astype(int) - smooth).mean() < np.abs(turned - smooth).mean()


def test_crops_differ_by_number_and_stay_in_the_range_of_the_picture():
    a, b = augment(IMAGES, "crop0"), augment(IMAGES, "crop1")
    np.testing.assert_array_equal(a, augment(IMAGES, "crop"))
    assert (a != b).any()
    low, high = IMAGES.min(axis=(1, 2)), IMAGES.max(axis=(1, 2))
    assert (a.min(axis=(1, 2)) >= low).all()
    assert (a.max(axis=(1, 2)) <= high).all()


def test_other_views_and_arrays_are_refused():
    with pytest.raises(ValueError, match="unknown view 'blur'"):
        augment(IMAGES, "blur")
    with pytest.raises(ValueError, match="uint8"):
        augment(IMAGES.astype(np.float32), "flip")


def test_pixels_do_not_depend_on_how_a_process_multiplies():
    """Views are kept by their pixels: workers of a grid multiply in another way than a notebook."""
    images = np.random.default_rng(3).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    before = torch.get_float32_matmul_precision()
    views = []
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            views.append([augment(images, view) for view in ("rotate5", "rotate-10", "crop1")])
    finally:
        torch.set_float32_matmul_precision(before)
    for one, other in zip(*views, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("shape", "degrees", "times"), [((9, 15), 90, 1), ((16, 10), -90, 3)])
def test_wide_and_high_pictures_are_turned_and_not_sheared(shape, degrees, times):
    """A quarter turn of the square in the middle is exact; the rest is filled by reflection."""
    images = np.random.default_rng(1).integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    middle = (slice(None), slice(top, top + side), slice(left, left + side))
    turned = augment(images, f"rotate{degrees}")
    assert turned.shape == images.shape
    expected = np.rot90(images[middle], times, axes=(1, 2)).astype(int)
    np.testing.assert_allclose(turned[middle].astype(int), expected, atol=1)


@pytest.mark.parametrize("degrees", [5, -10, 37])
def test_squares_are_turned_by_the_plain_rotation_to_the_last_bit(degrees):
    """Views are kept by their pixels: others would be extracted again."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    plain = torch.tensor([[c, -s, 0.0], [s, c, 0.0]])
    assert torch.equal(_maps(2, f"rotate{degrees}", 32 / 32), plain.expand(2, 2, 3))
