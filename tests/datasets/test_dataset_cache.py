from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cbir_lite import _cache


def test_the_cache_is_where_the_variable_says_and_made_on_demand(cache):
    assert not cache.exists()
    assert _cache.cache_dir() == cache.resolve()
    assert cache.is_dir()


def test_without_the_variable_the_users_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("CBIR_LITE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert _cache.cache_dir() == tmp_path / ".cache" / "cbir_lite"


def test_an_impossible_cache_names_the_path_and_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "file" / "sub"))
    with pytest.raises(_cache.CacheUnwritable, match=r"file/sub.*CBIR_LITE_CACHE"):
        _cache.cache_dir()
    with (
        pytest.raises(_cache.CacheUnwritable, match="CBIR_LITE_CACHE"),
        _cache.lock(tmp_path / "file" / "sub" / "x"),
    ):
        pass


def test_atomic_write_keeps_the_suffix_and_replaces_at_the_end(tmp_path):
    target = tmp_path / "new" / "a.npy"
    with _cache.atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        np.save(temporary, np.arange(3))
        assert not target.exists()
    assert np.load(target).tolist() == [0, 1, 2]
    assert [p.name for p in target.parent.iterdir()] == ["a.npy"]
    assert target.stat().st_mode & 0o077 == 0o666 & ~_umask() & 0o077


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("error", "raised"),
    [(RuntimeError("x"), RuntimeError), (OSError(errno.ENOSPC, "full"), _cache.CacheUnwritable)],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error, raised):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with _cache.atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(raised):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_scratch_is_gone_afterwards_and_a_full_disk_is_explained(tmp_path):
    def fail() -> None:
        with _cache.scratch_dir(tmp_path / "set") as scratch:
            (scratch / "x").write_text("x")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(_cache.CacheUnwritable, match="full"):
        fail()
    assert list((tmp_path / "set").iterdir()) == []


def test_the_lock_excludes_another_process(tmp_path):
    code = (
        "import sys, filelock\n"
        "try:\n"
        "    filelock.FileLock(sys.argv[1]).acquire(timeout=0)\n"
        "except filelock.Timeout:\n"
        "    sys.exit(7)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set.lock")]
    with _cache.lock(tmp_path / "set"):
        assert subprocess.run(command, check=False).returncode == 7
    assert subprocess.run(command, check=False).returncode == 0


def test_hashes_are_those_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert _cache.sha256_file(tmp_path / "f") == known
    assert _cache.sha256_array(np.frombuffer(b"abc", np.uint8)) == known


def test_the_array_hash_ignores_memory_order_and_byte_order():
    array = np.arange(12, dtype="<i4").reshape(3, 4)
    expected = hashlib.sha256(array.tobytes()).hexdigest()
    for same in (array, np.asfortranarray(array), array.astype(">i4"), array[::1]):
        assert _cache.sha256_array(same) == expected
    assert _cache.sha256_array(array.T) != expected
