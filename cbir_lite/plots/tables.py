"""Reported beside measured: Tables II to IV of the survey joined with measured records."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import pandas as pd

from cbir_lite import survey

# (printed measure, data set) to the records' column and the protocols that can stand for it. The
# first one under which a cell was measured counts. A column of the survey mixes several meanings,
# so each measured value is shown with its protocol.
MEASURED_AS: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("mAP@5000", "CIFAR-10"): ("map_5000", ("cifar10-59k", "cifar10-54k")),
    ("mAP@1000", "CIFAR-10"): ("map_1000", ("cifar10-official", "cifar10-59k", "cifar10-54k")),
    ("mAP@1000", "MNIST"): ("map_1000", ("mnist-60k", "mnist-69k", "mnist-64k")),
    ("mAP@54000", "CIFAR-10"): ("map_54000", ("cifar10-54k",)),
    ("mAP@All", "CIFAR-10"): ("map_all", ("cifar10-59k", "cifar10-54k")),
}
MEASURED, NOT_RUN, NO_DATA = "measured", "not measured", "needs the data"
KEYS = ["method", "protocol", "bits"]
COLUMNS = [
    "table", "protocol", "dataset", "method_label", "method_id", "citation", "result_source",
    "network_type_printed", "supervision", "bits", "reported", "errata", "measured", "spread",
    "seeds", "ratio", "fidelity", "variant", "measured_protocol", "measure", "status",
]  # fmt: skip
Reading = Literal["printed", "likely"]


def one_run_a_seed(records: pd.DataFrame) -> None:
    """`ValueError` if records hold two runs of one method, protocol, code length and seed."""
    missing = [c for c in [*KEYS, "seed"] if c not in records]
    if missing:
        raise ValueError(f"records have no column {', '.join(missing)}")
    twice = records[records.duplicated([*KEYS, "seed"], keep=False)]
    if len(twice):
        row = twice.iloc[0]
        differ = [c for c in ("backbone", "params", "code_hash") if c in twice]
        differ = [c for c in differ if twice[c].nunique(dropna=False) > 1]
        raise ValueError(
            f"several records of {row['method']}, {row['protocol']}, {row['bits']} bits, seed "
            f"{row['seed']}: choose one by {', '.join(differ) or 'dropping the copies'}"
        )


def _summaries(records: pd.DataFrame, measure: str) -> dict[tuple[str, str, int], dict]:
    """Mean and spread in percent, seeds and fidelity of each method, protocol and code length."""
    if measure not in records:
        raise ValueError(f"records have no column {measure}")
    out: dict[tuple[str, str, int], dict] = {}
    for _, rows in records[records[measure].notna()].groupby(KEYS):
        method, protocol, bits = rows.iloc[0][KEYS]
        key = (str(method), str(protocol), int(bits))
        values = rows[measure] * 100
        if not values.between(0, 100).all():
            raise ValueError(f"{measure} of {' '.join(map(str, key))} is outside 0..1")
        fidelity = sorted(set(rows["fidelity"]))
        if len(fidelity) > 1:
            raise ValueError(f"{key[0]} has records of fidelity {' and '.join(fidelity)}")
        sees = str(rows["supervision"].iloc[0]) if "supervision" in rows else ""
        out[key] = {
            "measured": values.mean(),
            "spread": values.std(ddof=1),
            "seeds": len(values),
            "fidelity": fidelity[0],
            "supervision": sees,
        }
    return out


def _variant(found: dict, method: str, protocols: tuple[str, ...], supervision: str) -> str | None:
    """The measured variant that a printed row means: of an unsupervised row "id/unsupervised".

    None where only a supervised variant was measured for an unsupervised row.
    """
    here = {m for m, p, _ in found if p in protocols}
    if supervision == "unsupervised" and f"{method}/unsupervised" in here:
        return f"{method}/unsupervised"
    if method not in here:
        return None
    sees = {v["supervision"] for (m, *_), v in found.items() if m == method}
    return None if supervision == "unsupervised" and sees == {"supervised"} else method


def reported_measured(
    table: int | str | pd.DataFrame,
    records: pd.DataFrame,
    *,
    reading: Reading = "printed",
    also: Sequence[str] = (),
) -> pd.DataFrame:
    """Every printed mAP of Table 2, 3 or 4 with the measured one beside it, both in percent.

    Args:
        table: number of the table, or rows of `survey.table`.
        records: measured runs, one a seed: method, fidelity, protocol, bits, seed, map_1000,
            map_5000, map_54000, map_all (0..1), if possible supervision; one backbone.
        reading: ``likely`` compares with the system, measure and code length a flagged row
            probably means (E01, E02, E05); ``reported`` is as printed either way.
        also: methods (baselines, references) to append to each measurable block, measured only.

    Returns one row a printed cell (dashes left out) with `COLUMNS`: `reported`, `errata` (flags
    that concern the row), `measured` (mean), `spread` (standard deviation over seeds, n - 1; NaN
    for one seed), `seeds`, `ratio` (measured / reported), `fidelity`, `variant` (name in the
    records), `measured_protocol`, `measure`, `status`: "measured", "not measured", or "needs the
    data" for data sets without a protocol here. Raises `ValueError` for missing columns or several
    runs of one seed.
    """
    if reading not in ("printed", "likely"):
        raise ValueError(f"reading must be 'printed' or 'likely', not {reading!r}")
    one_run_a_seed(records)
    printed = table if isinstance(table, pd.DataFrame) else survey.table(table)
    if "value" not in printed:
        raise ValueError("only Tables 2, 3 and 4 hold results")
    suffix = "_likely" if reading == "likely" else ""
    wanted = set(zip(printed["protocol" + suffix], printed["dataset"], strict=True))
    wanted |= set(zip(printed["protocol"], printed["dataset"], strict=True))
    measures = {MEASURED_AS[key][0] for key in wanted & set(MEASURED_AS)}
    found = {measure: _summaries(records, measure) for measure in measures}
    rows: list[dict[Any, Any]] = []
    for row in printed[printed["value"].notna()].to_dict("records"):
        key = row["protocol" + suffix], row["dataset"]
        bits = row["bits" + suffix]
        cell: dict[Any, Any] = {"reported": row["value"], "bits": bits, "status": NO_DATA}
        if key in MEASURED_AS:
            method = row["method_id" + suffix]
            cell |= _measured(found, key, method, bits, row["supervision"])
            if cell["status"] == MEASURED:
                cell["ratio"] = cell["measured"] / row["value"]
        rows.append({**row, **cell})
    blocks = printed[["table", "protocol", "dataset"]].drop_duplicates()
    for block in blocks.to_dict("records"):
        key = block["protocol"], block["dataset"]
        if key in MEASURED_AS:
            rows += [{**block, **extra} for name in also for extra in _baseline(found, key, name)]
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for column in ("citation", "result_source", "seeds", "bits"):
        frame[column] = frame[column].astype("Int64")
    return frame.astype(dict.fromkeys(["reported", "measured", "spread", "ratio"], float))


def _measured(
    summaries: dict[str, dict], key: tuple[str, str], method: str, bits: int, supervision: str
) -> dict:
    measure, protocols = MEASURED_AS[key]
    found = summaries[measure]
    variant = _variant(found, method, protocols, supervision)
    for protocol in protocols:
        if (variant, protocol, bits) in found:
            cell = {k: v for k, v in found[variant, protocol, bits].items() if k != "supervision"}
            names = {"variant": variant, "measured_protocol": protocol, "measure": measure}
            return cell | names | {"status": MEASURED}
    return {"measure": measure, "status": NOT_RUN}


def _baseline(summaries: dict[str, dict], key: tuple[str, str], method: str) -> list[dict]:
    measure, protocols = MEASURED_AS[key]
    found = summaries[measure]
    for protocol in protocols:
        lengths = sorted(b for m, p, b in found if (m, p) == (method, protocol))
        if lengths:
            names = {"method_label": method, "method_id": method.split("/")[0], "variant": method}
            names |= {"measured_protocol": protocol, "measure": measure, "status": MEASURED}
            return [{"errata": "", "bits": b} | found[method, protocol, b] | names for b in lengths]
    return []


_HEAD = {
    "method_label": "Method",
    "dataset": "Data set",
    "bits": "Bits",
    "reported": "Reported mAP, %",
    "errata": "Errata",
    "measured": "Measured mAP, %",
    "ratio": "Measured / reported",
    "fidelity": "Fidelity",
    "measured_protocol": "Protocol of the measurement",
    "result_source": "Source of the reported value",
}
_NUMERIC = ("bits", "reported", "measured", "ratio", "result_source")

# Sorts by data-sort of the cells, empty ones last; all in one attribute-free function, so that
# several tables on one page may each carry it.
_SCRIPT = """<script>
(function () {
  if (window.cbirSortable) return;
  window.cbirSortable = true;
  document.addEventListener("click", function (event) {
    var button = event.target.closest("table.reported-measured thead button");
    if (!button) return;
    var head = button.closest("th"), body = head.closest("table").tBodies[0];
    var up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
    head.parentNode.querySelectorAll("th").forEach(function (th) {
      th.removeAttribute("aria-sort");
    });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    var number = head.dataset.kind === "number";
    Array.from(body.rows).sort(function (a, b) {
      var x = a.cells[column].dataset.sort, y = b.cells[column].dataset.sort;
      if (x === "" || y === "") return (x === "") - (y === "");
      var order = number ? x - y : x.localeCompare(y);
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  });
})();
</script>"""
_STYLE = """<style>
.reported-measured { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.reported-measured caption { text-align: left; padding: .3em 0; }
.reported-measured th, .reported-measured td { padding: .2em .6em; text-align: left;
  border-bottom: 1px solid currentColor; font-weight: normal; }
.reported-measured tbody th, .reported-measured td { white-space: nowrap; }
.reported-measured .number { text-align: right; }
.reported-measured thead button { all: inherit; border: 0; padding: 0; cursor: pointer;
  font-weight: bold; }
.reported-measured thead button:focus-visible { outline: 2px solid currentColor; }
.reported-measured th[aria-sort=ascending] button::after { content: " \\2191"; }
.reported-measured th[aria-sort=descending] button::after { content: " \\2193"; }
</style>"""


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
            flags = [f'<a href="{escape(errata_href.format(id=f))}">{f}</a>' for f in flags]
        return ", ".join(flags), value
    return escape(str(value)), value


def to_html(df: pd.DataFrame, caption: str, *, errata_href: str | None = None) -> str:
    """The frame of `reported_measured` as an HTML table with caption, for a page of the site.

    Heads are buttons that sort (script and style inline, nothing is fetched); without scripts the
    table reads as it stands. `errata_href` is the address of an erratum, "{id}" for its id.
    `ValueError` for an empty caption or missing columns.
    """
    if not caption.strip():
        raise ValueError("a table needs a caption")
    if missing := [c for c in (*_HEAD, "spread", "seeds", "status") if c not in df]:
        raise ValueError(f"the frame has no column {', '.join(missing)}")
    heads = []
    for column, name in _HEAD.items():
        kind = "number" if column in _NUMERIC else "text"
        heads.append(
            f'<th scope="col" class="{kind}" data-kind="{kind}">'
            f'<button type="button">{escape(name)}</button></th>'
        )
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
    return "\n".join(
        [
            _STYLE,
            f'<div role="region" tabindex="0" style="overflow-x: auto" '
            f'aria-label="{escape(caption)}">',
            '<table class="reported-measured">',
            f"<caption>{escape(caption)}</caption>",
            "<thead><tr>" + "".join(heads) + "</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table></div>",
            _SCRIPT,
        ]
    )
