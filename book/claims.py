"""Every verdict of the book in one table: ``python -m book.claims --scale full``.

Runs the chapters (those that did not change are not run again), takes the verdicts out of their
outputs and writes ``book/results/claims.csv``.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from book.build import ROOT, notebooks, prepare, run_chapters, stage_dir
from cbir_lite import survey
from cbir_lite._cache import atomic_write
from cbir_lite.plots.verdicts import DATA

FILE = ROOT / "book" / "results" / "claims.csv"
_BADGE = re.compile(rf'{DATA}="([^"]*)"')
COLUMNS = (
    "claim", "section", "chapter", "verdict", "measure", "value", "low", "high", "n", "note",
    "scale",
)  # fmt: skip


def verdicts(notebook: Any) -> list[dict[str, Any]]:
    """The verdicts among the outputs of an executed chapter, in order."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/html", ""))
            found += [json.loads(html.unescape(row)) for row in _BADGE.findall(text)]
    return found


def collect(chapters: Iterable[Path], scale: str) -> pd.DataFrame:
    """One row a claim, from executed chapters, in the order of the survey.

    Raises ``ValueError`` naming a claim on which two chapters speak.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in chapters:
        for row in verdicts(nbformat.read(path, as_version=4)):
            first = rows.get(row["claim"])
            if first is not None:
                raise ValueError(
                    f"{row['claim']} has a verdict in {first['chapter']} and in {path.stem}: "
                    "one chapter must refer to the other"
                )
            rows[row["claim"]] = row | {"chapter": path.stem, "scale": scale}
    ordered = [rows[c] for c in survey.claims() if c in rows]
    return pd.DataFrame(ordered, columns=list(COLUMNS))


def main(argv: list[str] | None = None) -> None:
    """Command line of `make claims`."""
    parser = argparse.ArgumentParser(prog="python -m book.claims", description=__doc__)
    parser.add_argument("--scale", default="full", choices=("smoke", "book", "full"))
    parser.add_argument("--output", type=Path, default=FILE)
    options = parser.parse_args(argv)
    prepare(options.scale)
    run_chapters(options.scale)
    frame = collect(
        [stage_dir(options.scale) / "notebooks" / n.name for n in notebooks()], options.scale
    )
    with atomic_write(options.output) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    counts = frame["verdict"].value_counts()
    print(f"{len(frame)} of {len(survey.claims())} claims: {counts.to_dict()} in {options.output}")


if __name__ == "__main__":
    main()
