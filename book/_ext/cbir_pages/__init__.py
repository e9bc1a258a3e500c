"""Pages that are written from data: systems, errata, references, status, chapter list.

A Sphinx extension (see `sphinx.local_extensions` in `_config.yml`). Its `setup` writes the pages
before Sphinx looks for sources, so a plain `jupyter-book build .` and `make book` give the same.
"""

from __future__ import annotations

import shutil
from importlib.metadata import files
from pathlib import Path
from typing import Any

from cbir_lite import survey
from cbir_lite.plots.table_html import table_script

from . import landing, reference, systems
from .text import write

MATHJAX = "tex-svg-full.js"


def generate(root: Path) -> None:
    """Write every generated file below ``root/book``; files that did not change stay untouched.

    ``root`` is a folder with ``book/`` and ``notebooks/``; ``book/results/*.csv`` and
    ``book/status.json`` are read where they exist.
    """
    book = root / "book"
    pages = {
        **systems.pages(book / "results", root / "notebooks"),
        **reference.pages(book / "status.json", book / "results" / "claims.csv"),
        **landing.pages(root),
        "references.bib": survey.bibtex(),
        "_static/tables.js": table_script(),
    }
    for stale in (book / "methods").glob("*.md"):
        if f"methods/{stale.name}" not in pages:
            stale.unlink()
    for name, content in pages.items():
        write(book / name, content)
    write(book / "_generated" / "timeline.png", landing.timeline())
    _mathjax(book / "_static" / "mathjax")


def _mathjax(target: Path) -> None:
    """Copy MathJax out of its package, so that the site needs no other host."""
    found = [f for f in files("django-static-mathjax") or [] if f.parts[-2:] == ("es5", MATHJAX)]
    if not found:
        raise FileNotFoundError(
            f"{MATHJAX} is not in the package django-static-mathjax: install cbir-lite[book] again"
        )
    source = Path(str(found[0].locate()))
    copy = target / MATHJAX
    if not copy.exists() or copy.stat().st_size != source.stat().st_size:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _no_thebe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out the scripts of live code: they name another host, and no page here uses them."""
    context["script_files"] = [
        s for s in context.get("script_files", []) if "thebe" not in str(s)
        and "thebe" not in str(getattr(s, "attributes", {}).get("body", ""))
    ]  # fmt: skip


def setup(app: Any) -> dict[str, Any]:
    """Entry point of Sphinx."""
    generate(Path(app.srcdir))
    app.connect("html-page-context", _no_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
