"""Tables I-IV of the survey as data frames, printed values untouched, errata as a column."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ._errata import TABLES, errata
from ._load import SurveyDataError, read_csv
from ._methods import method, methods

Columns = Literal["printed", "likely"]
STEMS = {
    "I": "table1_datasets",
    "II": "table2_map5000",
    "III": "table3_map1000",
    "IV": "table4_map54000_all",
}


def _text(cell: str) -> str:
    if not cell.strip():
        raise ValueError("empty, a value is required")
    return cell


def _free(cell: str) -> str:
    return cell


def _int(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise ValueError(f"expected a whole number, found {cell!r}") from None


def _maybe_int(cell: str) -> int | None:
    return _int(cell) if cell else None


def _percent(cell: str) -> float:
    if not cell:
        return float("nan")
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"expected a percentage, found {cell!r}") from None
    if not 0 <= value <= 100:
        raise ValueError(f"{cell} is no percentage in 0..100")
    return value


def _bool(cell: str) -> bool:
    if cell not in ("true", "false"):
        raise ValueError(f"expected true or false, found {cell!r}")
    return cell == "true"


_SHARED: dict[str, Any] = {
    "table": _text,
    "protocol": _text,
    "method_label": _text,
    "method_id": _text,
    "year_printed": _int,
    "citation": _int,
    "network_type_printed": _text,
    "result_source": _int,
    "ambiguous_columns": _bool,
    "survey_line": _int,
}
_TIDY = _SHARED | {
    **{"dataset": _text, "bits": _int, "bits_likely": _int, "value": _percent},
    **{"cell_printed": _text, "col_index": _int, "row_in_table": _int},
}
_PRINTED = _SHARED | {
    **{"section": _text, "n_columns": _int, "n_cells": _int, "cells_left_to_right": _text}
}
_DATASETS = {
    **{"row": _int, "dataset": _text, "dataset_id": _text, "citation": _int, "year_printed": _int},
    **{"classes_printed": _text, "training_printed": _text, "test_printed": _text},
    **{"image_type_printed": _text, "classes": _maybe_int, "training": _maybe_int},
    **{"test": _maybe_int, "approximate": _bool, "survey_line": _int, "notes": _free},
}


def roman(n: int | str) -> str:
    """Table id of 1..4 or "I".."IV"; `ValueError` for anything else."""
    if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 4:
        return TABLES[n - 1]
    if n in TABLES:
        return str(n)
    raise ValueError(f"the survey has Tables 1 to 4 (or 'I' to 'IV'), not {n!r}")


def _flag(frame: pd.DataFrame, table_id: str, root: Path | None) -> pd.DataFrame:
    """Add the errata column and what the flagged rows probably hold instead."""
    flags: list[list[str]] = [[] for _ in range(len(frame))]
    for erratum in errata(root).values():
        hit = pd.Series(False, index=frame.index)
        for rule in erratum.rows:
            if table_id not in rule.tables:
                continue
            match = pd.Series(True, index=frame.index)
            for column, values in rule.where.items():
                if column not in frame:
                    raise SurveyDataError(
                        f"errata.yaml, row {erratum.id}, field 'rows': "
                        f"Table {table_id} has no column {column!r}"
                    )
                match &= frame[column].isin(list(values))
            if not match.any():
                raise SurveyDataError(
                    f"errata.yaml, row {erratum.id}, field 'rows': no row of Table {table_id} "
                    f"matches {dict(rule.where)}"
                )
            for name, value in rule.likely.items():
                target = f"{name}_likely" if name in ("method_id", "protocol") else name
                frame.loc[match, target] = value
            hit |= match
        for position in hit.to_numpy().nonzero()[0]:
            flags[position].append(erratum.id)
    frame["errata"] = ["; ".join(ids) for ids in flags]
    return frame


@lru_cache(maxsize=32)
def _table(table_id: str, root: Path | None) -> pd.DataFrame:
    name = f"{STEMS[table_id]}.csv"
    if table_id == "I":
        frame = pd.DataFrame(read_csv(name, _DATASETS, root))
        for column in ("classes", "training", "test"):
            frame[column] = frame[column].astype("Int64")
        return _flag(frame, table_id, root)
    known = methods(root)
    rows = read_csv(name, _TIDY, root)
    for line, row in enumerate(rows, 2):
        where = f"{name}, row {line}, field"
        if row["table"] != table_id:
            raise SurveyDataError(f"{where} 'table': expected {table_id!r}, found {row['table']!r}")
        if row["method_id"] not in known:
            raise SurveyDataError(
                f"{where} 'method_id': {row['method_id']!r} is not in methods.yaml"
            )
        if (f"{row['value']:.1f}" if row["value"] == row["value"] else "-") != row["cell_printed"]:
            raise SurveyDataError(
                f"{where} 'value': {row['value']} is not the printed cell {row['cell_printed']!r}"
            )
        if row["bits"] != row["bits_likely"] and not row["ambiguous_columns"]:
            raise SurveyDataError(f"{where} 'bits_likely': differs in a row that is not ambiguous")
    frame = pd.DataFrame(rows)
    frame["supervision"] = ["; ".join(known[m].supervision) for m in frame["method_id"]]
    frame["method_id_likely"] = frame["method_id"]
    frame["protocol_likely"] = frame["protocol"]
    frame["duplicate"] = False
    return _flag(frame, table_id, root)


def table(n: int | str, columns: Columns = "printed", root: Path | None = None) -> pd.DataFrame:
    """Table I, II, III or IV, tidy: one row a data set (Table I) or a printed cell (Tables II-IV).

    `value` is mAP in percent as printed, NaN for a dash. `bits` follows `columns`: ``printed``
    counts the cells of a row from the left, ``likely`` uses the columns of the neighbouring rows
    where a row has too few cells (`ambiguous_columns`, E05). `errata` holds the ids that flag the
    row, joined by "; ". What a flagged row probably holds instead stands beside the printed value:
    `method_id_likely` (E01), `protocol_likely` (E02) and `duplicate` (copied from another printed
    row, E04). `supervision` comes from methods.yaml (joined by "; "), for GreedyHash rows from the
    variant used (E15).
    Raises `ValueError` for another table or reading, `SurveyDataError` for broken data.
    """
    if columns not in ("printed", "likely"):
        raise ValueError(f"columns must be 'printed' or 'likely', not {columns!r}")
    table_id = roman(n)
    frame = _table(table_id, root).copy()
    if table_id != "I" and columns == "likely":
        frame["bits"] = frame["bits_likely"]
    return frame


def results(columns: Columns = "printed", root: Path | None = None) -> pd.DataFrame:
    """Tables II-IV in one frame (columns as in `table`)."""
    return pd.concat([table(n, columns, root) for n in TABLES[1:]], ignore_index=True)


def reported(
    method_id: str, columns: Columns = "printed", root: Path | None = None
) -> pd.DataFrame:
    """Printed values of one system over Tables II-IV, dashes left out.

    Rows count by their printed label: one that E01 gives to another system stays here, flagged.
    `KeyError` for an unknown id.
    """
    frame = results(columns, root)
    keep = (frame["method_id"] == method(method_id, root).id) & frame["value"].notna()
    return frame[keep].reset_index(drop=True)


@lru_cache(maxsize=32)
def _as_printed(table_id: str, root: Path | None) -> pd.DataFrame:
    return pd.DataFrame(read_csv(f"{STEMS[table_id]}_as_printed.csv", _PRINTED, root))


def table_as_printed(n: int | str, root: Path | None = None) -> pd.DataFrame:
    """Table II, III or IV with one row a printed line, cells from left to right joined by " | ".

    Table I is printed as it is tidied: its `*_printed` columns hold the cells.
    """
    table_id = roman(n)
    if table_id == "I":
        keep = ["dataset", "citation", *(c for c in _DATASETS if c.endswith("_printed"))]
        return table(1, root=root)[keep]
    return _as_printed(table_id, root).copy()
