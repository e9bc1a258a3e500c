"""Grids of runs: every core used, nothing lost, nothing repeated.

Each worker process uses one thread, so the cores are filled without oversubscription. A finished
run is in the records file before the next one of its worker starts; a killed grid, started again,
does what is missing. Long runs continue from their checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml
from rich.console import Console
from tqdm.auto import tqdm

from cbir_lite._cache import atomic_write, cache_dir
from cbir_lite._workers import end_with_parent, quick_training
from cbir_lite.bench.cost import expected_seconds, missing
from cbir_lite.bench.pairs import frozen_protocol
from cbir_lite.bench.records import read_records, write_records
from cbir_lite.bench.run import Spec, run
from cbir_lite.bench.setting import Setting
from cbir_lite.methods import registry

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_SETTINGS: dict[str, Setting] = {}
_GRID_KEYS = {"methods", "protocols", "backbone", "bits", "seeds"}
_LISTS = (
    ("methods", str, "names, or keys with lists"),
    ("protocols", str, "names"),
    ("bits", int, "whole numbers"),
    ("seeds", int, "whole numbers"),
)
"""Keys of a grid whose value is a list: what it holds, in Python and in words."""


def suite_names() -> list[str]:
    """Names of the suites that come with the package."""
    folder = resources.files("cbir_lite.bench") / "suites"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def load_suite(name: str | Path) -> list[Spec]:
    """The specs of a suite (a name, or a YAML file), in the order they are run.

    A suite is a list of grids, each with ``methods``, ``protocols`` (the widest database first),
    ``backbone``, ``bits``, ``seeds`` and optional ``params`` and ``vary``. ``methods`` is a list of
    names, or what the systems must be: ``{tier: [A], supervision: [unsupervised]}``. ``params`` go
    to those systems that have them. ``vary`` names hyper-parameters and other values of each:
    beside the run without them there is one with each value, the rest being as it is. The first
    seed of every system comes before the second, so an unfinished suite is already a table. Raises
    ``ValueError`` naming file and key.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        text = path.read_text()
    elif str(name) in suite_names():
        text = (resources.files("cbir_lite.bench") / "suites" / f"{name}.yaml").read_text()
    else:
        raise ValueError(f"no suite {str(name)!r}; there are {', '.join(suite_names())}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"suite {name} is not valid YAML: {error}") from error
    grids = content.get("grids") if isinstance(content, dict) else None
    if not isinstance(grids, list) or not all(isinstance(g, dict) for g in grids):
        raise ValueError(f"suite {name}: `grids:` must be a list of grids, see suites/survey.yaml")
    specs: list[Spec] = []
    for number, grid in enumerate(grids):
        specs += _specs(grid, f"suite {name}: grid {number}")
    return sorted(specs, key=lambda s: s.seed)


def _specs(grid: dict[str, Any], where: str) -> list[Spec]:
    """The specs of one grid; raises ``ValueError`` naming the place and the key."""
    _check_types(grid, where)
    methods = _chosen(grid["methods"], where)
    params, vary = grid.get("params") or {}, grid.get("vary") or {}
    known = {m: registry.get(m).parameters() for m in methods}
    for key in (*params, *vary):
        if not any(key in k for k in known.values()):
            raise ValueError(f"{where}: no system has the hyper-parameter {key!r}")
    others = [{key: value} for key, values in vary.items() for value in values]
    specs: list[Spec] = []
    for seed, bits, method, other in itertools.product(
        grid["seeds"], grid["bits"], methods, [{}, *others]
    ):
        if not known[method].keys() >= other.keys():
            continue
        own = {k: v for k, v in (params | other).items() if k in known[method]}
        specs.append(Spec(method, tuple(grid["protocols"]), grid["backbone"], bits, seed, own))
    return specs


def _check_types(grid: dict[str, Any], where: str) -> None:
    """Raise ``ValueError`` for a key too many or too few, and for a value of the wrong type."""
    if wrong := (set(grid) - {"params", "vary"}) ^ _GRID_KEYS:
        raise ValueError(f"{where}: missing or unknown {sorted(map(str, wrong))}")
    for key, type_, called in _LISTS:
        given = grid[key]
        if key == "methods" and isinstance(given, dict):
            continue  # what the systems must be, see _chosen
        # Not isinstance: true and false are integers too.
        if not isinstance(given, list) or not given or any(type(v) is not type_ for v in given):
            raise ValueError(f"{where}: `{key}:` must be a list of {called}, not {given!r}")
    if not isinstance(grid["backbone"], str):
        raise ValueError(f"{where}: `backbone:` must be a name, not {grid['backbone']!r}")
    for key in ("params", "vary"):
        _check_parameters(key, grid.get(key) or {}, where)


def _check_parameters(key: str, given: Any, where: str) -> None:
    """Raise ``ValueError`` unless ``params`` or ``vary`` (the ``key``) give values by name; code
    length and seed have keys of their own.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{where}: `{key}:` must be names with values, not {given!r}")
    for name, value in given.items():
        if name in ("bits", "seed"):
            own = name.removesuffix("s") + "s"
            raise ValueError(f"{where}: `{key}: {{{name}: }}` is not possible, use `{own}:`")
        if key == "vary" and (not isinstance(value, list) or not value):
            raise ValueError(f"{where}: `vary: {{{name}: }}` must be a list, not {value!r}")


def _chosen(methods: list[str] | dict[str, list[str]], where: str) -> list[str]:
    """The names of a list, or all systems and variants with one of the wanted values in each key.

    Keys are ``tier`` and ``fidelity`` of the card, ``supervision`` and ``descriptor`` of the
    variant, ``reads``, ``modality`` (``none`` but for cross-modal systems).
    """
    if isinstance(methods, list):
        for name in methods:
            try:
                registry.get(name)
            except KeyError as error:
                raise ValueError(f"{where}: {error.args[0]}") from error
        return methods
    if not all(isinstance(v, list) for v in methods.values()):
        raise ValueError(
            f"{where}: `methods:` must be a list of names, or keys with lists, not {methods!r}"
        )
    cards, chosen = registry.cards(), []
    for name in registry.names():
        card, method = cards[name.split("/")[0]], registry.create(name)
        is_: dict[str, str] = {
            "tier": card.tier,
            "fidelity": card.fidelity,
            "supervision": method.sees,
            "descriptor": method.descriptor,
            "reads": method.reads,
            "modality": method.modality or "none",
        }
        if wrong := set(methods) - set(is_):
            raise ValueError(f"{where}: systems are chosen by {', '.join(is_)}, not {wrong}")
        if all(is_[key] in wanted for key, wanted in methods.items()):
            chosen.append(name)
    if not chosen:
        raise ValueError(f"{where}: no system is {methods}")
    return chosen


def _start_worker() -> None:
    # Ctrl-C is for the parent, which stops the workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    import torch

    torch.set_num_threads(1)
    quick_training()


class _Workers:
    """Pools of one process each: a killed worker breaks its own pool, and no run beside it."""

    def __init__(self, size: int) -> None:
        self._pools = [self._new() for _ in range(size)]

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)

    def _submit(self, place: int, spec: Spec, output: Path) -> Future[Any]:
        try:
            return self._pools[place].submit(_work, spec, output)
        except BrokenProcessPool:
            self._pools[place] = self._new()
            return self._pools[place].submit(_work, spec, output)

    def finished(self, specs: Iterable[Spec], output: Path) -> Iterator[tuple[Spec, Future[Any]]]:
        """Each spec with its finished run, as many running at a time as there are processes."""
        queue = iter(specs)
        running = {
            self._submit(place, spec, output): (place, spec)
            for place, spec in zip(range(len(self._pools)), queue, strict=False)
        }
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                place, spec = running.pop(future)
                yield spec, future
                following = next(queue, None)
                if following is not None:
                    running[self._submit(place, following, output)] = (place, following)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            for pool in self._pools:
                for process in (pool._processes or {}).values():
                    process.kill()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def _key(spec: Spec) -> str:
    return hashlib.sha256(json.dumps(spec.identities()).encode()).hexdigest()[:16]


def _work(spec: Spec, output: Path) -> tuple[float, list[dict[str, Any]]]:
    start = time.monotonic()
    checkpoint = cache_dir() / "checkpoints" / f"{_key(spec)}.pt"
    records, history = run(spec, settings=_SETTINGS, checkpoint=checkpoint)
    write_records(output, records)
    if history:
        log = cache_dir() / "losses" / f"{_key(spec)}.json"
        with atomic_write(log) as temporary:
            temporary.write_text(json.dumps({"spec": vars(spec), "epochs": history}))
    return time.monotonic() - start, records


def run_grid(
    specs: list[Spec], output: str | Path, *, workers: int | None = None, progress: bool = True
) -> list[str]:
    """Run every spec that ``output`` has no record of; returns what failed, one line each.

    Args:
        specs: what to run, in this order.
        output: CSV of the records; grows run by run.
        workers: processes of one thread each; default: one a core.
        progress: whether to show a bar and a line for each finished run.

    A worker that is killed costs its run and none beside it. Ctrl-C stops at once and keeps every
    finished run.
    """
    output = Path(output)
    todo = missing(specs, read_records(output))
    console = Console()
    if progress:
        console.print(f"{len(specs) - len(todo)} of {len(specs)} runs are in {output}")
    if not todo:
        return []
    workers = min(workers or os.cpu_count() or 1, len(todo))
    failures: list[str] = []
    bar = tqdm(total=len(todo), desc="runs", unit="run", disable=not progress)

    with bar, _one_thread(), _Workers(workers) as pool:
        for spec, future in pool.finished(todo, output):
            line = f"{spec.method} {spec.bits} bits seed {spec.seed} ({spec.protocols[0]})"
            try:
                seconds, records = future.result()
                line += f": mAP@all {records[0]['map_all']:.4f} in {seconds:.1f} s"
            except Exception as error:  # a failed run must not take the others with it
                failures.append(f"{line}: {type(error).__name__}: {error}")
                line = f"FAILED {failures[-1]}"
            bar.update()
            if progress:
                bar.write(line)
    return failures


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started in this block calculate with one thread each."""
    before = {k: os.environ.get(k) for k in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for k, v in before.items():
            if v is None:
                os.environ.pop(k, None)
            else:
                os.environ[k] = v


def _left(seconds: pd.Series) -> str:
    """How long runs of so many seconds (NaN: unknown) take one process, for a line of text."""
    if seconds.empty:
        return ""
    unknown = int(seconds.isna().sum())
    note = f", {unknown} of them without a time" if unknown else ""
    return f"; {len(seconds)} left, {seconds.sum() / 3600:.1f} hours of one process{note}"


def run_suite(
    specs: list[Spec], folder: str | Path, *, workers: int | None = None, dry_run: bool = False
) -> list[str]:
    """Run specs into one file a data set, ``folder/DATASET.csv``; returns what failed."""
    # A split is read and checked once, not for each of thousands of runs.
    datasets = {name: frozen_protocol(name).dataset for name in {s.protocols[0] for s in specs}}
    files: dict[Path, list[Spec]] = {}
    for spec in specs:
        files.setdefault(Path(folder) / f"{datasets[spec.protocols[0]]}.csv", []).append(spec)
    failures: list[str] = []
    for output, group in files.items():
        if dry_run:
            records = read_records(output)
            todo = missing(group, records)
            line = f"{output}: {len(group) - len(todo)} of {len(group)} runs are there"
            Console().print(line + _left(expected_seconds(todo, records)), soft_wrap=True)
        else:
            failures += run_grid(group, output, workers=workers)
    return failures
