"""The survey's reconstructed bibliography (references.yaml) and its BibTeX form.

The survey's own list was not available: each number was identified from the sentences that cite it.
Only identifications marked certain or likely are printed as fact.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from ._load import Record, index, read_yaml, records
from ._methods import method, methods

FILE = "references.yaml"
VENUES = "venues.yaml"
CONFIDENCE = ("certain", "likely", "guess", "unknown")


@dataclass(frozen=True)
class Reference:
    """One numbered entry of the bibliography.

    `confidence` grades the identification, `checked` says what of the work was seen (note, page,
    repo, unverified), `cited_as` is the role the survey gives it.
    """

    number: int
    key: str
    authors: tuple[str, ...]
    title: str | None
    venue: str | None
    year: int | None
    confidence: str
    evidence: str
    cited_as: str
    checked: str | None = None
    method: str | None = None
    arxiv: str | None = None
    doi: str | None = None

    @property
    def printable(self) -> bool:
        """True where the identification is certain or likely."""
        return self.confidence in ("certain", "likely")


def _reference(record: Record) -> Reference:
    fields = set(Reference.__dataclass_fields__) - {"number"} | {"id"}
    record.only(fields)
    entry = Reference(
        number=record.number("id", 1),
        key=record.text("key"),
        authors=record.texts("authors"),
        title=record.maybe_text("title"),
        venue=record.maybe_text("venue"),
        year=record.maybe_number("year", 1950, 2022),
        confidence=record.text("confidence", CONFIDENCE),
        evidence=record.text("evidence"),
        cited_as=record.text("cited_as"),
        checked=record.maybe_text("checked"),
        method=record.maybe_text("method"),
        arxiv=record.maybe_text("arxiv"),
        doi=record.maybe_text("doi"),
    )
    if not re.fullmatch(r"[a-z]+[0-9]{3,4}[a-z0-9]*", entry.key):
        record.fail("key", f"{entry.key!r} is no citation key of the form name2020word")
    if entry.printable:
        for name in ("authors", "title", "venue", "year"):
            if not getattr(entry, name):
                record.fail(name, f"empty although the confidence is {entry.confidence}")
    return entry


@lru_cache(maxsize=8)
def references(root: Path | None = None) -> Mapping[int, Reference]:
    """All references by their printed number, read-only; `SurveyDataError` for a malformed row."""
    rows = [(record, _reference(record)) for record in records(FILE, read_yaml(FILE, root))]
    index(rows, "key", lambda entry: entry.key)
    return MappingProxyType(index(rows, "id", lambda entry: entry.number))


def reference(number: int, root: Path | None = None) -> Reference:
    """The reference printed as [number]; `KeyError` outside 1..229."""
    known = references(root)
    if number not in known:
        raise KeyError(f"the survey prints references [1] to [{max(known)}], not [{number}]")
    return known[number]


def citation_key(number: int, root: Path | None = None) -> str | None:
    """BibTeX key of [number], None where the work is not identified well enough to be printed."""
    entry = reference(number, root)
    return entry.key if entry.printable else None


def references_of(method_id: str, root: Path | None = None) -> tuple[Reference, ...]:
    """The references of a system; `KeyError` for an unknown id."""
    return tuple(reference(n, root) for n in method(method_id, root).citations)


def methods_of(number: int, root: Path | None = None) -> tuple[str, ...]:
    """Ids of the systems that carry the citation [number]; empty for surveys and data sets."""
    known = reference(number, root).number
    return tuple(m.id for m in methods(root).values() if known in m.citations)


_SPECIAL = {c: "\\" + c for c in "&%$#_{}"} | {
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"—": "---", "–": "--", "’": "'", "“": "``", "”": "''", "ß": r"{\ss}", "ø": r"{\o}"},
    **{"ł": r"{\l}", "Ø": r"{\O}", "Ł": r"{\L}", "ı": r"{\i}", "æ": r"{\ae}", "å": r"{\aa}"},
}
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"'},
    **{"\u030c": "v", "\u0327": "c", "\u0304": "=", "\u0306": "u", "\u0328": "k", "\u030b": "H"},
}


def latex(text: str) -> str:
    """`text` in plain ASCII LaTeX; `ValueError` for a character without a known form."""
    out = []
    for char in text:
        if char in _SPECIAL:
            out.append(_SPECIAL[char])
        elif char.isascii():
            out.append(char)
        else:
            base, marks = (parts := unicodedata.normalize("NFD", char))[0], parts[1:]
            if not base.isascii() or marks not in _ACCENTS:
                raise ValueError(f"no LaTeX form known for {char!r} in {text!r}")
            letter = {"i": r"\i", "j": r"\j"}.get(base, base)
            out.append(f"{{\\{_ACCENTS[marks]}{{{letter}}}}}")
    return "".join(out)


def _title(text: str) -> str:
    """Braces keep the capitals of names and acronyms that a bibliography style would lower."""
    words = []
    for i, word in enumerate(text.split()):
        core = word.strip("():,.?!'\"")
        capital = core[1:] if i == 0 else core
        safe = latex(word)
        if core and capital != capital.lower():
            safe = safe.replace(latex(core), "{" + latex(core) + "}", 1)
        words.append(safe)
    return " ".join(words)


@lru_cache(maxsize=8)
def _entry_types(root: Path | None) -> dict[str, str]:
    return {venue: kind for kind, venues in read_yaml(VENUES, root).items() for venue in venues}


def _entry(record: Record, entry: Reference, kinds: Mapping[str, str]) -> str:
    venue = str(entry.venue)
    if venue not in kinds:
        record.fail("venue", f"{venue!r} has no BibTeX entry type; add it to {VENUES}")
    kind = kinds[venue]
    try:
        fields = {
            "author": " and ".join(map(latex, entry.authors)),
            "title": _title(str(entry.title)),
        }
    except ValueError as error:
        record.fail("authors or title", str(error))
    if kind == "article":
        fields["journal"] = latex(venue)
    elif kind == "inproceedings":
        fields["booktitle"] = latex(venue)
    elif kind == "techreport":
        fields["institution"] = latex(venue.removeprefix("Technical report, "))
    else:
        fields["howpublished"] = latex(venue)
    fields["year"] = str(entry.year)
    if entry.doi:
        # DOIs are read verbatim by the styles that link them.
        fields["doi"] = entry.doi
    if entry.arxiv:
        fields |= {"eprint": entry.arxiv, "archiveprefix": "arXiv"}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{kind}{{{entry.key},\n{lines}\n}}\n"


@lru_cache(maxsize=8)
def bibtex(root: Path | None = None) -> str:
    """All printable references as BibTeX in the order of their numbers, ASCII, LaTeX-escaped."""
    kinds = _entry_types(root)
    rows = [(Record(FILE, e.number, {"id": e.key}), e) for e in references(root).values()]
    return "\n".join(_entry(record, entry, kinds) for record, entry in rows if entry.printable)


def write_bibtex(path: Path | str, root: Path | None = None) -> Path:
    """Write `bibtex()` to `path` with Unix line ends; folders are created, the path is returned."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(bibtex(root), encoding="utf-8", newline="\n")
    return target
