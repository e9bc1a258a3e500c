"""Records: whole or not at all, checked on reading, the same run only once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cbir_lite.bench.records import (
    CELL,
    COLUMNS,
    RecordError,
    read_records,
    summary,
    usual,
    write_records,
)
from cbir_lite.bench.run import code_hash, mark_stale


def row(method: str = "itq", seed: int = 0, **more: object) -> dict[str, object]:
    base = dict.fromkeys(COLUMNS, np.nan) | {
        "method": method,
        "fidelity": "faithful",
        "supervision": "unsupervised",
        "descriptor": "binary",
        "learns_database": False,
        "dataset": "digits",
        "protocol": "digits",
        "protocol_hash": "12",
        "backbone": "pixels",
        "weights_hash": "none",
        "bits": 16,
        "seed": seed,
        "params": "{}",
        "code_hash": "00e1",
        "map_all": 0.5,
        "version": "0.1.0",
        "commit": "123456789012",
    }
    return base | more


def test_round_trip_keeps_hashes_as_text(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_records(path, [row()])
    frame = read_records(path)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["code_hash"][0] == "00e1"
    assert frame["commit"][0] == "123456789012"
    assert frame["map_all"][0] == 0.5


def test_the_same_run_is_replaced_and_another_added(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_records(path, [row(), row(seed=1)])
    write_records(path, [row(map_all=0.75), row(seed=2)])
    frame = read_records(tmp_path)
    assert list(frame["seed"]) == [0, 1, 2]
    assert list(frame["map_all"]) == [0.75, 0.5, 0.5]
    table = summary(frame, "map_all")
    assert table["mean"][0] == pytest.approx(np.mean([0.75, 0.5, 0.5]))
    assert table["std"][0] == pytest.approx(np.std([0.75, 0.5, 0.5], ddof=1))
    assert table["seeds"][0] == 3


def test_newer_code_replaces_what_older_code_measured(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_records(path, [row(map_all=0.1), row(seed=1), row(bits=32)])
    write_records(path, [row(map_all=0.8, code_hash="ffff")])
    frame = read_records(path)
    # The other seed makes way too: a mean is of one code.
    assert list(frame["bits"]) == [16, 32]
    assert list(frame["map_all"]) == [0.8, 0.5]
    write_records(path, [row(seed=1, map_all=0.6, code_hash="ffff")])
    assert list(read_records(path)["map_all"]) == [0.8, 0.6, 0.5]
    text = path.read_text()
    path.write_text(text + text.splitlines()[1].replace("ffff", "00e1") + "\n")
    with pytest.raises(RecordError, match=r"r\.csv: row 5 repeats an earlier run"):
        read_records(path)


def test_no_published_mean_is_of_two_codes() -> None:
    frame = read_records(Path(__file__).parents[2] / "book" / "results")
    assert (frame.groupby(list(CELL))["code_hash"].nunique() == 1).all()


def test_records_of_other_code_are_stale() -> None:
    now = code_hash("itq")
    rows = [row(code_hash="old"), row(seed=1, code_hash=now), row("gone", code_hash=now)]
    marked = mark_stale(pd.DataFrame(rows))
    assert marked["stale"].tolist() == [True, False, True]
    assert marked["seed"].tolist() == [0, 1, 0]


def test_defects_name_file_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with pytest.raises(RecordError, match="colour"):
        write_records(path, [row(colour=1)])
    write_records(path, [row(), row(seed=1)])
    text = path.read_text()
    path.write_text(text.replace("0.5", "1.5", 1))
    with pytest.raises(RecordError, match=r"r\.csv: row 2: map_all = 1\.5"):
        read_records(path)
    path.write_text(text.replace("map_all,", "map_everything,", 1))
    with pytest.raises(RecordError, match="columns missing: map_all"):
        read_records(path)
    lines = text.splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(RecordError, match="row 4 repeats"):
        read_records(path)


def test_no_files_give_an_empty_table(tmp_path: Path) -> None:
    frame = read_records(tmp_path / "none.csv", tmp_path)
    assert len(frame) == 0
    assert list(frame.columns) == list(COLUMNS)


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    write_records(tmp_path / "r.csv", [row()])
    whole = (tmp_path / "r.csv").read_text()
    for text in (whole, "", whole[:40]):
        (tmp_path / ".tmp-r-0123.csv").write_text(text)
        assert len(read_records(tmp_path)) == 1


def test_a_measure_that_no_run_has_stays_a_number(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_records(path, [row(peak_mb=np.nan)])
    write_records(path, [row(seed=1, peak_mb=np.nan)])
    assert read_records(path)["peak_mb"].dtype == np.float64
    write_records(path, [row(seed=2, peak_mb=3.5)])
    np.testing.assert_array_equal(read_records(path)["peak_mb"], [np.nan, np.nan, 3.5])


def _add(path: str, method: str) -> None:
    for seed in range(8):
        write_records(path, [row(method, seed)])


def test_two_processes_adding_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_add, args=(str(path), m)) for m in ("itq", "lsh")]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(read_records(path)) == 16


def test_the_usual_records_are_those_of_the_systems_own_settings():
    frame = pd.DataFrame(
        {
            "protocol": ["cifar10-59k", "cifar10-59k", "cifar10-official"],
            "params": ["{}", '{"lr": 0.1}', '{"epochs": 6}'],
        }
    )
    assert usual(frame)["params"].tolist() == ["{}", '{"epochs": 6}']


def _write(path: Path, name: str) -> None:
    for seed in range(15):
        write_records(path, [row(name, seed=seed)])


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, f"m{i}")) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_records(path)) == 60
    # A lock that is removed is another file for who comes next, and no lock for who waits.
    assert Path(f"{path}.lock").exists()
