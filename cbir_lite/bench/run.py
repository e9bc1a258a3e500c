"""One run: train a system, encode, measure; one record for each protocol it serves."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import cbir_lite
from cbir_lite import features, methods
from cbir_lite.bench.memory import peak_mb, reset_peak
from cbir_lite.bench.pairs import frozen_protocol, open_setting
from cbir_lite.bench.records import CUTOFFS, DENOMINATORS
from cbir_lite.bench.setting import Setting
from cbir_lite.datasets import Protocol
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import Evaluation, bit_balance, bit_correlation, distinct_codes


@dataclass(frozen=True)
class Spec:
    """What to run. ``protocols`` share query and training images and differ in the database only;
    the system is trained once, on the first, whose database holds the others'.
    """

    method: str
    protocols: tuple[str, ...]
    backbone: str
    bits: int
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict)

    def identities(self) -> list[tuple[str, ...]]:
        """The identity of each record this spec gives (see ``records.IDENTITY``), as text."""
        shared = (
            self.backbone,
            features.provenance_hash(self.backbone),
            str(self.bits),
            str(self.seed),
            json.dumps(self.params, sort_keys=True),
            code_hash(self.method),
        )
        return [
            (self.method, p.dataset, p.name, p.hash[:16], *shared)
            for p in map(_protocol, self.protocols)
        ]


@lru_cache
def _protocol(name: str) -> Protocol:
    return frozen_protocol(name)


SHARED = {"base", "card", "deep", "networks", "registry"}
"""Modules under every system, which no :func:`code_hash` holds."""


@lru_cache
def code_hash(method: str) -> str:
    """What a system computes, as 12 hex digits: its module, and the modules of
    :mod:`cbir_lite.methods` that this imports (but for :data:`SHARED`), without docstrings and
    comments.

    A record whose hash differs was measured with other code and is measured again.
    """
    main = inspect.getmodule(registry.get(method))
    assert main is not None
    trees: dict[str, str] = {}
    waiting = [main]
    while waiting:
        module = waiting.pop()
        trees[module.__name__], imported = _read_module(module)
        waiting += [m for m in imported if m.__name__ not in trees]
    return hashlib.sha256(json.dumps(sorted(trees.items())).encode()).hexdigest()[:12]


@lru_cache
def _read_module(module: ModuleType) -> tuple[str, list[ModuleType]]:
    """What a module computes, as text, and the systems' modules it imports."""
    tree = ast.parse(inspect.getsource(module))
    imported = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return _written(tree), imported


def _written(node: Any) -> str:
    """A syntax tree as text, alike in all versions of Python.

    ``ast.dump`` is not: versions differ in the empty fields that nodes have and that it shows.
    """
    if isinstance(node, ast.AST):
        fields = [f"{k}={_written(v)}" for k, v in ast.iter_fields(node) if v not in (None, [])]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_written, node))}]"
    return repr(node)


