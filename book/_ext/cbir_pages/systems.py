"""The method index and one page for each system, from cards, survey rows and records."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pandas as pd

from cbir_lite import plots, survey
from cbir_lite.bench import SCALES, read_records
from cbir_lite.methods import registry
from cbir_lite.methods.card import Card

from .text import badge, cite, errata_links, linked, none, plain, table

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
INDEX_PROTOCOL, INDEX_BITS = "cifar10-59k", 32
UNMEASURED = "not measured yet"


def words(values: tuple[str, ...]) -> str:
    """Facets as the survey's words."""
    return ", ".join(FACETS.get(v, v.replace("_", " ")) for v in values)


def records(folder: Path) -> pd.DataFrame:
    """The published records: those of one backbone, that of the full size where there are any."""
    every = read_records(folder) if folder.exists() else read_records()
    if every.empty:
        return every
    backbone = SCALES["full"].backbone
    if not (every["backbone"] == backbone).any():
        backbone = every["backbone"].mode()[0]
    return every[every["backbone"] == backbone].reset_index(drop=True)


def of_system(frame: pd.DataFrame, id_: str) -> pd.DataFrame:
    """The records of a system and of its variants."""
    return frame[frame["method"].str.partition("/")[0] == id_] if len(frame) else frame


def mean_spread(values: pd.Series) -> str:
    """Percent: mean and standard deviation over seeds, with the number of seeds on hovering."""
    n, text = len(values), f"{100 * values.mean():.1f}"
    if n > 1:
        text += f" ± {100 * values.std(ddof=1):.1f}"
    return f'<span title="{n} seed{"s" * (n > 1)}">{text}</span>'


def pages(results: Path) -> dict[str, str]:
    """Path below ``book/`` and content of each page."""
    frame, cards = records(results), registry.cards()
    out = {"methods/index.md": index(list(cards.values()), frame)}
    for id_, card in cards.items():
        out[f"methods/system-{id_}.md"] = page(card, frame)
    return out


# -- index ---------------------------------------------------------------------------------------


def _reported_range(id_: str) -> str:
    if id_ not in survey.methods():
        return none("no row in the survey")
    rows = survey.reported(id_, columns="likely")
    rows = rows[(rows["dataset"] == "CIFAR-10") & (rows["bits"] == INDEX_BITS)]
    if rows.empty:
        return none(f"no value for CIFAR-10 at {INDEX_BITS} bits in Tables II to IV")
    low, high = rows["value"].min(), rows["value"].max()
    text = f"{low:.1f}" if low == high else f"{low:.1f}–{high:.1f}"
    flags = sorted({e for ids in rows["errata"] for e in ids.split("; ") if e})
    return text + (f' <span class="flag">{errata_links(flags)}</span>' if flags else "")


def _measured(id_: str, frame: pd.DataFrame) -> str:
    rows = of_system(frame, id_)
    if len(rows):
        rows = rows[(rows["protocol"] == INDEX_PROTOCOL) & (rows["bits"] == INDEX_BITS)]
    if rows.empty:
        return none(UNMEASURED)
    parts = []
    for name, runs in rows.groupby("method", sort=True):
        variant = str(name).partition("/")[2]
        parts.append(mean_spread(runs["map_all"]) + (f" ({variant})" if variant else ""))
    return ", ".join(parts)


def index(cards: list[Card], frame: pd.DataFrame) -> str:
    """The page of all systems."""
    rows = [
        [
            f"[{plain(c.name)}](system-{c.id}.md)", str(c.year), cite(c.cite), c.folder,
            words(c.supervision), words(c.descriptor), c.tier, badge(c.fidelity, FIDELITY[c.fidelity]),
            _reported_range(c.id), _measured(c.id, frame),
        ]
        for c in sorted(cards, key=lambda c: (c.year, c.name.lower()))
    ]  # fmt: skip
    header = [
        "System", "Year", "Paper", "Network", "Supervision", "Descriptor", "Tier", "Fidelity",
        "Reported", "Measured",
    ]  # fmt: skip
    bench = (
        f"on features of `{frame['backbone'].iloc[0]}`" if len(frame) else "once records exist"
    )
    legend = "\n".join(f"{badge(k)}\n: {v}\n" for k, v in FIDELITY.items())
    return f"""(methods)=
# All systems

One system is one file of `cbir_lite/methods/`, in the folder of the network type under which the
survey's Section V treats it. Each has a page with its objective, what departs from the paper, and
its numbers. Click a heading to sort, type to filter.

{table(header, rows, caption="Systems implemented here", name="tab-systems", sortable=True)}

*Reported*: the survey's values for CIFAR-10 at {INDEX_BITS} bits, mAP in percent over every measure
of Tables II to IV, so that a range mixes cut-offs and splits; flags lead to the
[errata](#errata). *Measured*: mAP over the whole database in percent, protocol `{INDEX_PROTOCOL}`,
{INDEX_BITS} bits, mean ± standard deviation over seeds, {bench}.
Tier A {TIERS["A"]}, B {TIERS["B"]}, C {TIERS["C"]}; a baseline {TIERS["baseline"]}.

{legend}
"""


