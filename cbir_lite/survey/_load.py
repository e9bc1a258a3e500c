"""Reading and checking of the survey's data files; every error names file, row and field."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

DATA = Path(__file__).with_name("data")
T = TypeVar("T")

# The C parser reads methods.yaml in a tenth of the time; not every PyYAML build carries it.
_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class SurveyDataError(ValueError):
    """A data file of the survey is missing, malformed or contradicts another one."""


class UnknownIdError(KeyError):
    """A look-up by an id the survey does not have; the message suggests close ones."""

    def __str__(self) -> str:
        return str(self.args[0])


class Record:
    """One row of a data file with typed access.

    `where` is what an error calls the row, e.g. ``methods.yaml, row 3 (dhn)``.
    """

    def __init__(self, file: str, row: int, data: object, id_field: str = "id") -> None:
        self.where = f"{file}, row {row}"
        if not isinstance(data, Mapping):
            raise SurveyDataError(f"{self.where}: expected a mapping, found {data!r}")
        self.data = data
        if data.get(id_field) not in (None, ""):
            self.where += f" ({data[id_field]})"

    def fail(self, field: str, message: str) -> NoReturn:
        """Raise `SurveyDataError` for `field` of this row."""
        raise SurveyDataError(f"{self.where}, field {field!r}: {message}")

    def _value(self, field: str, optional: bool) -> Any:
        value = self.data.get(field)
        if value is None and not optional:
            self.fail(field, "missing" if field not in self.data else "empty, a value is required")
        return value

    def only(self, fields: Collection[str]) -> None:
        """Reject fields outside `fields`: a misspelt optional field would be lost silently."""
        for field in self.data:
            if field not in fields:
                close = get_close_matches(str(field), list(fields), 1)
                self.fail(
                    field, "unknown field" + (f", did you mean {close[0]!r}?" if close else "")
                )

    def text(self, field: str, choices: Collection[str] | None = None) -> str:
        """A string, one of `choices` where given."""
        value = self._value(field, False)
        if not isinstance(value, str) or not value.strip():
            self.fail(field, f"expected text, found {value!r}")
        if choices is not None and value not in choices:
            self.fail(field, f"{value!r} is not one of {', '.join(sorted(choices))}")
        return value

    def maybe_text(self, field: str) -> str | None:
        """A string, or None where the field is absent or null."""
        return None if self._value(field, True) is None else self.text(field)

    def number(self, field: str, low: int | None = None, high: int | None = None) -> int:
        """An integer in [low, high]."""
        value = self._value(field, False)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(field, f"expected a whole number, found {value!r}")
        if (low is not None and value < low) or (high is not None and value > high):
            self.fail(field, f"{value} lies outside {low}..{high}")
        return value

    def maybe_number(
        self, field: str, low: int | None = None, high: int | None = None
    ) -> int | None:
        """An integer in [low, high], or None where the field is absent or null."""
        return None if self._value(field, True) is None else self.number(field, low, high)

    def texts(
        self, field: str, choices: Collection[str] | None = None, optional: bool = False
    ) -> tuple[str, ...]:
        """A list of strings; absent means empty where `optional`."""
        return self._list(field, str, choices, optional)

    def numbers(self, field: str, optional: bool = False) -> tuple[int, ...]:
        """A list of integers; absent means empty where `optional`."""
        return self._list(field, int, None, optional)

    def _list(
        self, field: str, kind: type[T], choices: Collection[T] | None, optional: bool
    ) -> tuple[T, ...]:
        value = self._value(field, optional)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fail(field, f"expected a list, found {value!r}")
        for item in value:
            if not isinstance(item, kind) or isinstance(item, bool):
                self.fail(field, f"expected a list of {kind.__name__}, found {item!r} in it")
            if choices is not None and item not in choices:
                allowed = ", ".join(sorted(map(str, choices)))
                self.fail(field, f"{item!r} is not one of {allowed}")
        return tuple(value)


@lru_cache(maxsize=16)
def read_yaml(name: str, root: Path | None = None) -> Any:
    """Parsed content of the YAML file `name` of the data folder (or of `root`).

    The result is shared by all callers: hand out copies only.
    """
    path = (root or DATA) / name
    try:
        with path.open(encoding="utf-8") as handle:
            return yaml.load(handle, Loader=_YamlLoader)
    except FileNotFoundError:
        raise SurveyDataError(f"{name}: not found in {path.parent}; reinstall cbir-lite") from None
    except yaml.YAMLError as error:
        raise SurveyDataError(f"{name}: not valid YAML: {error}") from error


def read_section(name: str, key: str, root: Path | None = None) -> Any:
    """The value under the top-level `key` of the YAML file `name`."""
    content = read_yaml(name, root)
    if not isinstance(content, Mapping) or key not in content:
        raise SurveyDataError(f"{name}: the top-level key {key!r} is missing")
    return content[key]


def records(name: str, rows: object, id_field: str = "id") -> list[Record]:
    """The list `rows` of file `name` as records, rows counted from 1."""
    if not isinstance(rows, list):
        raise SurveyDataError(f"{name}: expected a list of rows, found {type(rows).__name__}")
    return [Record(name, i, row, id_field) for i, row in enumerate(rows, 1)]


def index(rows: Iterable[tuple[Record, T]], field: str, key: Callable[[T], Any]) -> dict[Any, T]:
    """Rows by key in file order; a repeated key is an error that names the second row."""
    found: dict[Any, T] = {}
    for record, row in rows:
        if key(row) in found:
            record.fail(field, f"{key(row)!r} stands twice in the file")
        found[key(row)] = row
    return found


def lookup(table: Mapping[str, T], key: str, kind: str) -> T:
    """`table[key]`, or `UnknownIdError` with the closest ids."""
    if key in table:
        return table[key]
    near = {k.lower(): k for k in table}
    close = [near[k] for k in get_close_matches(str(key).lower(), list(near), 3, 0.5)]
    hint = f"; did you mean {', '.join(close)}?" if close else f"; {len(table)} are known"
    raise UnknownIdError(f"no {kind} with id {key!r} in the survey{hint}")


def read_csv(
    name: str, columns: Mapping[str, Callable[[str], Any]], root: Path | None = None
) -> list[dict[str, Any]]:
    """Rows of the CSV file `name`, each cell converted by its column's function.

    Raises `SurveyDataError` where the header differs from `columns` or a cell does not convert;
    the row in the message is the line of the file.
    """
    path = (root or DATA) / "tables" / name
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            lines = list(csv.reader(handle))
    except FileNotFoundError:
        raise SurveyDataError(f"{name}: not found in {path.parent}; reinstall cbir-lite") from None
    header = lines[0] if lines else []
    for column in columns:
        if column not in header:
            raise SurveyDataError(f"{name}, row 1, field {column!r}: the column is missing")
    for column in header:
        if column not in columns:
            raise SurveyDataError(f"{name}, row 1, field {column!r}: unknown column")
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            raise SurveyDataError(
                f"{name}, row {number}: {len(cells)} cells under {len(header)} columns"
            )
        row = {}
        for column, cell in zip(header, cells, strict=True):
            try:
                row[column] = columns[column](cell)
            except ValueError as error:
                raise SurveyDataError(f"{name}, row {number}, field {column!r}: {error}") from None
        rows.append(row)
    return rows
