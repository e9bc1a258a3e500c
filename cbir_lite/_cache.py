"""The cache folder, and writing into it so that no reader ever sees half a file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import numpy.typing as npt

ENV = "CBIR_LITE_CACHE"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
"""NumPy's words for an array that did not fit on the disk: its error has no number."""


class CacheUnwritable(OSError):
    """A file or folder, of the cache or not, cannot be written; names the path and the remedy."""


def _unwritable(path: Path, error: OSError) -> CacheUnwritable:
    # A path of the user's own is not the cache's: another cache would not help.
    inside = path.resolve().is_relative_to(_root().resolve())
    remedy = f"Set the environment variable {ENV} to" if inside else "Choose"
    return CacheUnwritable(
        f"cannot write {path} ({error.strerror or error}). "
        f"{remedy} a folder that is writable and has room."
    )


def no_room(error: OSError) -> bool:
    """Whether an error means that the place cannot be written, not that a source is missing."""
    if isinstance(error, CacheUnwritable):
        return False
    return error.errno in _NO_ROOM or (error.errno is None and bool(_CUT_SHORT.search(str(error))))


def make_dir(path: Path) -> Path:
    """Create ``path`` with its parents and return it; :class:`CacheUnwritable` if impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, by making one.

    Permissions do not tell: nobody can make files in /proc, and root may do all else.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def cache_dir() -> Path:
    """Root of everything kept between runs: ``$CBIR_LITE_CACHE``, else the user's cache folder.

    The folder is created on demand. Raises :class:`CacheUnwritable` if it cannot be. A filled
    cache that is read-only can be read: only writing (:func:`atomic_write`, :func:`lock`) fails.
    """
    return make_dir(_root())


def _root() -> Path:
    given = os.environ.get(ENV)
    if given:
        return Path(given).expanduser().resolve()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "cbir_lite" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cbir_lite"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cbir_lite"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file that becomes ``path`` when the block succeeds.

    The temporary file lies in the same folder and has the same suffix (``np.save`` appends one
    otherwise); on any exception it is removed and an earlier ``path`` stays as it was. Raises
    :class:`CacheUnwritable` if the folder is not writable or the disk is full.
    """
    path = Path(path)
    make_dir(path.parent)
    temporary = path.with_name(f".tmp-{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    try:
        # Not mkstemp: its mode 0600 would hide a shared cache from other users.
        temporary.open("xb").close()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if no_room(error):
            raise _unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_dir(parent: Path) -> Iterator[Path]:
    """A temporary folder ``.tmp-*`` in ``parent``, removed at the end of the block.

    Raises :class:`CacheUnwritable` if it cannot be made or the disk is full.
    """
    make_dir(parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=parent) as scratch:
            yield Path(scratch)
    except OSError as error:
        if no_room(error):
            raise _unwritable(parent, error) from error
        raise


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold the inter-process lock ``<path>.lock``; a second process waits until it is free.

    The waiter must look again whether the work is done once it is inside.
    """
    path = Path(path)
    make_dir(path.parent)
    held = filelock.FileLock(f"{path}.lock")
    try:
        try:
            held.acquire(timeout=2)
        except filelock.Timeout:
            print(f"waiting for another process that is filling {path}", file=sys.stderr)
            held.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        held.release()


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_array(array: npt.NDArray[np.generic]) -> str:
    """Hex sha256 of an array's values in C order, little endian; shape and dtype are not hashed."""
    values = np.ascontiguousarray(array)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.data).hexdigest()
