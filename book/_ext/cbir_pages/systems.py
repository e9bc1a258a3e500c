"""The method index and one page for each system, from cards, survey rows and records."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cbir_lite import survey
from cbir_lite.bench import SCALES
from cbir_lite.methods import registry
from cbir_lite.methods.card import Card

from .landing import heading
from .measured import (
    INDEX_BITS,
    INDEX_PROTOCOL,
    beside,
    home,
    measured_mean,
    numbers,
    records,
    reported_range,
    shown_bits,
)
from .text import (
    badge,
    cite,
    display_math,
    errata_links,
    facts,
    linked,
    plain,
    table,
)

FIDELITY = {
    "faithful": "Objective and optimisation are the published ones; only what the table below "
    "lists as departures differs.",
    "simplified": "The objective is the published one; something else, such as the network or the "
    "schedule, is reduced to what a laptop can run.",
    "sketch": "The idea as the survey tells it: details of the paper were not available, so read "
    "the numbers as a study of the idea and not of the paper.",
}
TIERS = {
    "A": "has rows in the survey's Tables II to IV",
    "B": "is described in the survey's text",
    "C": "is cited by the survey in passing",
    "baseline": "is a baseline that the survey's tables leave out",
}
FACETS = {
    "supervised": "supervised", "unsupervised": "unsupervised", "semi": "semi-supervised",
    "weak": "weakly supervised", "pseudo": "pseudo-supervised", "self": "self-supervised",
    "cnn": "CNN", "rnn": "recurrent", "rl": "reinforcement learning", "gan": "GAN",
    "real": "real-valued", "dnn": "DNN", "ptn": "PTN", "cross_modal": "cross-modal",
    "multi_label": "multi-label", "fine_grained": "fine-grained",
}  # fmt: skip


_NAMED = re.compile(r'"(\w+)(?:/\w+)?"')


def words(values: tuple[str, ...]) -> str:
    """Facets as the survey's words."""
    return ", ".join(FACETS.get(v, v.replace("_", " ")) for v in values)


def pages(results: Path, notebooks: Path) -> dict[str, str]:
    """Path below ``book/`` and content of each page."""
    frame, cards = records(results), registry.cards()
    joined, run_in = beside(frame), chapters_of(notebooks)
    out = {"methods/index.md": index(list(cards.values()), frame)}
    for id_, card in cards.items():
        out[f"methods/system-{id_}.md"] = page(card, frame, joined, run_in.get(id_, []))
    return out


def chapters_of(notebooks: Path) -> dict[str, list[str]]:
    """Links to the chapters whose code names a system, by its id."""
    ids, found = registry.cards(), defaultdict(list)
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        link = f"[{plain(heading(path)[0])}](../../notebooks/{path.name})"
        for id_ in sorted({m[1] for m in _NAMED.finditer(code)}.intersection(ids)):
            found[id_].append(link)
    return dict(found)


# -- index ---------------------------------------------------------------------------------------


def index(cards: list[Card], frame: pd.DataFrame) -> str:
    """The page of all systems."""
    rows = [
        [
            f"[{plain(c.name)}](system-{c.id}.md)", str(c.year), reported_range(c.id),
            measured_mean(c.id, frame), badge(c.fidelity, FIDELITY[c.fidelity]), c.folder,
            words(c.supervision), words(c.descriptor), c.tier, cite(c.cite),
        ]
        for c in sorted(cards, key=lambda c: (c.year, c.name.lower()))
    ]  # fmt: skip
    header = [
        "System", "Year", "Reported", "Measured", "Fidelity", "Folder", "Supervision",
        "Descriptor", "Tier", "Paper",
    ]  # fmt: skip
    bench = f"on features of `{frame['backbone'].iloc[0]}`" if len(frame) else "once records exist"
    legend = "\n".join(f"{badge(k)}\n: {v}\n" for k, v in FIDELITY.items())
    listing = table(
        header, rows, caption="Systems implemented here", name="tab-systems",
        classes="sortable dense",
    )  # fmt: skip
    return f"""(methods)=
# All systems

One system is one file of `cbir_lite/methods/`, in the folder of the network type under which the
survey's Section V treats it. Each has a page with its objective, what departs from the paper, and
its numbers. Click a heading to sort, type to filter.

{listing}

*Reported*: the survey's values for CIFAR-10 at {INDEX_BITS} bits, mAP in percent over every measure
of Tables II to IV, so that a range mixes cut-offs and splits; flags lead to the
[errata](#errata). *Measured*: mAP over the whole database in percent, protocol `{INDEX_PROTOCOL}`
unless another is named, {INDEX_BITS} bits or else the fewest measured, mean ± standard deviation
over seeds, {bench}.
Tier A {TIERS["A"]}, B {TIERS["B"]}, C {TIERS["C"]}; a baseline {TIERS["baseline"]}.

{legend}

{shares(cards)}
"""


