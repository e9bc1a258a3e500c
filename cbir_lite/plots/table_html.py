"""Reported beside measured as a table of a page: sorted, filtered and taken away by its reader."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files

import pandas as pd

_HEAD = {
    "method_label": "Method",
    "bits": "Bits",
    "reported": "Reported mAP, %",
    "errata": "Errata",
    "measured": "Measured mAP, %",
    "ratio": "Ratio",
    "fidelity": "Fidelity",
    "dataset": "Data set",
    "measured_protocol": "Protocol of the measurement",
    "result_source": "Source of the reported value",
}
_NUMERIC = ("bits", "reported", "measured", "ratio", "result_source")

_STYLE = """<style>
.table-frame .table-tools { display: flex; flex-wrap: wrap; gap: .4em 1em; align-items: baseline; }
table.reported-measured { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.reported-measured caption { text-align: left; padding: .3em 0; }
table.reported-measured th, table.reported-measured td { padding: .2em .6em; text-align: left;
  border-bottom: 1px solid currentColor; font-weight: normal; }
.reported-measured tbody th, .reported-measured td { white-space: nowrap; }
table.reported-measured .number { text-align: right; }
.reported-measured thead th { position: sticky; top: 0; z-index: 1;
  background: var(--pst-color-background, Canvas); }
table.reported-measured button.sort { all: inherit; border: 0; padding: 0; cursor: pointer;
  font-weight: bold; }
table.reported-measured button.sort:focus-visible { outline: 2px solid currentColor; }
.reported-measured th[aria-sort=ascending] button::after { content: " \\2191"; }
.reported-measured th[aria-sort=descending] button::after { content: " \\2193"; }
</style>"""


def table_script() -> str:
    """The script that sorts, filters and exports tables of class ``sortable``, here and on the
    pages of the site.
    """
    return files("cbir_lite.plots").joinpath("tables.js").read_text(encoding="utf-8")


def _cell(row: dict, column: str, errata_href: str | None) -> tuple[str, object]:
    """HTML of a cell and the value it sorts by ("" sorts last)."""
    value = row[column]
    if column == "measured":
        if pd.isna(value):
            return escape(row["status"]), ""
        spread = "" if pd.isna(row["spread"]) else f" ± {row['spread']:.1f}"
        seeds = f"{row['seeds']} seed{'s' * (row['seeds'] != 1)}"
        return f"{value:.1f}{spread} ({seeds})", f"{value:.4f}"
    if pd.isna(value) or value == "":
        return "–", ""
    if column in ("reported", "ratio"):
        return f"{value:.{1 if column == 'reported' else 2}f}", f"{value:.4f}"
    if column == "result_source":
        return f"[{value}]", value
    if column == "errata":
        flags = [escape(flag) for flag in value.split("; ")]
        if errata_href is not None:
            flags = [f'<a href="{escape(errata_href.format(id=f.lower()))}">{f}</a>' for f in flags]
        return ", ".join(flags), value
    return escape(str(value)), value


def _tools(df: pd.DataFrame, file: str) -> str:
    """The rows as CSV in the link itself; the script adds a filter box."""
    data = base64.b64encode(df.to_csv(index=False, float_format="%.4f").encode()).decode()
    return (
        f'<div class="table-tools"><a class="csv" download="{escape(file)}" '
        f'href="data:text/csv;base64,{data}">Download CSV</a></div>'
    )


def to_html(
    df: pd.DataFrame,
    caption: str,
    *,
    errata_href: str | None = None,
    file: str | None = None,
    height: str | None = None,
) -> str:
    """The frame of `reported_measured` as an HTML table with caption, for a page of the site.

    Heads sort and a box filters (script and style inline, nothing is fetched); without scripts the
    table reads as it stands.

    Args:
        df: with the columns of `reported_measured`.
        caption: above the table.
        errata_href: address of an erratum, "{id}" for its id in small letters.
        file: name under which all columns can be taken away as CSV; default: what is shown.
        height: CSS length beyond which the table scrolls; default: as long as it is.

    `ValueError` for an empty caption or missing columns.
    """
    if not caption.strip():
        raise ValueError("a table needs a caption")
    if missing := [c for c in (*_HEAD, "spread", "seeds", "status") if c not in df]:
        raise ValueError(f"the frame has no column {', '.join(missing)}")
    heads = []
    for column, name in _HEAD.items():
        kind = "number" if column in _NUMERIC else "text"
        heads.append(f'<th scope="col" class="{kind}">{escape(name)}</th>')
    lines = []
    for row in df.to_dict("records"):
        cells = []
        for column in _HEAD:
            text, key = _cell(row, column, errata_href)
            tag = 'th scope="row"' if column == "method_label" else "td"
            kind = "number" if column in _NUMERIC else "text"
            cells.append(
                f'<{tag} class="{kind}" data-sort="{escape(str(key))}">{text}</{tag.split()[0]}>'
            )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    scroll = "overflow-x: auto" if height is None else f"overflow: auto; max-height: {height}"
    return "\n".join(
        [
            _STYLE,
            '<div class="table-frame" style="font-size: .85em">',
            *([] if file is None else [_tools(df, file)]),
            f'<div role="region" tabindex="0" style="{scroll}" aria-label="{escape(caption)}">',
            '<table class="sortable reported-measured">',
            f"<caption>{escape(caption)}</caption>",
            "<thead><tr>" + "".join(heads) + "</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table></div></div>",
            f"<script>{table_script()}</script>",
        ]
    )
