"""Cards: what a system's docstring says about itself, as data.

The card is the field list that closes the docstring of every system::

    :survey: Sections IV-A, V-A, Table II
    :cite: li2016dpsh
    :source: what the formulas and constants were checked against
    :objective: LaTeX, with the symbols of the paper
    :shapes: what goes in, what comes out
    :defaults: each hyper-parameter and where its value comes from
    :departures: what differs from the paper, or "none"
    :fidelity: faithful | simplified | sketch

The remaining facts (name, year, citations, facets) come from the survey's row of the same id. A
baseline that the survey has no row for states ``:survey: none`` and adds ``:name:``, ``:year:``,
``:supervision:``, ``:network:`` and ``:descriptor:``.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, dataclass
from typing import Any

from cbir_lite import survey

FIDELITIES = ("faithful", "simplified", "sketch")
_FIELD = re.compile(r"^:(\w+):\s*(.*)$")
_REQUIRED = (
    "survey",
    "cite",
    "source",
    "objective",
    "shapes",
    "defaults",
    "departures",
    "fidelity",
)
_BASELINE = ("name", "year", "supervision", "network", "descriptor")


class CardError(ValueError):
    """A docstring whose card is missing, incomplete or says something impossible."""


@dataclass(frozen=True)
class Card:
    """One system: the survey's row where there is one, and what the docstring declares."""

    id: str
    name: str
    year: int
    citations: tuple[int, ...]
    folder: str
    tier: str
    fidelity: str
    supervision: tuple[str, ...]
    network: tuple[str, ...]
    descriptor: tuple[str, ...]
    retrieval: tuple[str, ...]
    survey: str
    cite: str
    source: str
    summary: str
    prose: str
    objective: str
    shapes: str
    defaults: str
    departures: str

    def to_dict(self) -> dict[str, Any]:
        """The card as plain data for JSON."""
        return asdict(self)


def fields(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its prose and the fields of its card."""
    prose: list[str] = []
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in inspect.cleandoc(docstring).splitlines():
        match = _FIELD.match(line)
        if match:
            current = found.setdefault(match[1], [])
            current.append(match[2])
        elif current is not None and (line.startswith(" ") or not line):
            current.append(line.strip())
        else:
            current = None
            prose.append(line)
    return "\n".join(prose).strip(), {k: " ".join(v).strip() for k, v in found.items()}


def read(cls: type) -> Card:
    """The card of a system's class; raises :class:`CardError` that names the class and field."""
    id_ = cls.__module__.rsplit(".", 1)[-1]
    folder = cls.__module__.split(".")[-2]
    prose, card = fields(cls.__doc__ or "")
    where = f"{cls.__module__}.{cls.__name__}"
    missing = [f for f in _REQUIRED if not card.get(f)]
    if card.get("survey") == "none":
        missing += [f for f in _BASELINE if not card.get(f)]
    if missing:
        raise CardError(f"{where}: the card lacks {', '.join(':' + f + ':' for f in missing)}")
    if card["fidelity"] not in FIDELITIES:
        raise CardError(f"{where}: fidelity {card['fidelity']!r} is not one of {FIDELITIES}")
    common = {k: card[k] for k in _REQUIRED if k != "fidelity"}
    summary = prose.split("\n\n")[0].replace("\n", " ")
    if card["survey"] == "none":
        if not card["year"].isdigit():
            raise CardError(f"{where}: :year: {card['year']!r} is not a year")
        return Card(
            id=id_,
            name=card["name"],
            year=int(card["year"]),
            citations=(),
            folder=folder,
            tier="baseline",
            fidelity=card["fidelity"],
            supervision=(card["supervision"],),
            network=(card["network"],),
            descriptor=(card["descriptor"],),
            retrieval=(),
            summary=summary,
            prose=prose,
            **common,
        )
    try:
        row = survey.method(id_)
    except KeyError as error:
        raise CardError(
            f"{where}: the survey has no row {id_!r}; rename the module or state :survey: none"
        ) from error
    if row.year is None:
        raise CardError(f"{where}: the survey's row {id_!r} has no year")
    return Card(
        id=id_,
        name=row.name,
        year=row.year,
        citations=tuple(row.citations),
        folder=folder,
        tier=row.tier,
        fidelity=card["fidelity"],
        supervision=tuple(row.supervision),
        network=tuple(row.network),
        descriptor=tuple(row.descriptor),
        retrieval=tuple(row.retrieval),
        summary=summary,
        prose=prose,
        **common,
    )