# -- one system ----------------------------------------------------------------------------------


def page(card: Card, frame: pd.DataFrame) -> str:
    """The page of one system."""
    first, _, rest = card.prose.partition("\n\n")
    facts = [
        ["Paper", cite(card.cite) or "none cited; see the source checked"],
        ["Year", str(card.year)],
        ["Folder", f"`cbir_lite/methods/{card.folder}`"],
        ["Supervision", words(card.supervision)],
        ["Network", words(card.network)],
        ["Descriptor", words(card.descriptor)],
        ["Retrieval", words(card.retrieval)],
        ["In the survey", plain(card.survey) if card.survey != "none" else "no row"],
        ["Tier", f"{card.tier}: {TIERS[card.tier]}"],
    ]
    how = [
        ["Shapes", plain(card.shapes)],
        ["Defaults", plain(card.defaults)],
        ["Departures", plain(card.departures)],
        ["Source checked", plain(card.source)],
    ]
    code = inspect.getsource(inspect.getmodule(registry.get(card.id)))  # type: ignore[arg-type]
    command = f"cbir train {card.id} --protocol {INDEX_PROTOCOL} --bits {INDEX_BITS}"
    return f"""(system-{card.id})=
# {plain(card.name)}

**{plain(first)}**

{badge(card.fidelity)} {FIDELITY[card.fidelity]}

{plain(rest)}

## Objective

```{{math}}
{card.objective}
```

## Facts

{table(["", ""], [f for f in facts if f[1]])}

{_survey_row(card)}

## What was built

{table(["", ""], how)}

## Reported and measured

{_numbers(card, of_system(frame, card.id))}

## Run it

```bash
{command}
```

```python
from cbir_lite.methods.registry import create

system = create("{card.id}", bits={INDEX_BITS})
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
        parts.append("Its number there: " + linked(", ".join(f"[{n}]" for n in row.citations), "../"))
        parts[-1] += "."
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
    return [m for m in survey.methods().values() if m.id != id_ and base.sub("", m.name.lower()) == name]


def _twin(row: survey.SurveyMethod) -> str:
    numbers = linked(" ".join(f"[{n}]" for n in row.citations), "../")
    name = plain(row.name)
    return f"[{name}](system-{row.id}.md)" if row.id in registry.cards() else f"{name} {numbers}"


def _numbers(card: Card, frame: pd.DataFrame) -> str:
    parts = []
    if card.id in survey.methods() and len(survey.reported(card.id)):
        joined = pd.concat([plots.reported_measured(n, frame) for n in ("II", "III", "IV")])
        joined = joined[(joined["method_id"] == card.id) & joined["reported"].notna()]
        rows = [
            [
                r.table, r.dataset, r.protocol,
                linked(f"[{r.result_source}]", "../"), str(r.bits), f"{r.reported:.1f}",
                _cell(r), errata_links(r.errata) or "",
            ]
            for r in joined.itertuples()
        ]  # fmt: skip
        header = ["Table", "Data set", "Measure", "From", "Bits", "Reported", "Measured", "Flags"]
        parts.append(
            table(header, rows, caption="The survey's values, and ours where the data is at hand",
                  name=f"tab-{card.id}-reported", sortable=True)
            + "\nmAP in percent. *From* is the paper that the survey took the row from."
        )  # fmt: skip
    else:
        parts.append("The survey's tables hold no value of this system.")
    if len(frame):
        grouped = frame.groupby(["method", "protocol", "bits"], sort=True)
        rows = [
            [f"`{m}`", f"`{p}`", str(b), *(_mean(g[k]) for k in ("map_all", "map_1000", "p_radius2"))]
            + [f"{g['train_seconds'].mean():.1f}"]
            for (m, p, b), g in grouped
        ]
        header = ["System", "Protocol", "Bits", "mAP", "mAP@1000", "P at radius 2", "Training, s"]
        parts.append(
            table(header, rows, caption="Everything measured here", name=f"tab-{card.id}-measured",
                  sortable=True)
            + f"\nPercent, mean ± standard deviation over seeds, features of `{frame['backbone'].iloc[0]}`."
        )  # fmt: skip
    else:
        parts.append("No record of this system yet: `make bench` measures it.")
    return "\n\n".join(parts)


def _mean(values: pd.Series) -> str:
    values = values.dropna()
    return mean_spread(values) if len(values) else none("does not apply")


def _cell(row: object) -> str:
    value, spread = row.measured, row.spread  # type: ignore[attr-defined]
    if pd.isna(value):
        return none(str(row.status))  # type: ignore[attr-defined]
    text = f"{value:.1f}" + ("" if pd.isna(spread) else f" ± {spread:.1f}")
    variant = str(row.variant or "")  # type: ignore[attr-defined]
    title = f"{row.measured_protocol}, {int(row.seeds)} seeds {variant}".strip()  # type: ignore[attr-defined]
    return f'<span title="{title}">{text}</span>'
