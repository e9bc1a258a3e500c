"""The store: what a descriptor's key holds, and features that leave the cache alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cbir_lite.features import extract as package
from cbir_lite.features import handcrafted, load, store
from tests.features.test_extract import BACKBONE, image_set

SOME, OTHERS = np.arange(4), np.arange(5, 12)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


@pytest.mark.parametrize("name", store.FIXED)
def test_what_learns_nothing_is_kept_once_for_all_training_images(cache: Path, name: str) -> None:
    """`cbir features digits --backbone hog` fills what `cbir train` reads."""
    images = image_set(12)
    first = load(images, name, progress=False)
    for train in (SOME, OTHERS):
        np.testing.assert_array_equal(load(images, name, train=train, progress=False), first)
    assert len(kept(cache)) == 1


def test_words_are_kept_by_the_images_they_were_learned_from(cache: Path) -> None:
    images = image_set(12)
    a, b = (load(images, "bow_patches", train=t, progress=False) for t in (SOME, OTHERS))
    assert len(kept(cache)) == 2
    assert not np.array_equal(a, b)
    expected = handcrafted.describe(images.images, "bow_patches", vocabulary=images.images[SOME])
    np.testing.assert_array_equal(a, expected)


@pytest.mark.parametrize("name", handcrafted.DESCRIPTORS)
def test_another_version_of_the_descriptors_is_another_entry(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    images = image_set(12)
    before = store._described_path(images, name, SOME)
    monkeypatch.setattr(handcrafted, "VERSION", handcrafted.VERSION + 1)
    assert store._described_path(images, name, SOME) != before


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hog", "pooled"),
        ("lbp", "pooled+hog"),
        ("pixels", "stages"),
        (BACKBONE, "pooled"),
        (BACKBONE, "maps"),
        (BACKBONE, "stages+hog"),
    ],
)
def test_what_is_not_kept_is_the_same_and_leaves_the_cache_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    images = image_set(35)  # two batches
    found = load(images, name, kind, progress=False, keep=False)
    assert kept(cache) == []
    expected = load(images, name, kind, progress=False)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_kept_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(batch: np.ndarray) -> tuple[np.ndarray, None]:
        return np.full((len(batch), 4), np.nan, np.float32), None

    monkeypatch.setattr(package, "open_runtime", lambda *_: run)
    with pytest.raises(FloatingPointError, match="image 0 "):
        load(image_set(5), BACKBONE, progress=False, keep=False)
