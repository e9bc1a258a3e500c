"""Reported beside measured: the join by hand, the flags, the HTML."""

import base64
import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cbir_lite import plots, survey
from cbir_lite.bench import SCALES, read_records
from cbir_lite.bench.records import usual
from cbir_lite.plots import reported_measured, to_html
from cbir_lite.plots.tables import COLUMNS


def cell(df, label, bits, **where):
    keep = (df["method_label"] == label) & (df["bits"] == bits)
    for column, value in where.items():
        keep &= df[column] == value
    (row,) = df[keep].to_dict("records")
    return row


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_printed_value_stays_as_printed(n, make_records):
    df = reported_measured(n, make_records({("dpsh", "cifar10-59k", 24): [0.5]}))
    printed = survey.table(n)
    printed = printed[printed["value"].notna()].reset_index(drop=True)
    assert list(df.columns) == COLUMNS
    pd.testing.assert_series_equal(df["reported"], printed["value"], check_names=False)
    for column in ("method_label", "dataset", "protocol", "errata", "bits"):
        assert list(df[column]) == list(printed[column])


def test_measured_mean_spread_and_ratio(make_records):
    records = make_records({("dpsh", "cifar10-59k", 24): [0.70, 0.72, 0.77]}, "simplified")
    row = cell(reported_measured(2, records), "DPSH’16", 24)
    assert row["reported"] == 72.0
    assert row["measured"] == pytest.approx(73.0)
    assert row["spread"] == pytest.approx(np.std([70, 72, 77], ddof=1))
    assert row["ratio"] == pytest.approx(73 / 72)
    assert (row["seeds"], row["fidelity"], row["status"]) == (3, "simplified", "measured")
    assert (row["measure"], row["measured_protocol"]) == ("map_5000", "cifar10-59k")
    assert row["errata"].startswith("E02")


def test_one_seed_has_no_spread(make_records):
    df = reported_measured(2, make_records({("dpsh", "cifar10-59k", 24): [0.7]}))
    assert np.isnan(cell(df, "DPSH’16", 24)["spread"])


def test_each_table_takes_its_measure_and_protocol(make_records):
    bits = {("dtq", "cifar10-54k", 32): [0.1], ("dtq", "cifar10-59k", 32): [0.2]}
    records = make_records(bits)
    df = reported_measured(4, records)
    row = cell(df, "DTQ’18", 32, protocol="mAP@54000")
    assert (row["measured"], row["measured_protocol"]) == (pytest.approx(10), "cifar10-54k")
    row = cell(df, "DTQ’18", 32, protocol="mAP@All")
    assert (row["measured"], row["measured_protocol"]) == (pytest.approx(20), "cifar10-59k")
    assert set(df["measure"].dropna()) == {"map_54000", "map_all"}


def test_protocols_fall_back_in_order(make_records):
    cells = {("dpsh", "cifar10-54k", 24): [0.4]}
    assert cell(reported_measured(2, make_records(cells)), "DPSH’16", 24)["measured"] == 40
    cells[("dpsh", "cifar10-59k", 24)] = [0.6]
    row = cell(reported_measured(2, make_records(cells)), "DPSH’16", 24)
    assert (row["measured"], row["measured_protocol"]) == (60, "cifar10-59k")
    digits = make_records({("uth", "mnist-69k", 16): [0.3], ("uth", "mnist-60k", 16): [0.5]})
    row = cell(reported_measured(3, digits), "UTH’17", 16, dataset="MNIST")
    assert (row["measured"], row["measure"]) == (50, "map_1000")


def test_a_row_has_one_protocol(make_records):
    cells = {("dpsh", "cifar10-59k", 24): [0.6], ("dpsh", "cifar10-54k", 24): [0.4]}
    cells[("dpsh", "cifar10-54k", 32)] = [0.5]
    rows = reported_measured(2, make_records(cells))
    assert cell(rows, "DPSH’16", 24)["measured_protocol"] == "cifar10-54k"
    assert cell(rows, "DPSH’16", 32)["measured_protocol"] == "cifar10-54k"
    cells[("dpsh", "cifar10-59k", 32)] = [0.7]
    rows = reported_measured(2, make_records(cells))
    assert cell(rows, "DPSH’16", 32)["measured_protocol"] == "cifar10-59k"


