"""Errata, the survey's reference numbers, and the status of this build."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pandas as pd

from cbir_lite import survey
from cbir_lite.methods import registry

from .text import badge, facts, linked, none, plain, table


def pages(status_file: Path, claims_file: Path) -> dict[str, str]:
    """Path below ``book/`` and content of each page."""
    return {
        "claims.md": claims(pd.read_csv(claims_file) if claims_file.exists() else None),
        "errata.md": errata(),
        "_generated/references.txt": numbers(),
        "status.md": status(json.loads(status_file.read_text()) if status_file.exists() else None),
    }


# -- errata --------------------------------------------------------------------------------------


def errata() -> str:
    """All slips of the survey: an overview to search in, then each in full."""
    every = list(survey.errata().values())
    rows = [
        [f"[{e.id}](#erratum-{e.id.lower()})", plain(e.group.split(". ", 1)[-1]), plain(e.where),
         plain(e.evidence.split(" ")[0].rstrip(";"))]
        for e in every
    ]  # fmt: skip
    overview = table(
        ["Erratum", "Kind", "Where", "Evidence"], rows,
        caption="Every slip, one row each", name="tab-errata",
    )  # fmt: skip
    sections = []
    for group, members in groupby(every, key=lambda e: e.group):
        sections.append(f"## {plain(group)}")
        sections += [_erratum(e) for e in members]
    return f"""(errata)=
# Errata of the survey

A text of this size has slips. The {len(every)} below were found while its tables and sections were
turned into data. Nothing is corrected silently: every printed value stays as printed, and wherever
a flagged value is shown on this site, its flag leads here. Evidence "text" means that the survey's
own text shows the slip; "outside" means that other papers or public code are needed to see it.

{overview}

{chr(10).join(sections)}
"""


def _erratum(e: survey.Erratum) -> str:
    lines = [f"(erratum-{e.id.lower()})=", f"### {e.id}: {plain(e.where)}", "", linked(e.what), ""]
    lines += [f"**Evidence.** {linked(e.evidence)}", ""]
    if e.finding:
        lines += [f"**What the tables say.** {linked(e.finding)}", ""]
    if e.show:
        lines += [f"**Shown here as.** {linked(e.show)}", ""]
    here = [m for m in e.methods if m in registry.cards()]
    if here:
        pages_ = ", ".join(f"[{plain(survey.method(m).name)}](methods/system-{m}.md)" for m in here)
        lines += [f"**Systems.** {pages_}", ""]
    return "\n".join(lines)


# -- references ----------------------------------------------------------------------------------


def numbers() -> str:
    """The survey's reference numbers: those identified, then those that are not."""
    known, unknown = [], []
    for n, entry in survey.references().items():
        anchor = f'<span id="ref-{n}">{n}</span>'
        if entry.printable:
            work = f"{{cite:t}}`{entry.key}`"
            known.append([anchor, work, plain(entry.cited_as), entry.confidence])
        else:
            unknown.append([anchor, plain(entry.cited_as)])
    works = table(
        ["Number", "Work", "Cited as", "Identification"], known,
        caption="Numbers of the survey and the works they stand for", name="tab-numbers",
    )  # fmt: skip
    gaps = table(
        ["Number", "Cited as"], unknown,
        caption="Numbers without a certain identity", name="tab-unidentified",
    )  # fmt: skip
    return f"""## By number

The text of the survey that this book works from prints numbers without a reference list. Each
number was identified from the sentences that cite it: {len(known)} of {len(known) + len(unknown)}
with enough certainty to be printed.

{works}

## Not identified

These {len(unknown)} numbers are left as numbers: a guess would be worse than a gap.

{gaps}
"""


# -- claims --------------------------------------------------------------------------------------


def claims(found: pd.DataFrame | None) -> str:
    """Every testable claim with its verdict, the number behind it, and where it was tested."""
    rows_of = {} if found is None else {r["claim"]: r for r in found.to_dict("records")}
    every = list(survey.claims().values())
    rows = [_claim(c, rows_of.get(c.id)) for c in every]
    counts = pd.Series([r["verdict"] for r in rows_of.values()], dtype=str).value_counts()
    told = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none yet"
    listed = table(
        ["Claim", "Section", "Verdict", "What the survey says", "Number", "What was measured"],
        rows, caption="Every claim, its verdict and the number it rests on", name="tab-claims",
    )  # fmt: skip
    scales = sorted({str(r["scale"]) for r in rows_of.values()})
    size = f" at `SCALE={scales[0]}`" if len(scales) == 1 else ""
    return f"""(claims)=
# Claims and verdicts

The text of the survey makes {len(every)} statements that an experiment can test. Each verdict comes
from a cell of the chapter that its id links to{size} and rests on the number shown, with its 95 %
interval where the chapter gives one. Verdicts so far: {told}.

{listed}
"""


def _claim(claim: survey.Claim, row: dict | None) -> list[str]:
    if row is None:
        return [
            claim.id,
            claim.section,
            none("no chapter tests it yet"),
            linked(claim.text),
            "",
            "",
        ]
    number = ""
    if pd.notna(row["value"]):
        number = f"{row['value']:.3g}"
        if pd.notna(row["low"]):
            number += f" \\[{row['low']:.3g}, {row['high']:.3g}\\], n = {row['n']:.0f}"
        number = f"{plain(str(row['measure']))}: {number}"
    chapter = f"[{claim.id}](../notebooks/{row['chapter']}.ipynb)"
    return [
        chapter, claim.section, badge(row["verdict"]), linked(claim.text), number,
        linked(str(row["note"])),
    ]  # fmt: skip


# -- status --------------------------------------------------------------------------------------


def status(found: dict | None) -> str:
    """How this copy of the site was built."""
    head = "(status)=\n# Status of this build\n\n"
    if found is None:
        return head + (
            "This copy was built by jupyter-book alone. `make book` runs every chapter by "
            "papermill and fills this page with the scale, the seconds that each chapter took, "
            "the versions and the machine.\n"
        )
    setting = [
        ["Scale", f"`{found['scale']}`"],
        ["Protocol", f"`{found['protocol']}`"],
        ["Features", f"`{found['backbone']}`"],
        ["Seeds", ", ".join(map(str, found["seeds"]))],
        ["Python", found["python"]],
        ["Cores", str(found["cores"])],
    ]
    times = [
        [f"`{name}`", "not run" if s is None else f"{s:.1f}"]
        for name, s in found["chapters"].items()
    ]
    versions = [[f"`{p}`", v or "not installed"] for p, v in found["versions"].items()]
    return f"""{head}Every chapter on this site was executed from top to bottom before the pages
were rendered; a chapter that raises stops the build.

## Setting

{facts(setting, name="tab-setting")}

## Chapters

{table(["Chapter", "Seconds"], times, caption="Time of each chapter", name="tab-times")}

## Versions

{table(["Package", "Version"], versions, name="tab-versions")}
"""
