"""Numbers on the pages: the published records, and the survey's values beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cbir_lite import plots, survey
from cbir_lite.bench import SCALES, home_protocol, read_records
from cbir_lite.bench.records import usual
from cbir_lite.bench.run import mark_stale
from cbir_lite.methods import registry
from cbir_lite.methods.card import Card

from .text import errata_links, linked, none, table

INDEX_PROTOCOL, INDEX_BITS = "cifar10-59k", 32
UNMEASURED = "not measured yet"
DENSE = "sortable dense"


def records(folder: Path) -> pd.DataFrame:
    """The published records of one backbone and default hyper-parameters.

    The column ``stale`` marks those of older code.
    """
    every = read_records(folder) if folder.exists() else read_records()
    every = usual(every) if len(every) else every
    if every.empty:
        return every
    backbone = SCALES["full"].backbone
    if not (every["backbone"] == backbone).any():
        backbone = every["backbone"].mode()[0]
    every = every[every["backbone"] == backbone]
    return mark_stale(every).reset_index(drop=True)


def of_system(frame: pd.DataFrame, id_: str) -> pd.DataFrame:
    """The records of a system and of its variants."""
    return frame[frame["method"].str.partition("/")[0] == id_] if len(frame) else frame


def mean_spread(values: pd.Series) -> str:
    """Percent: mean and standard deviation over seeds, with the number of seeds on hovering."""
    values = values.dropna()
    n = len(values)
    if not n:
        return none("does not apply")
    text = f"{100 * values.mean():.1f}"
    if n > 1:
        text += f" ± {100 * values.std(ddof=1):.1f}"
    return f'<span title="{n} seed{"s" * (n > 1)}">{text}</span>'


def reported_range(id_: str) -> str:
    """Lowest and highest printed mAP of CIFAR-10 at the index's code length, with flags."""
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


def measured_mean(id_: str, frame: pd.DataFrame) -> str:
    """Measured mAP of a system and its variants for the index, where each is at home."""
    rows, at = of_system(frame, id_), home(id_)
    if len(rows):
        rows = rows[rows["protocol"] == at]
    if len(rows) and (rows["bits"] == INDEX_BITS).any():
        rows = rows[rows["bits"] == INDEX_BITS]
    if rows.empty:
        return none(UNMEASURED)
    parts = []
    for name, runs in rows.groupby("method", sort=True):
        runs = runs[runs["bits"] == runs["bits"].min()]
        notes = [str(name).partition("/")[2]]
        if at != INDEX_PROTOCOL:
            notes.append(f"`{at}`")
        if (bits := runs["bits"].iloc[0]) != INDEX_BITS:
            notes.append(f"{bits} dimensions" if at == "emoji-instance" else f"{bits} bits")
        noted = ", ".join(n for n in notes if n)
        parts.append(mean_spread(runs["map_all"]) + (f" ({noted})" if noted else ""))
    return "<br>".join(parts)


def shown_bits(id_: str, frame: pd.DataFrame) -> int:
    """The code length, or number of dimensions, with which a system is shown."""
    rows = of_system(frame, id_)
    bits = set(rows.loc[rows["protocol"] == home(id_), "bits"]) if len(rows) else set()
    return INDEX_BITS if not bits or INDEX_BITS in bits else int(min(bits))


def home(id_: str) -> str:
    """The protocol under which a system is shown."""
    return home_protocol(registry.get(id_))


def beside(frame: pd.DataFrame) -> pd.DataFrame:
    """Printed values of Tables II to IV and measured ones, see `plots.reported_measured`."""
    joined = pd.concat([plots.reported_measured(n, frame) for n in ("II", "III", "IV")])
    return joined[joined["reported"].notna()]


def numbers(card: Card, frame: pd.DataFrame, joined: pd.DataFrame) -> str:
    """The part of a system's page with its numbers; ``joined`` comes from `beside`."""
    own = of_system(frame, card.id)
    return "\n\n".join([_beside(card, joined), _everything(card, own)])


def _beside(card: Card, joined: pd.DataFrame) -> str:
    joined = joined[joined["method_id"] == card.id]
    if joined.empty:
        return "The survey's tables hold no value of this system."
    rows = [
        [
            r.table,
            r.dataset,
            r.protocol,
            linked(f"[{r.result_source}]", "../"),
            str(r.bits),
            f"{r.reported:.1f}",
            _cell(r),
            f"`{r.measured_protocol}`" if pd.notna(r.measured) else "",
            errata_links(r.errata or ""),
        ]
        for r in joined.itertuples()
    ]
    header = [
        *("Table", "Data set", "Measure", "From", "Bits", "Reported"),
        *("Measured", "Protocol", "Flags"),
    ]
    caption = "The survey's values, and ours where the data is at hand"
    return (
        table(header, rows, caption=caption, name=f"tab-{card.id}-reported", classes=DENSE)
        + "\nmAP in percent, measured as mean ± standard deviation over seeds. *From* is the paper "
        "that the survey took the row from; flags lead to the [errata](#errata)."
    )


def _cell(row: Any) -> str:
    if pd.isna(row.measured):
        return none(str(row.status))
    spread = "" if pd.isna(row.spread) else f" ± {row.spread:.1f}"
    variant = (
        "" if pd.isna(row.variant) or row.variant in ("", row.method_id) else f", {row.variant}"
    )
    return f'<span title="{int(row.seeds)} seeds{variant}">{row.measured:.1f}{spread}</span>'


def _everything(card: Card, own: pd.DataFrame) -> str:
    if own.empty:
        return "No record of this system yet: `make bench` measures it."
    rows = []
    for (method, protocol, bits), runs in own.groupby(["method", "protocol", "bits"], sort=True):
        measures = [mean_spread(runs[k]) for k in ("map_all", "map_1000", "p_radius2")]
        seconds = f"{runs['train_seconds'].mean():.1f}"
        rows.append([f"`{method}`", f"`{protocol}`", str(bits), *measures, seconds])
    header = ["System", "Protocol", "Bits", "mAP", "mAP@1000", "P, radius 2", "Training, s"]
    note = f"\nPercent; features of `{own['backbone'].iloc[0]}`."
    stale = int(own["stale"].sum())
    if stale:
        note += f" {stale} of {len(own)} runs were made with an earlier state of this code."
    return (
        table(
            header,
            rows,
            caption="Everything measured here",
            name=f"tab-{card.id}-measured",
            classes=DENSE,
        )
        + note
    )
