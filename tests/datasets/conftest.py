"""A cache of its own for every test, tiny sets, and a stand-in for npm."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cbir_lite.datasets.formats import Parts
from cbir_lite.datasets.specs import CIFAR10, MNIST, Npm, Spec
from tests.datasets.tiny_sets import tarball, tiny_parts, with_hashes, write_rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CBIR_LITE_CACHE", str(folder))
    return folder


@pytest.fixture
def cifar() -> tuple[Spec, Parts]:
    parts = tiny_parts(4, (32, 32, 3), seed=1)
    return with_hashes(CIFAR10, parts), parts


@pytest.fixture
def mnist() -> tuple[Spec, Parts]:
    parts = tiny_parts(3, (28, 28, 1), seed=2)
    return with_hashes(MNIST, parts), parts


@pytest.fixture
def fake_npm(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Put a script ``npm`` alone on PATH; it logs its arguments and delivers a tarball."""

    def make(delivers: Path | None, seconds: float = 0.0, exit_code: int = 0) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        log = tmp_path / "npm.log"
        copy = f"cp '{delivers}' ./package-1.0.0.tgz" if delivers else "echo 'E404 absent' >&2"
        script = f"#!/bin/sh\necho \"$@\" >> '{log}'\nsleep {seconds}\n{copy}\nexit {exit_code}\n"
        (folder / "npm").write_text(script)
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return log

    return make


@pytest.fixture
def cifar_npm(cifar, tmp_path) -> tuple[Spec, Parts, Path]:
    """CIFAR as the registry carries it: spec, content, tarball."""
    spec, parts = cifar
    write_rows(tmp_path / "rows", parts)
    spec = dataclasses.replace(spec, npm=Npm("tiny-cifar@1.0.0", ".", "cifar-rows", 1))
    return spec, parts, tarball(tmp_path / "rows.tgz", tmp_path / "rows", "package")