def _imported(tree: ast.Module) -> list[ModuleType]:
    """Modules of the systems' package that a module imports from."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(methods.__name__):
            names |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
    found = []
    for name in names:
        with suppress(ModuleNotFoundError):  # a class or function of the module before the dot
            found.append(importlib.import_module(name))
    return [
        m for m in found if not hasattr(m, "__path__") and m.__name__.split(".")[-1] not in SHARED
    ]


def mark_stale(records: pd.DataFrame) -> pd.DataFrame:
    """The records and a column ``stale``: measured with other code than the system's present one.

    What is not in the registry any more is stale too.
    """
    present = {m: code_hash(m) for m in set(records["method"]).intersection(registry.names())}
    return records.assign(stale=records["code_hash"] != records["method"].map(present))


@lru_cache
def commit() -> str:
    """The git commit of the source tree, or ``unknown`` outside one."""
    file = Path(cbir_lite.__file__)
    try:
        # An installed package may lie in an ignored folder of somebody else's tree.
        _git("ls-files", "--error-unmatch", file.name, folder=file.parent)
        return _git("rev-parse", "--short=12", "HEAD", folder=file.parent)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str, folder: Path) -> str:
    """What a git command prints in a folder; raises ``CalledProcessError`` if it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(
    spec: Spec,
    *,
    settings: dict[str, Setting] | None = None,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Train, encode and measure; returns the records and the loss terms of each epoch.

    ``settings`` keeps image sets and features between runs of one process. Seconds are processor
    seconds of this process, so a busy machine does not change them; what an earlier run found in
    the same training rows (:mod:`cbir_lite.methods.derived`) is not counted again.

    Raises ``ValueError`` when the protocols of the spec do not share their training images.
    """
    chosen = [_setting(name, spec.backbone, settings, progress) for name in spec.protocols]
    main = chosen[0]
    for other in chosen[1:]:
        _check_shared(main, other)
    method = registry.create(spec.method, bits=spec.bits, seed=spec.seed, **spec.params)
    # Before the clock starts: what the system reads may have to be extracted first.
    split = main.split(method)
    reset_peak()
    start = time.process_time()
    method.fit(split, checkpoint=checkpoint, progress=progress)
    trained = time.process_time()
    queries, database = main.represent(method)
    encoded = time.process_time()
    shared = {
        **_facts(spec, method),
        "train_seconds": trained - start,
        "encode_seconds": encoded - trained,
    }
    records = []
    for setting, identity in zip(chosen, spec.identities(), strict=True):
        rows = setting.frozen.database
        place = np.searchsorted(main.frozen.database, rows)
        begin = time.process_time()
        held = database[place]
        evaluation = setting.score(method, queries, held, rows)
        records.append(
            {
                **shared,
                **_code_measures(method, held),
                "dataset": identity[1],
                "protocol": identity[2],
                "protocol_hash": identity[3],
                **_measures(evaluation),
                "eval_seconds": time.process_time() - begin,
                "peak_mb": peak_mb(),
            }
        )
    return records, getattr(method, "history_", [])


def _setting(
    name: str, backbone: str, settings: dict[str, Setting] | None, progress: bool
) -> Setting:
    if settings is None:
        return open_setting(name, backbone, progress=progress)
    key = f"{name} {backbone}"
    if key not in settings:
        setting = open_setting(name, backbone, progress=progress)
        for other in settings.values():
            # Memory maps of one image set are opened once. A descriptor with a vocabulary learns it
            # from the training images, so those must agree too.
            if (
                other.backbone == backbone
                and other.frozen.dataset == setting.frozen.dataset
                and np.array_equal(other.frozen.train, setting.frozen.train)
            ):
                setting._features = other._features
        settings[key] = setting
    return settings[key]


def _check_shared(main: Setting, other: Setting) -> None:
    a, b = main.frozen, other.frozen
    if not (np.array_equal(a.query, b.query) and np.array_equal(a.train, b.train)):
        raise ValueError(f"protocols {a.name} and {b.name} differ in query or training images")
    if not np.isin(b.database, a.database).all():
        raise ValueError(f"the database of {a.name} does not hold that of {b.name}: put it first")


def _facts(spec: Spec, method: Method) -> dict[str, Any]:
    card = registry.cards()[spec.method.split("/")[0]]
    return {
        "method": spec.method,
        "fidelity": card.fidelity,
        "supervision": method.sees,
        "descriptor": method.descriptor,
        "learns_database": method.learns_database,
        "backbone": spec.backbone,
        "weights_hash": features.provenance_hash(spec.backbone),
        "bits": spec.bits,
        "seed": spec.seed,
        "params": json.dumps(spec.params, sort_keys=True),
        "code_hash": code_hash(spec.method),
        "version": cbir_lite.__version__,
        "commit": commit(),
    }


def _code_measures(method: Method, database: NDArray[Any]) -> dict[str, Any]:
    if method.descriptor == "binary":
        return {
            "bit_balance": bit_balance(database),
            "bit_correlation": bit_correlation(database),
            "distinct_codes": distinct_codes(database),
            "bytes_per_item": method.bits / 8,
        }
    if method.descriptor == "quantization":
        return {
            "distinct_codes": len(np.unique(database, axis=0)),
            "bytes_per_item": method.bits / 8,
        }
    return {"bytes_per_item": database.nbytes / len(database)}


def _measures(evaluation: Evaluation) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, k in CUTOFFS.items():
        for suffix, denominator in DENOMINATORS.items():
            known = k in evaluation.cutoffs
            out[f"map_{name}{suffix}"] = evaluation.mean_ap(k, denominator) if known else np.nan
    out["map_all_low"], out["map_all_high"] = evaluation.interval(None)
    if 1000 in evaluation.cutoffs:
        out["p_1000"] = float(evaluation.precision[1000].mean())
    if 2 in evaluation.precision_within:
        out["p_radius2"] = float(evaluation.precision_within[2].mean())
    return out
