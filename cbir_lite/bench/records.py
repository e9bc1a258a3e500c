"""Records: one row for each measured (system, protocol, code length, seed), kept as CSV.

``book/results/*.csv`` is the only source of every published number.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cbir_lite._cache import atomic_write, lock

IDENTITY = (
    "method",
    "dataset",
    "protocol",
    "protocol_hash",
    "backbone",
    "weights_hash",
    "bits",
    "seed",
    "params",
    "code_hash",
)
"""Two records that agree in these columns are the same run of the same code."""

RUN = IDENTITY[:-1]
"""A file holds one record of each of these."""

CELL = tuple(c for c in RUN if c != "seed")
"""What is averaged over seeds. All runs of a cell are of one code: older code makes way."""

CUTOFFS: dict[str, int | None] = {"1000": 1000, "5000": 5000, "54000": 54000, "all": None}
DENOMINATORS = {"": "found", "_min": "min", "_relevant": "all"}
"""Suffix of a mAP column and the denominator it stands for (none: relevant found in the top k)."""

MEASURES = (
    *(f"map_{k}{suffix}" for suffix in DENOMINATORS for k in CUTOFFS),
    "map_all_low",
    "map_all_high",
    "p_1000",
    "p_radius2",
    "bit_balance",
    "bit_correlation",
    "distinct_codes",
    "bytes_per_item",
    "train_seconds",
    "encode_seconds",
    "eval_seconds",
    "peak_mb",
)
COLUMNS = (
    "method",
    "fidelity",
    "supervision",
    "descriptor",
    "learns_database",
    *IDENTITY[1:],
    *MEASURES,
    "version",
    "commit",
)


CLAIMS = "claims.csv"
"""In the folder of the records, but none of them: the book's verdicts."""


class RecordError(ValueError):
    """A records file that lacks columns or holds an impossible value."""


def read_records(*paths: str | Path) -> pd.DataFrame:
    """All records of the given CSV files (or of every records CSV in a given folder), checked.

    A file cut short by a crash is never seen: files are replaced whole. Raises
    :class:`RecordError` naming file, row and column.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += _inside(path) if path.is_dir() else [path]
    frames = [_read(f) for f in files if f.exists()]
    frames = [f for f in frames if len(f)]
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(frames, ignore_index=True)


def _inside(folder: Path) -> list[Path]:
    """The records files of a folder, in order of name."""
    # Names with a dot in front are files that another process is writing.
    return sorted(f for f in folder.glob("[!.]*.csv") if f.name != CLAIMS)


def _read(path: Path) -> pd.DataFrame:
    text = {
        c: str
        for c in (
            "method",
            "params",
            "code_hash",
            "protocol_hash",
            "weights_hash",
            "version",
            "commit",
        )
    }
    frame = pd.read_csv(path, dtype=text, keep_default_na=True)
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise RecordError(f"{path}: columns missing: {', '.join(missing)}")
    for column in MEASURES:
        if not column.startswith(("map_", "p_")):
            continue
        wrong = (frame[column] < 0) | (frame[column] > 1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise RecordError(
                f"{path}: row {row + 2}: {column} = {frame[column][row]} is outside 0..1"
            )
    twice = frame.duplicated(list(RUN))
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise RecordError(f"{path}: row {row + 2} repeats an earlier run")
    return frame[list(COLUMNS)]


def write_records(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add records to a file, replacing those of the same `RUN` and those of other code in the same
    `CELL`; whole or not at all.

    Several processes may add to one file at once.
    """
    path = Path(path)
    new = pd.DataFrame(list(rows))
    if new.empty:
        return
    unknown = sorted(set(new.columns) - set(COLUMNS))
    if unknown:
        raise RecordError(f"{path}: unknown columns: {', '.join(unknown)}")
    new = new.reindex(columns=list(COLUMNS))
    with lock(path):
        old = _read(path) if path.exists() else new.iloc[:0]
        merged = new if old.empty else pd.concat([old, new], ignore_index=True)
        merged = merged.drop_duplicates(list(RUN), keep="last")
        present = new.drop_duplicates(list(CELL), keep="last").set_index(list(CELL))["code_hash"]
        of_row = present.reindex(pd.MultiIndex.from_frame(merged[list(CELL)])).to_numpy()
        merged = merged[pd.isna(of_row) | (of_row == merged["code_hash"].to_numpy())]
        merged = merged.sort_values(
            ["protocol", "method", "bits", "seed", "code_hash"], kind="stable"
        )
        with atomic_write(path) as temporary:
            merged.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


SHORTER = ("cifar10-official",)
"""Protocols whose records have fewer epochs, since they train on ten times the images."""


def usual(records: pd.DataFrame) -> pd.DataFrame:
    """The records that tables show: every system at its own hyper-parameters.

    On the protocols of ``SHORTER`` those with the number of epochs that the suite names count too.
    """
    return records[(records["params"] == "{}") | records["protocol"].isin(SHORTER)]


def summary(
    records: pd.DataFrame, measure: str, by: tuple[str, ...] = ("method", "protocol", "bits")
) -> pd.DataFrame:
    """Mean, standard deviation over seeds (n - 1) and number of seeds of a measure."""
    grouped = records.groupby(list(by), sort=False)[measure]
    return grouped.agg(mean="mean", std="std", seeds="count").reset_index()
