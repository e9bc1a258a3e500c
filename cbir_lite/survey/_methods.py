"""The systems of the survey (methods.yaml): one row, one system, with its facets and objective."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from ._load import Record, SurveyDataError, index, lookup, read_section, records

FILE = "methods.yaml"
TIERS = ("A", "B", "C")
SUPERVISION = ("supervised", "unsupervised", "semi", "weak", "pseudo", "self")
NETWORKS = (
    *("cnn", "autoencoder", "siamese", "triplet", "gan", "attention", "rnn", "rl"),
    *("variational", "dnn", "ptn"),
)
DESCRIPTORS = ("binary", "real", "aggregation")
RETRIEVAL = (
    *("cross_modal", "sketch", "multi_label", "instance", "object"),
    *("semantic", "fine_grained", "asymmetric"),
)
FACETS = ("supervision", "network", "descriptor", "retrieval")
FACET_SOURCES = ("survey", "table", "own", "not_stated")


@dataclass(frozen=True)
class SurveyMethod:
    """One system of the survey.

    `tier`: A has rows in Tables II-IV, B is described in the text, C is cited in passing.
    `year` is the canonical year (None where unknown), `year_basis` where it comes from.
    `facet_source` says for each facet whether the survey prints it (survey), only a table's network
    column does (table), or it was added (own). `objective` is LaTeX, None where nothing is known;
    `objective_confidence` says how far it is known. `sections` and `tables` hold ids (``V-C.2``,
    ``II``), `table_rows` the number of printed rows. `identity`: survey = named there, inferred or
    unknown = title not certain.
    `survey_lines` are line numbers of the survey's extracted text.
    """

    id: str
    name: str
    full_name: str
    year: int | None
    year_basis: str
    citations: tuple[int, ...]
    tier: str
    supervision: tuple[str, ...]
    network: tuple[str, ...]
    descriptor: tuple[str, ...]
    retrieval: tuple[str, ...]
    facet_source: Mapping[str, str] = field(hash=False)
    network_type_printed: tuple[str, ...]
    idea: str
    objective: str | None
    objective_confidence: str
    sections: tuple[str, ...]
    tables: tuple[str, ...]
    survey_lines: tuple[int, ...]
    table_rows: int
    name_printed_in_survey: bool | str
    identity: str
    code_kind: str | None = None
    note: str | None = None

    @property
    def quantization(self) -> bool:
        """True where codes are codebook indices, so that Hamming distance does not apply."""
        return bool(self.code_kind) and str(self.code_kind).startswith("quantization")


@dataclass(frozen=True)
class Component:
    """A technique several systems share: what it is for and the sections that name it."""

    name: str
    sections: tuple[str, ...]
    use: str


_FIELDS = tuple(SurveyMethod.__dataclass_fields__)


def _facet_source(record: Record) -> dict[str, str]:
    value = record.data.get("facet_source")
    if not isinstance(value, Mapping):
        record.fail("facet_source", f"expected a mapping, found {value!r}")
    for facet in FACETS:
        if value.get(facet) not in FACET_SOURCES:
            record.fail(
                "facet_source",
                f"{facet}: {value.get(facet)!r} is not one of {', '.join(FACET_SOURCES)}",
            )
    return dict(value)


def _objective(record: Record) -> str | None:
    if record.data.get("objective") == "" and record.data.get("objective_confidence") == "unknown":
        return None
    return record.text("objective")


def _method(record: Record) -> SurveyMethod:
    record.only(_FIELDS)
    printed = record.data.get("name_printed_in_survey")
    if not isinstance(printed, bool) and printed != "tables only":
        record.fail(
            "name_printed_in_survey", f"expected true, false or 'tables only', not {printed!r}"
        )
    if not re.fullmatch(r"[a-z0-9_]+", ident := record.text("id")):
        record.fail("id", f"{ident!r} must be lower-case letters, digits and underscores")
    # The file's sections also list tables and figures, and "III.4 (2016)" carries its year.
    places = [s.split(" (")[0] for s in record.texts("sections")]
    return SurveyMethod(
        id=ident,
        name=record.text("name"),
        full_name=record.text("full_name"),
        year=record.maybe_number("year", 1980, 2021),
        year_basis=record.text("year_basis", ("survey_text", "table", "figure", "own", "unknown")),
        citations=record.numbers("citations"),
        tier=record.text("tier", TIERS),
        supervision=record.texts("supervision", SUPERVISION),
        network=record.texts("network", NETWORKS),
        descriptor=record.texts("descriptor", DESCRIPTORS),
        retrieval=record.texts("retrieval", RETRIEVAL),
        facet_source=_facet_source(record),
        network_type_printed=record.texts("network_type_printed"),
        idea=record.text("idea"),
        objective=_objective(record),
        objective_confidence=record.text(
            "objective_confidence", ("known", "approximate", "unknown")
        ),
        sections=tuple(p for p in places if not p.startswith(("Table", "Fig"))),
        tables=tuple(
            t.removeprefix("Table ")
            for t in record.texts("tables", ("Table II", "Table III", "Table IV"))
        ),
        survey_lines=record.numbers("survey_lines"),
        table_rows=record.number("table_rows", 0),
        name_printed_in_survey=printed,
        identity=record.text("identity", ("survey", "inferred", "unknown")),
        code_kind=record.maybe_text("code_kind"),
        note=record.maybe_text("note"),
    )


@lru_cache(maxsize=8)
def methods(root: Path | None = None) -> Mapping[str, SurveyMethod]:
    """All systems by id, in the file's order (read-only).

    `root` reads another data folder. Raises `SurveyDataError` for a malformed row.
    """
    rows = [
        (record, _method(record)) for record in records(FILE, read_section(FILE, "methods", root))
    ]
    found: dict[str, SurveyMethod] = index(rows, "id", lambda method: method.id)
    counts = read_section(FILE, "counts", root)
    for tier in TIERS:
        actual = sum(method.tier == tier for method in found.values())
        if counts.get(tier) != actual:
            raise SurveyDataError(
                f"{FILE}, counts, field {tier!r}: says {counts.get(tier)}, found {actual} rows"
            )
    return MappingProxyType(found)


def method(id: str, root: Path | None = None) -> SurveyMethod:
    """The system `id`; `KeyError` with close matches for an unknown id."""
    return lookup(methods(root), id, "method")


@lru_cache(maxsize=8)
def components(root: Path | None = None) -> tuple[Component, ...]:
    """Techniques that the survey's systems share (PCA, policy gradient, VLAD, ...)."""
    rows = records(FILE, read_section(FILE, "components", root), "name")
    return tuple(
        Component(r.text("name"), tuple(r.text("section").split(", ")), r.text("use")) for r in rows
    )


@lru_cache(maxsize=8)
def background_citations(root: Path | None = None) -> Mapping[int, str]:
    """Role of each reference that stands for no system: surveys, data sets, general claims."""
    rows = records(FILE, read_section(FILE, "background_citations", root), "role")
    return MappingProxyType({n: r.text("role") for r in rows for n in r.numbers("citations")})


@lru_cache(maxsize=8)
def notation(root: Path | None = None) -> Mapping[str, str]:
    """Symbols of the objectives and what they stand for."""
    return MappingProxyType(
        {str(k): str(v) for k, v in read_section(FILE, "notation", root).items()}
    )
