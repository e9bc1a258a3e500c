"""Every measured column of a record, computed again from the codes of the run's system."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbir_lite import datasets
from cbir_lite.bench import Setting, Spec, run
from cbir_lite.bench.records import MEASURES
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import evaluate_codes

run_module = importlib.import_module("cbir_lite.bench.run")

N, QUERIES, TRAIN, BITS = 54_400, 8, 80, 12


@pytest.fixture
def large(tmp_path: Path) -> tuple[str, Setting]:
    """A database of more than 54,000 items in five overlapping classes: protocol and setting."""
    rng = np.random.default_rng(0)
    ids = np.arange(N) % 5
    x = rng.standard_normal((N, 8)) + 1.5 * rng.standard_normal((5, 8))[ids]
    rows = np.arange(N)
    protocol = datasets.Protocol(
        "large", "large", rows[:QUERIES], rows[QUERIES : QUERIES + TRAIN], rows[QUERIES:], N
    )
    path = tmp_path / "large.json"
    datasets.save_protocol(protocol, path)
    labels = datasets.as_multi_hot(ids, 5)
    images = datasets.ImageSet("large", np.zeros((N, 1, 1, 1), np.uint8), labels, tuple("abcde"))
    setting = Setting(protocol, "pixels", images)
    setting._features["pooled"] = x.astype(np.float32)
    return str(path), setting


def test_columns_are_those_of_a_separate_evaluation(large: tuple[str, Setting]) -> None:
    path, setting = large
    (record,), _ = run(Spec("lsh", (path,), "pixels", BITS), settings={f"{path} pixels": setting})
    lsh = registry.create("lsh", bits=BITS).fit(setting.split(registry.create("lsh", bits=BITS)))
    codes = lsh.encode(setting.features())
    y, b = setting.labels, codes[QUERIES:]
    e = evaluate_codes(
        codes[:QUERIES], b, y[:QUERIES], y[QUERIES:], (1000, 5000, 54000, None), radii=(2,)
    )
    balance = [abs(b[:, i].mean(dtype=float)) for i in range(BITS)]
    pairs = np.abs(np.corrcoef(b.T.astype(float)))[np.triu_indices(BITS, 1)]
    expected = {
        "map_1000": e.ap[1000, "found"].mean(),
        "map_5000": e.ap[5000, "found"].mean(),
        "map_54000": e.ap[54000, "found"].mean(),
        "map_all": e.ap[None, "all"].mean(),
        "map_1000_min": e.ap[1000, "min"].mean(),
        "map_5000_min": e.ap[5000, "min"].mean(),
        "map_54000_min": e.ap[54000, "min"].mean(),
        "map_all_min": e.ap[None, "all"].mean(),
        "map_1000_relevant": e.ap[1000, "all"].mean(),
        "map_5000_relevant": e.ap[5000, "all"].mean(),
        "map_54000_relevant": e.ap[54000, "all"].mean(),
        "map_all_relevant": e.ap[None, "all"].mean(),
        "map_all_low": e.ap_low[None, "all"].mean(),
        "map_all_high": e.ap_high[None, "all"].mean(),
        "p_1000": e.precision[1000].mean(),
        "p_radius2": e.precision_within[2].mean(),
        "bit_balance": np.mean(balance),
        "bit_correlation": pairs.mean(),
        "distinct_codes": len({tuple(row) for row in b.tolist()}),
        "bytes_per_item": 1.5,
    }
    assert {m: record[m] for m in expected} == pytest.approx(expected, rel=1e-9)
    cost = {"train_seconds", "encode_seconds", "eval_seconds", "peak_mb"}
    assert set(MEASURES) == expected.keys() | cost
    assert all(record[m] > 0 for m in cost)
    # Two columns that agree could be exchanged unseen; from 54000 on, all relevant items count.
    alike = {m for m in expected if m.startswith(("map_all_m", "map_all_r", "map_54000_r"))}
    values = [float(v) for m, v in expected.items() if m not in alike]
    assert np.diff(sorted(values)).min() > 1e-6


def test_a_record_of_a_small_database_has_no_large_cut_off() -> None:
    (record,), _ = run(Spec("lsh", ("digits",), "pixels", 16))
    missing = {m for m in MEASURES if m not in record or np.isnan(record[m])}
    kept = len(datasets.protocol("digits").database)
    cutoffs = [k for k in (1000, 5000, 54000) if k > kept]
    assert cutoffs
    assert missing == {f"map_{k}{s}" for k in cutoffs for s in ("", "_min", "_relevant")} | (
        {"p_1000"} if 1000 in cutoffs else set()
    )


def test_seconds_are_those_of_their_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(run_module.time, "process_time", lambda: now[0])

    def takes(seconds: float, owner: type, name: str) -> None:
        inner = getattr(owner, name)

        def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
            now[0] += seconds
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    lsh: type[Method] = registry.get("lsh")
    takes(1, lsh, "fit")
    takes(10, Setting, "represent")
    takes(100, Setting, "score")
    (record,), _ = run(Spec("lsh", ("digits",), "pixels", 16))
    seconds = [record[f"{step}_seconds"] for step in ("train", "encode", "eval")]
    assert seconds == [1, 10, 100]
