"""Reported beside measured: Tables II to IV of the survey joined with measured records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from cbir_lite import survey

# (printed measure, data set) to the records' column and the protocols that can stand for it. Of a
# printed row the one counts under which most of its cells were measured, the first if several:
# values of two protocols never stand in one row. A column of the survey mixes several meanings, so
# each measured value is shown with its protocol.
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
    valued = printed[printed["value"].notna()]
    own = [c + suffix for c in ("protocol", "method_id", "bits")]
    lengths = valued.groupby([own[0], "dataset", own[1], "supervision"])[own[2]].agg(set).to_dict()
    for row in valued.to_dict("records"):
        key = row["protocol" + suffix], row["dataset"]
        bits = row["bits" + suffix]
        cell: dict[Any, Any] = {"reported": row["value"], "bits": bits, "status": NO_DATA}
        if key in MEASURED_AS:
            method, supervision = row["method_id" + suffix], row["supervision"]
            of_row = lengths[(*key, method, supervision)]
            cell |= _measured(found, key, method, bits, supervision, of_row)
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
    summaries: dict[str, dict],
    key: tuple[str, str],
    method: str,
    bits: int,
    supervision: str,
    of_row: set[int],
) -> dict:
    measure, protocols = MEASURED_AS[key]
    found = summaries[measure]
    variant = _variant(found, method, protocols, supervision)
    protocol = max(protocols, key=lambda p: sum((variant, p, b) in found for b in of_row))
    if (variant, protocol, bits) not in found:
        return {"measure": measure, "status": NOT_RUN}
    cell = {k: v for k, v in found[variant, protocol, bits].items() if k != "supervision"}
    names = {"variant": variant, "measured_protocol": protocol, "measure": measure}
    return cell | names | {"status": MEASURED}


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
