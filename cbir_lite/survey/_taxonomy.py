"""Figures of the survey as data (taxonomy.yaml): the tree of Fig. 2, timelines of Figs. 3, 5, 8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from ._load import Record, SurveyDataError, lookup, read_section, read_yaml
from ._methods import methods

FILE = "taxonomy.yaml"
TIMELINES: dict[int | str, str] = {
    3: "fig3_evolution",
    5: "fig5_networks",
    8: "fig8_descriptors",
    "supervision": "supervision_by_year",
    "retrieval": "retrieval_by_year",
}


@dataclass(frozen=True)
class TreeNode:
    """A node of Fig. 2: its name, the survey section, and at a leaf the ids of its systems."""

    name: str
    section: str | None
    children: tuple[TreeNode, ...] = ()
    methods: tuple[str, ...] = ()

    def leaves(self) -> Iterator[TreeNode]:
        """The leaves below this node from left to right."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@lru_cache(maxsize=8)
def _taxonomy(root: Path | None) -> dict[str, Any]:
    content = read_yaml(FILE, root)
    if not isinstance(content, dict):
        raise SurveyDataError(f"{FILE}: expected a mapping, found {type(content).__name__}")
    for key in ("fig2_tree", *TIMELINES.values()):
        if key not in content:
            raise SurveyDataError(f"{FILE}: the top-level key {key!r} is missing")
    return content


def taxonomy(root: Path | None = None) -> dict[str, Any]:
    """A copy of the content of taxonomy.yaml: figures, groups by year, losses, applications."""
    return deepcopy(_taxonomy(root))


def _entries(where: str, years: object, group: str | None, phases: list[Any]) -> Iterator[Any]:
    if not isinstance(years, Mapping):
        raise SurveyDataError(
            f"{FILE}, {where}, field 'years': expected a mapping, found {years!r}"
        )
    for year, cells in years.items():
        if not isinstance(cells, list):
            raise SurveyDataError(f"{FILE}, {where}.{year}: expected a list, found {cells!r}")
        number = int(year) if str(year).isdigit() else None
        name = group
        for phase in phases:
            first, last = map(int, str(phase["years"]).split("-"))
            if number is not None and first <= number <= last:
                name = str(phase["years"])
        for i, cell in enumerate(cells, 1):
            record = Record(f"{FILE}, {where}.{year}", i, cell, "citation")
            if number is None and year != "unknown":
                record.fail("years", f"{year!r} is neither a year nor 'unknown'")
            yield record, number, name


@lru_cache(maxsize=32)
def _timeline(figure: int | str, root: Path | None) -> pd.DataFrame:
    key = TIMELINES[figure]
    drawing = _taxonomy(root)[key]
    known = methods(root)
    phases = drawing.get("phases", [])
    groups = {None: drawing} if figure == 3 else drawing.get("branches", drawing)
    rows = []
    for group, branch in groups.items():
        where = key if group is None else f"{key}.{group}"
        seen = 0
        for record, year, name in _entries(where, branch.get("years"), group, phases):
            seen += 1
            citation = record.number("citation", 1)
            for ident in record.texts("methods"):
                if ident not in known:
                    record.fail("methods", f"{ident!r} is not in methods.yaml")
                if citation not in known[ident].citations:
                    record.fail("citation", f"[{citation}] is not a citation of {ident!r}")
                rows.append(
                    {
                        "year": year,
                        "method_id": ident,
                        "label": known[ident].name,
                        "group": name,
                        "citation": citation,
                        "year_basis": record.data.get("year_basis", "survey_text"),
                    }
                )
        if "n" in branch and branch["n"] != seen:
            raise SurveyDataError(
                f"{FILE}, {where}, field 'n': says {branch['n']}, {seen} citations are listed"
            )
    frame = pd.DataFrame(rows)
    frame["year"] = frame["year"].astype("Int64")
    return frame


def timeline(figure: int | str, root: Path | None = None) -> pd.DataFrame:
    """Systems by year as in Fig. 3, 5 or 8, or by "supervision" (IV) or "retrieval" type (VII).

    Columns: year (Int64, NA where unknown), method_id, label, group, citation, year_basis. One row
    for each system and citation, ordered by year with unknown years last. `group` is the half of
    the decade (Fig. 3), the network (Fig. 5), the descriptor (Fig. 8) or the category. Only
    captions and fragments of the drawings are in the text: placements are those of the sections.
    """
    if figure not in TIMELINES:
        choices = ", ".join(map(repr, TIMELINES))
        raise ValueError(f"there is no timeline {figure!r}; choose one of {choices}")
    frame = _timeline(figure, root)
    return frame.sort_values("year", kind="stable", na_position="last").reset_index(drop=True)


def _leaf(text: str, siblings: list[str], root: Path | None) -> TreeNode:
    name, _, rest = text.rpartition(" (")
    section = rest.removesuffix(")")
    found = [m for m in methods(root).values() if section in m.sections]
    if sum(f"({section})" in other for other in siblings) > 1:
        # Semi-, weakly, pseudo- and self-supervised share Section IV-C; the facet tells them apart.
        facet = {"weakly": "weak"}.get(key := name.split("-")[0].lower(), key)
        found = [m for m in found if facet in m.supervision]
    return TreeNode(name, section, methods=tuple(m.id for m in found))


def _printed_type(text: str, root: Path | None) -> TreeNode:
    code = text.split(" ")[0]
    found = tuple(m.id for m in methods(root).values() if code in m.network_type_printed)
    return TreeNode(text, None, methods=found)


@lru_cache(maxsize=8)
def tree(root: Path | None = None) -> TreeNode:
    """Fig. 2, the taxonomy of the survey, with the systems of each leaf.

    A leaf without section is a network type that stands only in the network column of Tables II-IV.
    """
    drawing = read_section(FILE, "fig2_tree", root)
    branches = []
    for branch in drawing["branches"]:
        leaves = [_leaf(text, branch["children"], root) for text in branch["children"]]
        leaves += [_printed_type(text, root) for text in branch.get("only_in_tables", [])]
        branches.append(TreeNode(branch["name"], branch["section"], tuple(leaves)))
    return TreeNode("Deep learning based CBIR", None, tuple(branches))


def node(name: str, root: Path | None = None) -> TreeNode:
    """The branch or leaf of Fig. 2 called `name`; `KeyError` with close matches otherwise."""
    top = tree(root)
    found = {child.name: child for child in top.children}
    found |= {leaf.name: leaf for leaf in top.leaves()}
    return lookup(found, name, "node of Fig. 2")
