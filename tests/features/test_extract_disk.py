"""Backbone features on the disk: what their key holds, and a disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from cbir_lite._cache import CacheUnwritable
from cbir_lite.features import extract as module
from cbir_lite.features.extract import CODE_VERSION, Provenance, extract
from tests.features.test_extract import BACKBONE, _counting, _kinds, image_set


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_key_is_that_of_features_extracted_long_ago() -> None:
    """Another key means hours of extraction for every reader, so it only changes on purpose."""
    assert CODE_VERSION == 1
    path = Provenance("images", "weights", "efficientnet_lite0-224", "openvino").path("maps")
    assert path.name == "efficientnet_lite0-224-maps-db2ed6ecac1220938e68.npy"


def test_the_version_of_the_code_is_in_the_key() -> None:
    known = ("images", "weights", "efficientnet_lite0-224", "openvino")
    assert Provenance(*known).code_version == CODE_VERSION
    paths = {Provenance(*known, v).path("pooled") for v in (CODE_VERSION, CODE_VERSION + 1)}
    assert len(paths) == 2


def full(monkeypatch: pytest.MonkeyPatch, room: int, code: int = errno.ENOSPC) -> list[int]:
    """A disk with room for so many bytes a file; the sizes that it is asked for, as they come."""
    asked: list[int] = []

    def fallocate(_: int, start: int, size: int) -> None:
        asked.append(start + size)
        if start + size > room:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", fallocate, raising=False)
    return asked


@pytest.mark.parametrize(("kind", "room"), [("pooled", 0), ("maps", 1280 * 4 * 70)])
def test_a_full_disk_is_an_error_before_the_work_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, room: int
) -> None:
    """Written into a file with holes, a full disk kills the process instead."""
    images = image_set(64)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _maps)
    with monkeypatch.context() as patch:
        full(patch, room)
        with pytest.raises(CacheUnwritable, match=r"partial\.npy .*No space.*CBIR_LITE_CACHE"):
            extract(images, BACKBONE, kind, progress=False)  # type: ignore[arg-type]
    assert list(cache.rglob("*.npy")) == []
    assert (extract(images, BACKBONE, kind, progress=False) == 7).all()  # type: ignore[arg-type]


def _maps(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seven everywhere; maps larger than what is pooled."""
    n = len(batch)
    return np.full((n, 1280), 7, np.float32), np.full((n, 2, 2, 1280), 7, np.float32)


def test_all_of_each_file_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = full(monkeypatch, 1 << 40)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _maps)
    extract(image_set(64), BACKBONE, "maps", progress=False)
    header = 128
    assert asked == [header + 64 * 1280 * 4, header + 64 * 4 * 1280 * 2]


def test_what_is_gone_on_with_is_reserved_too_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version of the package left files with holes."""
    images = image_set(2100)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _counting([], 40))
    with pytest.raises(KeyboardInterrupt):
        extract(images, BACKBONE, progress=False)
    with monkeypatch.context() as patch:
        full(patch, 0)
        with pytest.raises(CacheUnwritable, match="No space"):
            extract(images, BACKBONE, progress=False)
    calls: list[int] = []
    monkeypatch.setattr(module, "open_runtime", lambda *_: _counting(calls, None))
    extract(images, BACKBONE, progress=False)
    assert sum(calls) == 2100 - 1024


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_cannot_reserve_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    full(monkeypatch, 0, code)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _kinds("pooled", None))
    assert (extract(image_set(5), BACKBONE, progress=False) == 7).all()


def test_a_system_without_the_call_extracts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _kinds("pooled", None))
    assert (extract(image_set(5), BACKBONE, progress=False) == 7).all()


def test_other_errors_of_the_disk_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, 0, errno.EIO)
    monkeypatch.setattr(module, "open_runtime", lambda *_: _kinds("pooled", None))
    with pytest.raises(OSError, match="Input/output") as caught:
        extract(image_set(5), BACKBONE, progress=False)
    assert not isinstance(caught.value, CacheUnwritable)
