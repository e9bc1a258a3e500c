"""What a suite still has to do, and how long it takes by the records."""

from __future__ import annotations

import pandas as pd
import pytest

from cbir_lite.bench import Spec
from cbir_lite.bench.cost import expected_seconds, missing
from cbir_lite.bench.grid import run_suite
from cbir_lite.bench.records import COLUMNS, write_records

WIDE = ("cifar10-59k", "cifar10-54k")


def record(spec: Spec, protocol: int, train: float, **other: object) -> dict[str, object]:
    names = ("method", "dataset", "protocol", "protocol_hash", "backbone", "weights_hash")
    names += ("bits", "seed", "params", "code_hash")
    values: dict[str, object] = dict(zip(names, spec.identities()[protocol], strict=True))
    values |= {"bits": spec.bits, "seed": spec.seed, "train_seconds": train}
    values |= {"encode_seconds": 1.0, "eval_seconds": 0.5}
    return {**dict.fromkeys(COLUMNS), **values, **other}


def test_a_run_is_missing_unless_all_its_protocols_have_records_of_its_code() -> None:
    whole, half, stale, none = (Spec("itq", WIDE, "pixels", b) for b in (12, 16, 24, 32))
    rows = [record(whole, 0, 3.0), record(whole, 1, 3.0), record(half, 0, 3.0)]
    rows += [record(stale, p, 3.0, code_hash="0" * 12) for p in (0, 1)]
    assert missing([whole, half, stale, none], pd.DataFrame(rows)) == [half, stale, none]
    assert missing([whole], pd.DataFrame(columns=list(COLUMNS))) == [whole]


def test_a_run_takes_the_least_its_system_took_with_as_many_bits_or_any() -> None:
    known = [Spec("itq", WIDE, "pixels", bits, seed) for bits in (12, 24) for seed in (0, 1)]
    rows = [record(s, 0, t) for s, t in zip(known, (9.0, 3.0, 7.0, 8.0), strict=True)]
    # Of another protocol, and so no evidence.
    rows.append(record(known[0], 1, 0.1))
    asked = [Spec("itq", WIDE, "pixels", b, 2) for b in (12, 24, 64)]
    asked += [Spec("lsh", WIDE, "pixels", 12), Spec("itq", WIDE[1:], "pixels", 24)]
    found = expected_seconds(asked, pd.DataFrame(rows))
    assert found[:3].tolist() == [4.5, 8.5, 4.5]
    assert found[3:].isna().tolist() == [True, False]
    assert found[4] == pytest.approx(1.6)


def test_a_dry_run_tells_what_is_left_and_how_long_it_takes(tmp_path, capsys) -> None:
    known = Spec("itq", WIDE, "pixels", 12)
    write_records(tmp_path / "cifar10.csv", [record(known, p, 1798.5) for p in (0, 1)])
    more = [Spec("itq", WIDE, "pixels", b) for b in (16, 24)]
    assert run_suite([known], tmp_path, dry_run=True) == []
    assert "cifar10.csv: 1 of 1 runs are there\n" in capsys.readouterr().out
    run_suite([known, *more, Spec("lsh", WIDE, "pixels", 12)], tmp_path, dry_run=True)
    expected = "1 of 4 runs are there; 3 left, 1.0 hours of one process, 1 of them without a time"
    assert expected in capsys.readouterr().out.replace("\n", " ")
