"""What the landing page includes: the list of chapters and the counts of what is here."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import yaml

from cbir_lite import plots, survey
from cbir_lite.methods import registry

from .text import plain, table


def pages(root: Path) -> dict[str, str]:
    """Path below ``book/`` and content of each include."""
    return {"_generated/chapters.txt": chapters(root), "_generated/counts.txt": counts()}


def chapters(root: Path) -> str:
    """A table of the chapters in the table of contents: title, survey section, first objective."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [c.get("file", "") for part in toc["parts"] for c in part["chapters"]]
    rows = []
    for name in files:
        path = root / f"{name}.ipynb"
        if name.startswith("notebooks/") and path.exists():
            title, section = heading(path)
            rows.append([f"[{plain(title)}](../{name}.ipynb)", plain(section)])
    return table(["Chapter", "Sections of the survey"], rows, name="tab-chapters", classes="")


def heading(path: Path) -> tuple[str, str]:
    """Title of a notebook and the line of it that names the survey's section."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    section = re.search(r"^\| Survey sections \| (.+?) \|$", text, re.MULTILINE)
    return (title[1] if title else path.stem), (section[1] if section else "")


def counts() -> str:
    """One sentence on what is here, counted."""
    cards = registry.cards().values()
    rows = len(survey.results().dropna(subset="value"))
    return (
        f"**{len(cards)} systems** in one file each, **{rows} printed results** of Tables II to "
        f"IV beside our own measurements, **{len(survey.errata())} slips** of the survey flagged "
        f"where they matter, **{len(survey.claims())} of its claims** stated so that they can be "
        "tested."
    )


def timeline() -> bytes:
    """The survey's Fig. 3 as PNG, drawn from its data; the same bytes for the same data."""
    # A figure of its own canvas: no window system, and none of the reader's settings.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plots.timeline(3).figure
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=160, metadata={"Software": None})
    figure.clear()
    return buffer.getvalue()
