"""What a worker of a grid does, and how it ends."""

from __future__ import annotations

import json
import platform
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cbir_lite
from cbir_lite import _workers
from cbir_lite.bench import Spec, grid, memory, read_records, run_grid
from cbir_lite.bench.run import commit

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="keep_memory sets glibc's allocator and no other"
)


def _printed(script: str) -> list[str]:
    """The words that a Python script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(grid, "_SETTINGS", {})


def test_work_leaves_a_record_and_the_loss_terms_but_no_checkpoint(tmp_path: Path) -> None:
    spec = Spec("dpsh", ("digits",), "pixels", 8, 0, {"epochs": 2})
    seconds, records = grid._work(spec, tmp_path / "out.csv")
    assert seconds > 0
    frame = read_records(tmp_path / "out.csv")
    assert frame["map_all"][0] == pytest.approx(records[0]["map_all"], rel=1e-5)
    (log,) = (tmp_path / "cache" / "losses").glob("*.json")
    kept = json.loads(log.read_text())
    assert kept["spec"]["method"] == "dpsh"
    assert [set(e) for e in kept["epochs"]] == [{"likelihood", "quantization"}] * 2
    assert list((tmp_path / "cache").glob("checkpoints/*.pt")) == []
    grid._work(Spec("lsh", ("digits",), "pixels", 8), tmp_path / "out.csv")
    assert len(read_records(tmp_path / "out.csv")) == 2
    assert len(list((tmp_path / "cache" / "losses").iterdir())) == 1


def test_stopping_kills_the_workers_and_restores_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[bool] = []

    class Process:
        def kill(self) -> None:
            killed.append(True)

    class Pool:
        def __init__(self, *_: object, **__: object) -> None:
            self._processes = {1: Process()}

        def submit(self, *_: object) -> object:
            return object()

        def shutdown(self, **_: object) -> None:
            killed.append(False)

    def stop(*_: object, **__: object) -> None:
        assert grid.os.environ["OMP_NUM_THREADS"] == "1"
        raise KeyboardInterrupt

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(grid, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(grid, "wait", stop)
    specs = [Spec("lsh", ("digits",), "pixels", 8, s) for s in range(2)]
    with pytest.raises(KeyboardInterrupt):
        run_grid(specs, tmp_path / "out.csv", workers=2, progress=False)
    assert killed == [True, True, False, False]
    assert grid.os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in grid.os.environ


def test_a_worker_uses_one_thread_and_leaves_ctrl_c_to_its_parent() -> None:
    script = (
        "import signal, threading, torch; from cbir_lite.bench import grid\n"
        "grid._start_worker()\n"
        "print(torch.get_num_threads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN)\n"
    )
    assert _printed(script) == ["1", "True"]


def test_products_of_a_worker_are_as_exact_as_before() -> None:
    before = torch.get_float32_matmul_precision()
    x = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))
    try:
        _workers.quick_products.cache_clear()
        _workers.quick_products()
        assert torch.allclose(x @ x.T, (x.double() @ x.double().T).float(), atol=1e-3)
    finally:
        torch.set_float32_matmul_precision(before)


def test_coarser_products_are_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    exact = torch.Tensor.double
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    # As if float32 matrices had been multiplied as bfloat16.
    monkeypatch.setattr(torch.Tensor, "double", lambda t: exact(t.bfloat16()))
    _workers.quick_products.cache_clear()
    _workers.quick_products()
    assert asked == ["medium", "highest"]


@needs_glibc
def test_a_worker_fetches_large_blocks_once() -> None:
    script = (
        "import resource, torch; from cbir_lite._workers import keep_memory\n"
        "def pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10): torch.ones(16 * 2**20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first = pages(); keep_memory(); pages(); print(first, pages())\n"
    )
    without, kept = map(int, _printed(script))
    assert kept < without / 20


@needs_glibc
def test_blocks_too_large_to_keep_are_given_back() -> None:
    script = (
        "import torch; from cbir_lite._workers import keep_memory\n"
        "def held(): return int(open('/proc/self/statm').read().split()[1]) // 256\n"
        "keep_memory(); before = held(); x = torch.ones(2**27); during = held(); del x\n"
        "print(during - before, held() - before)\n"
    )
    during, after = map(int, _printed(script))
    assert during > 500
    assert after < 50


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(_workers.ctypes, "CDLL", lambda name: asked.append(name) or object())
    _workers.keep_memory.cache_clear()
    _workers.keep_memory()
    assert asked == [None]
    _workers.keep_memory.cache_clear()


def test_a_worker_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    class Parent:
        sentinel = "the parent's end"

    monkeypatch.setattr(_workers.os, "_exit", ended.append)
    monkeypatch.setattr(_workers.multiprocessing, "parent_process", lambda: None)
    _workers._watch()
    assert ended == []
    monkeypatch.setattr(_workers.multiprocessing, "parent_process", Parent)
    waited: list[object] = []
    monkeypatch.setattr(_workers.multiprocessing.connection, "wait", waited.append)
    _workers._watch()
    assert waited == [["the parent's end"]]
    assert ended == [1]


def test_where_the_system_tells_no_peak_the_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, text: str) -> None:
        raise PermissionError

    monkeypatch.setattr(memory.Path, "write_text", refused)
    memory.reset_peak()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.peak_mb() == pytest.approx(peak / 1024, rel=0.01)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.peak_mb() == pytest.approx(peak / 1024**2, rel=0.01)


def test_without_the_module_of_unix_the_peak_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    again = runpy.run_path(str(memory.__file__))
    assert again["peak_mb"]() > 0
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    assert np.isnan(memory.peak_mb())


def test_outside_a_git_tree_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit.__wrapped__() == "unknown"


def test_the_commit_is_of_the_tree_that_holds_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "env" / "cbir_lite" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    (tmp_path / ".gitignore").write_text("env/\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "of another project")
    monkeypatch.setattr(cbir_lite, "__file__", str(package))
    assert commit.__wrapped__() == "unknown"
    git("add", "--force", "env")
    git("commit", "--quiet", "--message", "of this one")
    assert commit.__wrapped__() == git("rev-parse", "--short=12", "HEAD")