def test_the_published_rows_have_one_protocol_each():
    records = usual(read_records(Path(__file__).parents[2] / "book" / "results"))
    records = records[records["backbone"] == SCALES["full"].backbone]
    for number in (2, 3, 4):
        rows = reported_measured(number, records)
        rows = rows[rows["status"] == "measured"]
        keys = ["protocol", "dataset", "method_label", "supervision"]
        assert (rows.groupby(keys)["measured_protocol"].nunique() == 1).all()


def test_what_cannot_be_or_was_not_measured_says_so(make_records):
    df = reported_measured(2, make_records({("dpsh", "cifar10-59k", 24): [0.5]}))
    foreign = df[df["dataset"] != "CIFAR-10"]
    assert set(foreign["status"]) == {"needs the data"}
    mine = df[df["dataset"] == "CIFAR-10"]
    assert (mine["status"] == "measured").sum() == 1
    assert set(mine["status"]) == {"measured", "not measured"}
    assert df[df["status"] != "measured"]["measured"].isna().all()


def test_an_unsupervised_row_means_the_unsupervised_variant(make_records):
    p = "cifar10-59k"
    wrong = make_records({("greedyhash", p, 16): [0.8]}, supervision="supervised")
    row = cell(reported_measured(3, wrong), "GreedyHash’18", 16)
    assert row["supervision"] == "unsupervised"
    assert row["status"] == "not measured"
    right = make_records({("greedyhash/unsupervised", p, 16): [0.4]}, supervision="unsupervised")
    row = cell(reported_measured(3, pd.concat([wrong, right])), "GreedyHash’18", 16)
    assert (row["measured"], row["variant"]) == (40, "greedyhash/unsupervised")


def test_the_likely_reading(make_records):
    p = "cifar10-54k"
    records = make_records({("hashgan_cao", p, 16): [0.6], ("dhn", p, 32): [0.5]})
    printed = reported_measured(4, records)
    assert cell(printed, "HashGAN’18", 16)["status"] == "not measured"
    assert cell(printed, "DHN’16", 32)["reported"] == 62.1
    likely = reported_measured(4, records, reading="likely")
    row = cell(likely, "HashGAN’18", 16)
    assert (row["reported"], row["variant"]) == (66.8, "hashgan_cao")
    assert cell(likely, "DHN’16", 32)["reported"] == 60.3
    # E02: DSDH's row of Table II probably holds mAP@All.
    records = make_records({("dsdh", "cifar10-59k", 24): [0.7]})
    assert cell(reported_measured(2, records), "DSDH’17", 24)["measure"] == "map_5000"
    row = cell(reported_measured(2, records, reading="likely"), "DSDH’17", 24)
    assert (row["measure"], row["protocol"]) == ("map_all", "mAP@5000")


def test_baselines_are_appended_where_they_were_measured(make_records):
    p = "cifar10-59k"
    records = make_records(
        {("lsh", p, 16): [0.2], ("lsh", p, 32): [0.3], ("full", "mnist-69k", 1280): [0.9]}
    )
    df = reported_measured(3, records, also=["lsh", "full"]).tail(3)
    assert list(df["method_label"]) == ["lsh", "lsh", "full"]
    assert list(df["dataset"]) == ["CIFAR-10", "CIFAR-10", "MNIST"]
    assert list(df["bits"]) == [16, 32, 1280]
    assert df["reported"].isna().all()


def test_mixed_records_are_refused(make_records):
    one = make_records({("dpsh", "cifar10-59k", 24): [0.5]}, backbone="a")
    other = one.assign(backbone="b")
    with pytest.raises(ValueError, match=r"dpsh, cifar10-59k, 24 bits, seed 0: .*backbone"):
        reported_measured(2, pd.concat([one, other]))
    with pytest.raises(ValueError, match="fidelity faithful and sketch"):
        reported_measured(2, pd.concat([one, one.assign(seed=1, fidelity="sketch")]))
    with pytest.raises(ValueError, match="no column seed"):
        reported_measured(2, one.drop(columns="seed"))
    with pytest.raises(ValueError, match="no column map_5000"):
        reported_measured(2, one.drop(columns="map_5000"))
    with pytest.raises(ValueError, match=r"map_5000 of dpsh .*0\.\.1"):
        reported_measured(2, one.assign(map_5000=72.0))
    with pytest.raises(ValueError, match="Tables 2, 3 and 4"):
        reported_measured(1, one)
    with pytest.raises(ValueError, match="reading"):
        reported_measured(2, one, reading="corrected")


