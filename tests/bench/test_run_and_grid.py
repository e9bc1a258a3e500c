"""Runs and grids on digits: protocols share a training, killed grids go on, failures are told."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cbir_lite import datasets
from cbir_lite.bench import (
    COLUMNS,
    Setting,
    Spec,
    at_scale,
    load_suite,
    read_records,
    run,
    run_grid,
    suite_names,
)
from cbir_lite.bench.grid import run_suite
from cbir_lite.bench.memory import peak_mb, reset_peak
from cbir_lite.methods import registry
from cbir_lite.retrieval import bit_balance, distinct_codes

run_module = importlib.import_module("cbir_lite.bench.run")


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """The digits protocol with its training images in the database, as a file."""
    narrow = datasets.protocol("digits")
    database = np.sort(np.concatenate([narrow.database, narrow.train]))
    protocol = datasets.Protocol(
        "digits-wide", "digits", narrow.query, narrow.train, database, narrow.n_images
    )
    path = tmp_path / "digits-wide.json"
    datasets.save_protocol(protocol, path)
    return str(path)


def test_one_training_serves_protocols_that_differ_in_the_database(wide: str) -> None:
    records, history = run(Spec("dpsh", (wide, "digits"), "pixels", 16, 0, {"epochs": 2}))
    assert [r["protocol"] for r in records] == ["digits-wide", "digits"]
    assert len(history) == 2
    assert set(history[0]) == {"likelihood", "quantization"}
    assert set(records[0]) <= set(COLUMNS)
    method = registry.create("dpsh", bits=16, epochs=2)
    narrow = Setting("digits", "pixels")
    method.fit(narrow.split(method))
    assert records[1]["map_all"] == pytest.approx(narrow.evaluate(method).mean_ap(), abs=1e-12)
    assert np.isnan(records[1]["map_54000"])
    _, database = narrow.represent(method)
    assert records[1]["distinct_codes"] == distinct_codes(database)
    assert records[1]["bit_balance"] == pytest.approx(bit_balance(database))
    low, high = records[0]["map_all_low"], records[0]["map_all_high"]
    assert low <= records[0]["map_all"] <= high
    assert records[0]["bytes_per_item"] == 2
    assert json.loads(records[0]["params"]) == {"epochs": 2}


def test_protocols_must_be_given_widest_first(wide: str) -> None:
    with pytest.raises(ValueError, match="put it first"):
        run(Spec("lsh", ("digits", wide), "pixels", 16))


@pytest.mark.parametrize("name", ["neural_codes", "dqn"])
def test_real_valued_and_quantization_systems_are_scored_by_their_distance(name: str) -> None:
    params = {"epochs": 2} if name == "dqn" else {}
    records, _ = run(Spec(name, ("digits",), "pixels", 16, 0, params))
    assert records[0]["map_all"] > 0.2
    assert records[0]["bytes_per_item"] == (2 if name == "dqn" else 64)


def test_unsupervised_systems_get_no_labels() -> None:
    setting = Setting("digits", "pixels")
    split = setting.split(registry.create("itq", bits=8))
    with pytest.raises(datasets.LabelsHidden):
        _ = split.labels


def test_suites_name_known_systems_and_start_with_the_first_seed() -> None:
    for name in suite_names():
        specs = load_suite(name)
        assert {s.method for s in specs} <= set(registry.names())
        assert [s.seed for s in specs] == sorted(s.seed for s in specs)


def test_a_suite_chooses_systems_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"

    def write(methods: str, params: str = "{}") -> None:
        path.write_text(
            f"grids: [{{methods: {methods}, protocols: [digits], backbone: pixels, bits: [8], "
            f"seeds: [0], params: {params}}}]"
        )

    write("{tier: [baseline], supervision: [unsupervised]}")
    assert {"lsh", "itq", "pca_sign"} <= {s.method for s in load_suite(path)}
    write("{supervision: [unsupervised], descriptor: [binary]}", "{epochs: 3}")
    params = {s.method: s.params for s in load_suite(path)}
    assert "greedyhash" not in params
    assert params["greedyhash/unsupervised"] == {"epochs": 3}
    assert params["lsh"] == {}
    write("[lsh, itq]", "{epoch: 3}")
    with pytest.raises(ValueError, match="no system has the hyper-parameter 'epoch'"):
        load_suite(path)
    write("{tier: [Z]}")
    with pytest.raises(ValueError, match="no system is"):
        load_suite(path)
    write("{colour: [red]}")
    with pytest.raises(ValueError, match="chosen by tier"):
        load_suite(path)


def test_a_suite_varies_one_setting_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"

    def write(vary: str) -> None:
        path.write_text(
            "grids: [{methods: [lsh, dpsh, dch], protocols: [digits], backbone: pixels, bits: [8], "
            f"seeds: [0, 1], params: {{epochs: 3}}, vary: {vary}}}]"
        )

    write("{gamma: [1.0, 5.0], epochs: [9]}")
    specs = [s for s in load_suite(path) if s.seed == 1]
    params = {m: [s.params for s in specs if s.method == m] for m in ("lsh", "dpsh", "dch")}
    alone = [{"epochs": 3, "gamma": 1.0}, {"epochs": 3, "gamma": 5.0}]
    assert params["lsh"] == [{}]
    assert params["dch"] == [{"epochs": 3}, *alone, {"epochs": 9}]
    assert params["dpsh"] == [{"epochs": 3}, {"epochs": 9}]
    write("{gama: [1.0]}")
    with pytest.raises(ValueError, match="no system has the hyper-parameter 'gama'"):
        load_suite(path)
    write("{gamma: 1.0}")
    with pytest.raises(ValueError, match=r"`vary: \{gamma: \}` must be a list, not 1\.0"):
        load_suite(path)


def test_suite_errors_name_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no suite 'nothing'"):
        load_suite("nothing")
    path = tmp_path / "s.yaml"
    path.write_text("grids: [{methods: [lsh], protocols: [digits], backbone: pixels, bit: [8]}]")
    with pytest.raises(ValueError, match=r"bit.*seeds"):
        load_suite(path)
    path.write_text("grids: [")
    with pytest.raises(ValueError, match=r"s\.yaml is not valid YAML"):
        load_suite(path)
    for text in ("", "grid: []", "grids: 3", "grids: [lsh]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"s\.yaml: `grids:` must be a list"):
            load_suite(path)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("[digits]", "digits", "`protocols:` must be a list of names, not 'digits'"),
        ("[digits]", "[1]", "`protocols:` must be a list of names, not [1]"),
        ("[0]", "0", "`seeds:` must be a list of whole numbers, not 0"),
        ("[0]", "[0.5]", "`seeds:` must be a list of whole numbers, not [0.5]"),
        ("[8]", "[a]", "`bits:` must be a list of whole numbers, not ['a']"),
        ("[8]", "[yes]", "`bits:` must be a list of whole numbers, not [True]"),
        ("[lsh]", "{supervision: unsupervised}", "`methods:` must be a list of names, or keys"),
        ("[lsh]", "[1]", "`methods:` must be a list of names, or keys with lists, not [1]"),
        ("[lsh]", "lsh", "`methods:` must be a list of names, or keys with lists, not 'lsh'"),
        ("[lsh]", "[lsj]", "no system 'lsj'; closest: lsh"),
        ("pixels", "5", "`backbone:` must be a name, not 5"),
        ("pixels", "pixels, 1: 2", "missing or unknown ['1']"),
        ("pixels", "pixels, params: [1]", "`params:` must be names with values, not [1]"),
        ("pixels", "pixels, params: {seed: 1}", "`params: {seed: }` is not possible, use `seeds:`"),
        ("pixels", "pixels, vary: {bits: [8]}", "`vary: {bits: }` is not possible, use `bits:`"),
        ("pixels", "pixels, vary: 3", "`vary:` must be names with values, not 3"),
    ],
)
def test_wrong_values_of_a_suite_name_file_and_key(
    tmp_path: Path, right: str, wrong: str, told: str
) -> None:
    path = tmp_path / "s.yaml"
    good = "methods: [lsh], protocols: [digits], backbone: pixels, bits: [8], seeds: [0]"
    path.write_text(f"grids: [{{{good}}}]")
    assert len(load_suite(path)) == 1
    path.write_text(f"grids: [{{{good.replace(right, wrong)}}}]")
    with pytest.raises(ValueError, match=re.escape(f"s.yaml: grid 0: {told}")):
        load_suite(path)


def test_settings_share_features_only_with_the_same_training_images(wide: str) -> None:
    narrow = datasets.protocol("digits")
    other = datasets.Protocol(
        "digits-other", "digits", narrow.query, narrow.train[:300], narrow.database, narrow.n_images
    )
    path = Path(wide).with_name("digits-other.json")
    datasets.save_protocol(other, path)
    settings: dict[str, Setting] = {}
    first, same, third = (
        run_module._setting(name, "bow_patches", settings, False)
        for name in ("digits", wide, str(path))
    )
    assert same._features is first._features
    assert third._features is not first._features
    assert not np.array_equal(third.features(), first.features())


def test_grid_resumes_and_reports_failures(tmp_path: Path) -> None:
    output = tmp_path / "digits.csv"
    specs = [Spec("lsh", ("digits",), "pixels", 8, s) for s in range(3)]
    assert run_grid(specs[:2], output, workers=1, progress=False) == []
    before = output.read_text()
    bad = Spec("lsh", ("digits",), "pixels", 8, 0, {"no_such": 1})
    failures = run_suite([*specs, bad], tmp_path, workers=2)
    assert len(failures) == 1
    assert "no_such" in failures[0]
    frame = read_records(output)
    assert sorted(frame["seed"]) == [0, 1, 2]
    assert all(line in output.read_text() for line in before.splitlines())
    assert run_suite(specs, tmp_path, dry_run=True) == []


def _dies_on_the_first(spec: Spec, output: Path) -> tuple[float, list[dict[str, float]]]:
    if spec.seed == 0:
        os._exit(9)  # as if the memory had run out
    return 0.1, [{"map_all": spec.seed / 10}]


def test_a_killed_worker_does_not_end_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cbir_lite.bench.grid._work", _dies_on_the_first)
    specs = [Spec("lsh", ("digits",), "pixels", 8, seed) for seed in range(4)]
    failures = run_grid(specs, tmp_path / "r.csv", workers=1)
    assert len(failures) == 1
    assert "seed 0" in failures[0]
    shown = capsys.readouterr()
    assert "seed 3 (digits): mAP@all 0.3000" in shown.out + shown.err


def _dies_beside_the_second(spec: Spec, output: Path) -> tuple[float, list[dict[str, float]]]:
    """Seed 0 ends its worker while seed 1 is at work, which is so until seed 2 is."""
    log = output.with_suffix(".log")
    with log.open("a") as stream:
        stream.write(f"{spec.seed}\n")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        begun = log.read_text().split()
        if spec.seed == 0 and "1" in begun:
            os._exit(9)
        if spec.seed > 1 or (spec.seed == 1 and "2" in begun):
            break
        time.sleep(0.05)
    return 0.1, [{"map_all": spec.seed / 10}]


def test_a_killed_worker_costs_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cbir_lite.bench.grid._work", _dies_beside_the_second)
    specs = [Spec("lsh", ("digits",), "pixels", 8, seed) for seed in range(4)]
    start = time.monotonic()
    failures = run_grid(specs, tmp_path / "r.csv", workers=2)
    assert time.monotonic() - start < 120  # else nobody noticed before a deadline
    assert len(failures) == 1
    assert failures[0].startswith("lsh 8 bits seed 0 (digits): BrokenProcessPool: ")
    assert sorted((tmp_path / "r.log").read_text().split()) == ["0", "1", "2", "3"]
    shown = "".join(capsys.readouterr())
    for seed in (1, 2, 3):
        assert f"seed {seed} (digits): mAP@all 0.{seed}000" in shown


def _script(tmp_path: Path, output: Path) -> Path:
    script = tmp_path / "grid.py"
    script.write_text(
        "import signal\n"
        "from cbir_lite.bench import Spec, run_grid\n"
        # A shell that starts tests in the background has them ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n"
        f"    run_grid([Spec('dpsh', ('digits',), 'pixels', 8, s, {{'epochs': 8}})"
        f" for s in range(6)], {str(output)!r}, workers=1, progress=False)\n"
    )
    return script


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_grid_loses_and_repeats_nothing(tmp_path: Path, how: signal.Signals) -> None:
    output = tmp_path / "digits.csv"
    script = _script(tmp_path, output)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not output.exists():
        assert time.monotonic() < deadline, "no run finished in two minutes"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, how)
    process.communicate()
    kept = read_records(output)
    assert 1 <= len(kept) < 6
    subprocess.run([sys.executable, str(script)], check=True)
    frame = read_records(output)
    assert sorted(frame["seed"]) == list(range(6))
    # What was there was not measured again: its seconds are the same.
    merged = kept.merge(frame, on="seed")
    assert (merged["train_seconds_x"] == merged["train_seconds_y"]).all()


def test_reading_features_is_not_training(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Setting.split

    def slowly(self, *args, **options):
        start = time.process_time()
        while time.process_time() < start + 2:
            pass
        return read(self, *args, **options)

    monkeypatch.setattr(Setting, "split", slowly)
    records, _ = run(Spec("pca_sign", ("digits",), "pixels", 16))
    assert records[0]["train_seconds"] < 1.5


def test_peak_memory_is_that_of_the_run() -> None:
    reset_peak()
    before = peak_mb()
    block = np.ones(40_000_000, np.float64)
    assert peak_mb() - before > 250
    del block


def test_scales() -> None:
    with pytest.raises(ValueError, match="smoke, book, full"):
        at_scale("huge")
    setting = at_scale("smoke", "pixels")
    assert len(setting.image_set) == len(setting.features())
    assert len(setting.frozen.query) == 60
    assert len(setting.rows("train")) == 300