def shares(cards: list[Card]) -> str:
    """How many systems of each tier are of which fidelity, in one table."""
    rows = []
    for tier, meaning in TIERS.items():
        counts = Counter(c.fidelity for c in cards if c.tier == tier)
        if counts:
            rows.append([f"{tier}: {meaning}", *(str(counts[f]) for f in FIDELITY)])
    return table(["Tier", *FIDELITY], rows, caption="Systems by tier and fidelity",
                 name="tab-fidelity", classes="")  # fmt: skip


# -- one system ----------------------------------------------------------------------------------


def page(
    card: Card, frame: pd.DataFrame, joined: pd.DataFrame, chapters: Sequence[str] = ()
) -> str:
    """The page of one system; ``chapters`` are links to those that run it."""
    first, _, rest = card.prose.partition("\n\n")
    about = [
        ["Paper", cite(card.cite) or "none cited; see the source checked"],
        ["Year", str(card.year)],
        ["Folder", f"`cbir_lite/methods/{card.folder}`"],
        ["Supervision", words(card.supervision)],
        ["Network", words(card.network)],
        ["Descriptor", words(card.descriptor)],
        ["Retrieval", words(card.retrieval)],
        ["In the survey", plain(card.survey) if card.survey != "none" else "no row"],
        ["Tier", f"{card.tier}: {TIERS[card.tier]}"],
        ["Chapters that run it", "; ".join(chapters)],
    ]
    how = [
        ["Shapes", plain(card.shapes)],
        ["Defaults", plain(card.defaults)],
        ["Departures", plain(card.departures)],
        ["Source checked", plain(card.source)],
    ]
    code = inspect.getsource(inspect.getmodule(registry.get(card.id)))  # type: ignore[arg-type]
    bits = shown_bits(card.id, frame)
    options = f"--bits {bits} --backbone {SCALES['full'].backbone}"
    command = f"cbir train {card.id} --protocol {home(card.id)} {options}"
    return f"""(system-{card.id})=
# {plain(card.name)}

**{plain(first)}**

{badge(card.fidelity)} {FIDELITY[card.fidelity]}

{plain(rest)}

## Objective

{display_math(card.objective)}

## Facts

{facts([row for row in about if row[1]])}

{_survey_row(card)}

## What was built

{facts(how)}

## Reported and measured

{numbers(card, frame, joined)}

## Run it

As measured above. The smaller features `--backbone efficientnet_lite0-96` are extracted sooner.

```bash
{command}
```

```python
from cbir_lite.methods.registry import create

system = create("{card.id}", bits={bits})
```

## The code

The whole of `cbir_lite/methods/{card.folder}/{card.id}.py`:

````{{code-block}} python
{code.rstrip()}
````
"""


def _survey_row(card: Card) -> str:
    if card.id not in survey.methods():
        return ""
    row = survey.method(card.id)
    parts = [f"The survey's row says: {plain(row.idea)}"]
    if row.citations:
        cited = ", ".join(f"[{n}]" for n in row.citations)
        parts.append(f"Its number there: {linked(cited, '../')}.")
    own = [facet for facet, source in row.facet_source.items() if source == "own"]
    if own:
        parts.append(f"Added from the paper, not printed in the survey: {', '.join(own)}.")
    if row.note:
        parts.append(linked(row.note, "../"))
    found = survey.errata_of(card.id)
    if found:
        parts.append(
            "Errata that touch it: "
            + "; ".join(f"{errata_links([e.id])} ({plain(e.where)})" for e in found) + "."
        )  # fmt: skip
    twins = same_name(card.id)
    if twins:
        listed = ", ".join(_twin(t) for t in twins)
        parts.append(f"Same abbreviation, another system: {listed}.")
    return "\n\n".join(parts)


def same_name(id_: str) -> list[survey.SurveyMethod]:
    """Other systems of the survey whose name differs only in what stands in brackets."""
    base = re.compile(r"\s*\(.*\)$|[^a-z0-9+]")
    name = base.sub("", survey.method(id_).name.lower())
    others = [m for m in survey.methods().values() if m.id != id_]
    return [m for m in others if base.sub("", m.name.lower()) == name]


def _twin(row: survey.SurveyMethod) -> str:
    numbers = linked(" ".join(f"[{n}]" for n in row.citations), "../")
    name = plain(row.name)
    return f"[{name}](system-{row.id}.md)" if row.id in registry.cards() else f"{name} {numbers}"