class Table(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.links, self.caption = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag in ("link", "img") or "src" in dict(attrs):
            raise AssertionError(f"{tag} fetches a file")

    def handle_data(self, data):
        if self.tags[-1] == "caption":
            self.caption += data
        elif self.rows and self.tags[-1] not in ("script", "style"):
            self.rows[-1][-1] += data.strip("\n") if self.rows[-1] else ""


def test_html_holds_the_values(make_records):
    records = make_records({("dpsh", "cifar10-59k", 24): [0.70, 0.72, 0.77]}, "simplified")
    df = reported_measured(2, records)
    df = df[df["method_id"] == "dpsh"]
    text = to_html(df, "Table II <CIFAR-10>", errata_href="errata.html#{id}")
    table = Table(text)
    assert table.caption.strip() == "Table II <CIFAR-10>"
    head, *body = table.rows
    assert head[:3] == ["Method", "Bits", "Reported mAP, %"]
    (row,) = [r for r in body if r[1] == "24"]
    assert row[2] == "72.0"
    assert row[4] == "73.0 ± 3.6 (3 seeds)"
    assert row[5:7] == ["1.01", "simplified"]
    assert len(body) == len(df)
    assert "not measured" in [r[4] for r in body]
    assert "errata.html#e02" in table.links
    assert text.count('scope="row"') == len(df)
    assert "http" not in text


def test_html_carries_its_rows_as_csv_and_a_filter(make_records):
    df = reported_measured(2, make_records({("dpsh", "cifar10-59k", 24): [0.5]}))
    plain = to_html(df, "Table II")
    assert 'class="csv"' not in plain.split("<script>")[0]
    assert "max-height" not in plain
    text = to_html(df, 'Table "II"', file="two.csv", height="9rem")
    assert 'download="two.csv"' in text
    assert "max-height: 9rem" in text
    (data,) = [link for link in Table(text).links if link.startswith("data:text/csv;base64,")]
    rows = pd.read_csv(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    assert list(rows.columns) == list(df.columns)
    assert len(rows) == len(df)


def test_html_refuses_what_it_cannot_show(make_records):
    df = reported_measured(2, make_records({("dpsh", "cifar10-59k", 24): [0.5]}))
    with pytest.raises(ValueError, match="caption"):
        to_html(df, " ")
    with pytest.raises(ValueError, match="no column measured"):
        to_html(df.drop(columns="measured"), "x")


def test_agreement_points_and_labels(make_records, labels_of, overlapping):
    rng = np.random.default_rng(1)
    ids = survey.table(4)["method_id"].unique()
    cells = {
        (m, p, b): [v, min(v + 0.01, 1)]
        for m in ids
        for v in rng.uniform(0.4, 0.9, 1)
        for p in ("cifar10-54k", "cifar10-59k")
        for b in (16, 24, 32, 48, 64)
    }
    records = make_records(cells)
    df = reported_measured(4, records)
    ax = plots.agreement(df)
    found = labels_of(ax, "label")
    assert overlapping(found) == []
    both = df[df["status"] == "measured"]
    rows = both.groupby(["protocol", "method_label", "result_source"]).ngroups
    assert len(found) == rows >= 20
    inside = ax.get_window_extent()
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 for _, b in found)
    points = np.concatenate([c[0].get_xydata() for c in ax.containers])
    expected = both[["reported", "measured"]].to_numpy()
    np.testing.assert_allclose(sorted(map(tuple, points)), sorted(map(tuple, expected)))
    assert ax.get_xlim() == ax.get_ylim()


def test_agreement_needs_something_measured(make_records):
    with pytest.raises(ValueError, match="both"):
        plots.agreement(reported_measured(2, make_records({("lsh", "cifar10-59k", 24): [0.5]})))


def test_plots_need_no_torch():
    code = (
        "import sys, cbir_lite.plots; print(sorted({'torch', 'cbir_lite.bench'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
