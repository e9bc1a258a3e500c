"""The survey's slips (errata.yaml), its sections and its testable claims (sections.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ._load import Record, index, lookup, read_section, read_yaml, records
from ._methods import method, methods

ERRATA_FILE = "errata.yaml"
SECTIONS_FILE = "sections.yaml"
TABLES = ("I", "II", "III", "IV")
LIKELY = ("method_id", "protocol", "supervision", "duplicate")


@dataclass(frozen=True)
class RowRule:
    """Which rows of which tables an erratum flags.

    A row matches where every column in `where` holds one of the given values. `likely` is what the
    row probably holds instead (see `table`); it never replaces a printed value.
    """

    tables: tuple[str, ...]
    where: Mapping[str, tuple[Any, ...]]
    likely: Mapping[str, Any]


@dataclass(frozen=True)
class Erratum:
    """One inconsistency of the survey.

    `finding` (only for text claims) is what the tables say; `evidence` is ``text`` where it follows
    from the printed text, ``outside`` where it rests on other papers or code; `show` is how the
    companion presents it. `tables` and `methods` are the ids concerned, `rows` says which table
    rows are flagged.
    """

    id: str
    group: str
    where: str
    what: str
    evidence: str
    finding: str | None
    show: str | None
    tables: tuple[str, ...]
    methods: tuple[str, ...]
    rows: tuple[RowRule, ...] = field(hash=False)


@dataclass(frozen=True)
class Claim:
    """A statement of the survey that a chapter can test, how to test it, and related errata."""

    id: str
    section: str
    text: str
    test: str
    errata: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A section of the survey with the ids of its systems (methods.yaml) and of its claims."""

    id: str
    title: str
    parent: str | None
    figures: tuple[int, ...]
    tables: tuple[str, ...]
    methods: tuple[str, ...]
    claims: tuple[str, ...]


def _rule(record: Record, data: object) -> RowRule:
    if not isinstance(data, Mapping) or "table" not in data:
        record.fail("rows", f"expected a mapping with the key 'table', found {data!r}")
    listed = {
        k: tuple(v) if isinstance(v, list) else (v,) for k, v in data.items() if k != "likely"
    }
    tables = listed.pop("table")
    if unknown := [t for t in tables if t not in TABLES]:
        record.fail("rows", f"table {unknown[0]!r} is not one of {', '.join(TABLES)}")
    likely = data.get("likely", {})
    if not isinstance(likely, Mapping) or not set(likely) <= set(LIKELY):
        record.fail("rows", f"likely may hold {', '.join(LIKELY)}, found {likely!r}")
    return RowRule(tables, listed, dict(likely))


def _erratum(record: Record) -> Erratum:
    record.only(tuple(Erratum.__dataclass_fields__))
    evidence = record.text("evidence")
    if not evidence.startswith(("text", "outside")):
        record.fail("evidence", f"must start with 'text' or 'outside', found {evidence!r}")
    rows = record.data.get("rows", [])
    if not isinstance(rows, list):
        record.fail("rows", f"expected a list of rules, found {rows!r}")
    return Erratum(
        id=record.text("id"),
        group=record.text("group"),
        where=record.text("where"),
        what=record.text("what"),
        evidence=evidence,
        finding=record.maybe_text("finding"),
        show=record.maybe_text("show"),
        tables=record.texts("tables", TABLES),
        methods=record.texts("methods"),
        rows=tuple(_rule(record, row) for row in rows),
    )


@lru_cache(maxsize=8)
def errata(root: Path | None = None) -> Mapping[str, Erratum]:
    """All errata by id (``E01`` ...), read-only; `SurveyDataError` for a malformed row."""
    rows = [(r, _erratum(r)) for r in records(ERRATA_FILE, read_yaml(ERRATA_FILE, root))]
    return MappingProxyType(index(rows, "id", lambda erratum: erratum.id))


def errata_of(method_id: str, root: Path | None = None) -> tuple[Erratum, ...]:
    """The errata that concern the system `method_id`; `KeyError` for an unknown id."""
    known = method(method_id, root).id
    return tuple(erratum for erratum in errata(root).values() if known in erratum.methods)


@lru_cache(maxsize=8)
def claims(root: Path | None = None) -> Mapping[str, Claim]:
    """All testable claims by id (``C-IVA-2``), read-only."""
    rows = []
    for r in records(SECTIONS_FILE, read_section(SECTIONS_FILE, "claims", root)):
        r.only(tuple(Claim.__dataclass_fields__))
        related = r.texts("errata", optional=True)
        claim = Claim(r.text("id"), r.text("section"), r.text("text"), r.text("test"), related)
        rows.append((r, claim))
    return MappingProxyType(index(rows, "id", lambda claim: claim.id))


@lru_cache(maxsize=8)
def sections(root: Path | None = None) -> Mapping[str, Section]:
    """All sections by id (``IV-A``, ``III.4``, ``V-C.1``) in the survey's order, read-only."""
    rows = []
    for r in records(SECTIONS_FILE, read_section(SECTIONS_FILE, "sections", root)):
        r.only(("id", "title", "figures", "tables"))
        ident = r.text("id")
        section = Section(
            id=ident,
            title=r.text("title"),
            parent=next((ident.rpartition(mark)[0] for mark in ".-" if mark in ident), None),
            figures=r.numbers("figures", optional=True),
            tables=r.texts("tables", TABLES, optional=True),
            methods=tuple(m.id for m in methods(root).values() if ident in m.sections),
            claims=tuple(c.id for c in claims(root).values() if c.section == ident),
        )
        rows.append((r, section))
    return MappingProxyType(index(rows, "id", lambda section: section.id))


def section(id: str, root: Path | None = None) -> Section:
    """The section `id`; `KeyError` with close matches for an unknown id."""
    return lookup(sections(root), id, "section")


def claim(id: str, root: Path | None = None) -> Claim:
    """The claim `id`; `KeyError` with close matches for an unknown id."""
    return lookup(claims(root), id, "claim")


def erratum(id: str, root: Path | None = None) -> Erratum:
    """The erratum `id`; `KeyError` with close matches for an unknown id."""
    return lookup(errata(root), id, "erratum")
