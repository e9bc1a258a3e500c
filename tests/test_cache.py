"""What cannot be written is told with the remedy that helps."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cbir_lite import _cache


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """The disk is full for every file that is longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_array_that_is_cut_short_has_no_room(tmp_path: Path) -> None:
    target = tmp_path / "x.npy"
    with (
        _files_of_at_most(2**20),
        pytest.raises(_cache.CacheUnwritable, match=r"x\.npy \(\d+ requested and \d+ written\)"),
        _cache.atomic_write(target) as temporary,
    ):
        np.save(temporary, np.zeros(2**20))
    assert list(tmp_path.iterdir()) == []
    assert not _cache.no_room(OSError("the sketch cannot be read"))


def test_only_paths_of_the_cache_have_the_variable_as_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("CBIR_LITE_CACHE", str(cache))
    cache.mkdir()
    for folder in (cache, tmp_path):
        (folder / "file").write_text("in the way")
        with pytest.raises(_cache.CacheUnwritable) as caught:
            _cache.make_dir(folder / "file" / "sub")
        assert f"cannot write {folder / 'file' / 'sub'} (" in str(caught.value)
        assert "a folder that is writable and has room" in str(caught.value)
        assert ("CBIR_LITE_CACHE" in str(caught.value)) is (folder == cache)
