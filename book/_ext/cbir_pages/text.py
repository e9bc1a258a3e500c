"""Markdown from data: escaping, badges, links and tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DASH = '<span class="none" title="{}">—</span>'
_CODE = re.compile(r"``(.+?)``|`([^`]+)`")
_ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")
_SPECIAL = re.compile(r"([\\*_\[\]<>|$#{}~^])")
_QUAD = re.compile(r"[,;]\s*(?:\\ )?\s*\\quad")
_COMMA = re.compile(r"[,;]\s*\\ ")
LONG_FORMULA = 110
_ERRATUM = re.compile(r"\bE(\d\d)\b")
_NUMBER = re.compile(r"\\\[(\d{1,3})\\\]")


def write(path: Path, content: str | bytes) -> None:
    """Write a file unless it holds that already: Sphinx then reads only what changed."""
    data = content if isinstance(content, bytes) else (content.rstrip() + "\n").encode()
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def plain(text: str) -> str:
    """Text with every Markdown sign escaped, except code between backticks."""
    out, end = [], 0
    text = _ROLE.sub(r"``\1``", text)
    for match in _CODE.finditer(text):
        out += [_SPECIAL.sub(r"\\\1", text[end : match.start()]), f"`{match[1] or match[2]}`"]
        end = match.end()
    return "".join([*out, _SPECIAL.sub(r"\\\1", text[end:])])


def linked(text: str, up: str = "") -> str:
    """`plain`, with E07 and [98] as links; ``up`` is the way to the book's folder."""
    text = _ERRATUM.sub(r"[E\1](#erratum-e\1)", plain(text))
    return _NUMBER.sub(rf'<a href="{up}references.html#ref-\1">[\1]</a>', text)


def errata_links(ids: str | Iterable[str]) -> str:
    """Links to errata given as "E01; E04" or as a list."""
    listed = [i for i in ids.split("; ") if i] if isinstance(ids, str) else list(ids)
    return ", ".join(f"[{i}](#erratum-{i.lower()})" for i in listed)


def badge(kind: str, title: str = "") -> str:
    """A small label; its colour comes from the style sheet."""
    extra = f' title="{html.escape(title, quote=True)}"' if title else ""
    return f'<span class="badge badge-{kind}"{extra}>{kind}</span>'


def none(why: str) -> str:
    """A dash that says on hovering why there is nothing."""
    return DASH.format(html.escape(why, quote=True))


def cite(key: str) -> str:
    """A citation, or nothing where the card names none."""
    return "" if key == "none" else f"{{cite}}`{key}`"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    name: str = "",
    classes: str = "sortable",
) -> str:
    """A Markdown table in its directive; cells are Markdown already (escape with `plain`).

    ``classes``: "sortable" gets its tools from tables.js, "facts" is a list of names and values.
    """
    lines = [f":::{{table}} {caption}".rstrip()]
    if classes:
        lines.append(f":class: {classes}")
    if name:
        lines.append(f":name: {name}")
    lines += ["", _row(header), _row(["---"] * len(header))]
    lines += [_row(row) for row in rows]
    return "\n".join([*lines, ":::", ""])


def _row(cells: Sequence[str]) -> str:
    # An escaped bar survives the table; a line end would not.
    return "| " + " | ".join(" ".join(str(c).split()) for c in cells) + " |"


def facts(rows: Iterable[Sequence[str]], name: str = "") -> str:
    """Names and values; the heading is there for screen readers and hidden by the style sheet."""
    return table(["What", "Value"], rows, name=name, classes="facts")


def display_math(formula: str) -> str:
    """A formula as a block, with a line for each of its parts."""
    parts = [piece for part in _split(formula, _QUAD) for piece in _shorter(part)]
    if len(parts) > 1:
        joined = "\\\\\n".join(f"&{p}" for p in parts)
        formula = "\\begin{aligned}\n" + joined + "\n\\end{aligned}"
    return f"$$\n{formula}\n$$"


def _shorter(part: str) -> list[str]:
    """A long part cut at its commas too."""
    return _split(part, _COMMA) if len(part) > LONG_FORMULA else [part]


def _split(formula: str, mark: re.Pattern[str]) -> list[str]:
    """Cut after each sign that ``mark`` finds outside of braces and sized brackets."""
    parts, start = [], 0
    for match in mark.finditer(formula):
        before = formula[: match.start()]
        pairs = (("{", "}"), (r"\big(", r"\big)"))
        if all(before.count(a) == before.count(b) for a, b in pairs):
            parts.append(formula[start : match.start() + 1].strip())
            start = match.end()
    return [*parts, formula[start:].strip()]
