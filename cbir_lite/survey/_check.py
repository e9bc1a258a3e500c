"""Do the data files agree with each other?"""

from __future__ import annotations

from pathlib import Path

from ._errata import SECTIONS_FILE, claims, errata, sections
from ._load import SurveyDataError
from ._methods import background_citations, components, methods
from ._references import bibtex, references
from ._tables import STEMS, table, table_as_printed
from ._taxonomy import TIMELINES, taxonomy, timeline, tree


def _fail(where: str, field: str, message: str) -> None:
    raise SurveyDataError(f"{where}, field {field!r}: {message}")


def _check_references(root: Path | None) -> None:
    known = references(root)
    if list(known) != list(range(1, len(known) + 1)):
        _fail("references.yaml", "id", "numbers must run from 1 without a gap")
    used = set(background_citations(root)) | set(table(1, root=root)["citation"])
    for method in methods(root).values():
        for number in method.citations:
            if number not in known:
                _fail(
                    f"methods.yaml, row ({method.id})", "citations", f"[{number}] is no reference"
                )
        used |= set(method.citations)
    if unused := sorted(set(known) - used):
        _fail(
            f"references.yaml, row {unused[0]} ({known[unused[0]].key})",
            "id",
            "belongs to no method, data set or background citation",
        )
    if foreign := sorted(used - set(known)):
        _fail("methods.yaml", "background_citations", f"[{foreign[0]}] is no reference")
    bibtex(root)


def _check_tables(root: Path | None) -> None:
    known, cited = methods(root), references(root)
    printed_rows = dict.fromkeys(known, 0)
    printed_in: dict[str, set[str]] = {ident: set() for ident in known}
    for n in (2, 3, 4):
        tidy, printed = table(n, root=root), table_as_printed(n, root=root)
        name = f"{STEMS[printed['table'].iloc[0]]}_as_printed.csv"
        cells = tidy.groupby("survey_line")
        for line, row in enumerate(printed.to_dict("records"), 2):
            where = f"{name}, row {line}"
            ident = row["method_id"]
            if ident not in known:
                _fail(where, "method_id", f"{ident!r} is not in methods.yaml")
            if row["citation"] not in known[ident].citations:
                _fail(where, "citation", f"[{row['citation']}] is not a citation of {ident!r}")
            if row["result_source"] not in cited:
                _fail(where, "result_source", f"[{row['result_source']}] is no reference")
            if row["network_type_printed"] not in known[ident].network_type_printed:
                _fail(where, "network_type_printed", f"methods.yaml does not list it for {ident!r}")
            if row["survey_line"] not in cells.groups:
                _fail(where, "survey_line", "the tidy table has no such line")
            tidy_row = cells.get_group(row["survey_line"])
            # Columns of the CIFAR-10 block of Table II that are headed by a dash have no tidy row.
            found = ["-"] * row["n_cells"]
            for index, cell in zip(tidy_row["col_index"], tidy_row["cell_printed"], strict=True):
                if not 1 <= index <= len(found):
                    _fail(where, "n_cells", f"the tidy table has a column {index}")
                found[index - 1] = cell
            if found != row["cells_left_to_right"].split(" | "):
                _fail(where, "cells_left_to_right", f"the tidy table has {' | '.join(found)}")
            for column in ("method_id", "citation", "result_source", "protocol", "year_printed"):
                if set(tidy_row[column]) != {row[column]}:
                    _fail(where, column, f"the tidy table has {tidy_row[column].iloc[0]!r}")
            printed_rows[ident] += 1
            printed_in[ident].add(row["table"])
        if len(cells) != len(printed):
            _fail(name, "survey_line", f"{len(printed)} lines, the tidy table has {len(cells)}")
    for ident, method in known.items():
        where = f"methods.yaml, row ({ident})"
        if method.table_rows != printed_rows[ident]:
            _fail(
                where, "table_rows", f"says {method.table_rows}, printed are {printed_rows[ident]}"
            )
        if set(method.tables) != printed_in[ident]:
            _fail(
                where, "tables", f"says {method.tables}, rows stand in {sorted(printed_in[ident])}"
            )
        if (method.tier == "A") != (method.table_rows > 0):
            _fail(where, "tier", "A is for systems with table rows, and only for them")


def _check_sections(root: Path | None) -> None:
    known = sections(root)
    for section in known.values():
        if section.parent is not None and section.parent not in known:
            _fail(f"{SECTIONS_FILE}, row ({section.id})", "id", f"no section {section.parent!r}")
    for claim in claims(root).values():
        where = f"{SECTIONS_FILE}, row ({claim.id})"
        if claim.section not in known:
            _fail(where, "section", f"{claim.section!r} is not a section")
        stem = "C-" + claim.section.replace("-", "").replace(".", "") + "-"
        if not claim.id.startswith(stem):
            _fail(where, "id", f"a claim of Section {claim.section} starts with {stem!r}")
        for ident in claim.errata:
            if ident not in errata(root):
                _fail(where, "errata", f"{ident!r} is not in errata.yaml")
    places = [
        (f"methods.yaml, row ({m.id})", "sections", m.sections) for m in methods(root).values()
    ]
    places += [
        (f"methods.yaml, component {c.name!r}", "section", c.sections) for c in components(root)
    ]
    places += [
        ("taxonomy.yaml, fig2_tree", "section", (leaf.section,) if leaf.section else ())
        for leaf in tree(root).leaves()
    ]
    for where, field, ids in places:
        for ident in ids:
            if ident not in known:
                _fail(where, field, f"{ident!r} is not a section of {SECTIONS_FILE}")


def _check_errata(root: Path | None) -> None:
    for erratum in errata(root).values():
        where = f"errata.yaml, row ({erratum.id})"
        named = {
            *erratum.methods,
            *(r.likely["method_id"] for r in erratum.rows if "method_id" in r.likely),
        }
        named |= {m for rule in erratum.rows for m in rule.where.get("method_id", ())}
        for ident in sorted(named - set(methods(root))):
            _fail(where, "methods", f"{ident!r} is not in methods.yaml")
        if ruled := {t for rule in erratum.rows for t in rule.tables} - set(erratum.tables):
            _fail(where, "tables", f"rows flag Table {min(ruled)}, which is not listed")


def _check_figures(root: Path | None) -> None:
    for figure in TIMELINES:
        timeline(figure, root)
    known = references(root)
    for key in ("losses_viii_a", "applications_viii_b", "others_viii_c"):
        for i, entry in enumerate(taxonomy(root).get(key, []), 1):
            for number in entry["citations"]:
                if number not in known:
                    _fail(
                        f"taxonomy.yaml, {key}, row {i}", "citations", f"[{number}] is no reference"
                    )


def check(root: Path | None = None) -> None:
    """Resolve every id of every data file both ways; `SurveyDataError` at the first contradiction.

    Covers: tiers and their counts, citations and references, table rows against methods and against
    the lines as printed, figures, sections, claims, errata and their row rules, BibTeX entry types.
    """
    _check_references(root)
    _check_tables(root)
    _check_sections(root)
    _check_errata(root)
    _check_figures(root)
