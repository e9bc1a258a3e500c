import csv
import math
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from cbir_lite import survey

DATA = Path(survey.__file__).with_name("data") / "tables"


def flagged(frame, ident):
    return frame[[ident in ids.split("; ") for ids in frame["errata"]]]


def cell(n, dataset, bits, method_id, source, columns="printed", protocol=None):
    t = survey.table(n, columns)
    t = t[(t.dataset == dataset) & (t.bits == bits) & (t.method_id == method_id)]
    t = t[t.result_source == source]
    if protocol:
        t = t[t.protocol == protocol]
    assert len(t) == 1
    return t.iloc[0]


@pytest.mark.parametrize(
    ("n", "dataset", "bits", "method_id", "source", "value"),
    [
        (2, "NUS-WIDE", 16, "cnnh", 71, 57.0),
        (2, "MS COCO", 64, "hashnet", 71, 73.6),
        (2, "CIFAR-10", 48, "dth", 225, 94.9),
        (3, "ImageNet", 64, "dpah", 89, 71.4),
        (3, "MNIST", 64, "sdh_liong", 110, 52.5),
        (3, "CIFAR-10", 32, "tbh", 87, 57.3),
        (4, "CIFAR-10", 24, "spdaq", 223, 88.4),
        (4, "CIFAR-10", 64, "drdh", 167, 80.3),
    ],
)
def test_values_as_printed(n, dataset, bits, method_id, source, value):
    assert cell(n, dataset, bits, method_id, source).value == value


def test_a_dash_is_nan():
    row = cell(3, "CIFAR-10", 48, "tbh", 87)
    assert math.isnan(row.value)
    assert row.cell_printed == "-"


@pytest.mark.parametrize(
    ("n", "stem", "lines"),
    [
        (2, "table2_map5000", 37),
        (3, "table3_map1000", 28),
        (4, "table4_map54000_all", 20),
    ],
)
def test_every_printed_line_is_in_the_tidy_table(n, stem, lines):
    # Independent of the package: the raw file of printed lines, read cell by cell.
    tidy = survey.table(n)
    with (DATA / f"{stem}_as_printed.csv").open(encoding="utf-8", newline="") as handle:
        printed = list(csv.DictReader(handle))
    assert len(printed) == lines == len(survey.table_as_printed(n))
    seen = 0
    for line in printed:
        cells = [c for c in line["cells_left_to_right"].split(" | ") if c != "-"]
        rows = tidy[tidy.survey_line == int(line["survey_line"])].sort_values("col_index")
        values = [f"{v:.1f}" for v in rows.value.dropna()]
        assert values == cells
        assert set(rows.method_label) == {line["method_label"]}
        seen += len(rows)
    assert seen == len(tidy)


def test_table_names():
    assert survey.table("III").equals(survey.table(3))
    assert set(survey.table("IV").protocol) == {"mAP@54000", "mAP@All"}
    for bad in (0, 5, "V", "2", True, 2.0, None):
        with pytest.raises(ValueError, match="Tables 1 to 4"):
            survey.table(bad)
    with pytest.raises(ValueError, match="'printed' or 'likely'"):
        survey.table(4, "best")


def test_both_readings_of_ambiguous_columns():
    for ident, source in (("dhn", 84), ("dha", 84)):
        bits = {}
        for columns in ("printed", "likely"):
            t = survey.table(4, columns)
            t = t[(t.method_id == ident) & (t.result_source == source)]
            assert t.ambiguous_columns.all()
            bits[columns] = list(t.bits)
        assert bits == {"printed": [16, 24, 32, 48], "likely": [16, 32, 48, 64]}
    assert cell(4, "CIFAR-10", 32, "dhn", 84, "printed").value == 62.1
    assert cell(4, "CIFAR-10", 32, "dhn", 84, "likely").value == 60.3
    # Elsewhere the readings agree.
    for n in (2, 3):
        assert survey.table(n, "printed").equals(survey.table(n, "likely"))


def test_table_one():
    t = survey.table(1)
    assert len(t) == 13
    row = t.set_index("dataset_id").loc["cifar10"]
    assert (row.classes, row.training, row.test, row.citation) == (10, 50000, 10000, 45)
    assert "E13" in row.errata.split("; ")
    assert pd.isna(t.set_index("dataset_id").loc["mirflickr_1m"].test)
    printed = survey.table_as_printed(1)
    assert printed.set_index("dataset").loc["ILSVRC2012", "classes_printed"] == "1,000"


def test_tables_are_copies():
    mine = survey.table(2)
    mine.loc[0, "value"] = -1
    assert survey.table(2).loc[0, "value"] == 57.0


def test_e01_flags_only_the_rows_of_source_120():
    t = flagged(survey.results(), "E01")
    assert set(t.method_id) == {"hashgan_ghasedi"}
    assert set(t.result_source) == {120}
    assert set(t.method_id_likely) == {"hashgan_cao"}
    assert t.value.notna().sum() == 10
    other = survey.table(3).query("method_id == 'hashgan_ghasedi'")
    assert set(other.method_id_likely) == {"hashgan_ghasedi"}
    assert not any("E01" in e for e in other.errata)


def test_e02_identical_rows_under_two_headings():
    t2, t4 = (flagged(survey.table(n), "E02") for n in (2, 4))
    for ident, same in (("dqn", True), ("dsdh", True), ("dpsh", False)):
        a, b = (t[t.method_id == ident].set_index("bits").value.dropna() for t in (t2, t4))
        assert (list(a.loc[[24, 32, 48]]) == list(b.loc[[24, 32, 48]])) is same
        likely = set(t2[t2.method_id == ident].protocol_likely)
        assert likely == {"mAP@All" if same else "mAP@5000"}
    assert set(t2.protocol) == {"mAP@5000"}


def test_e03_two_methods_share_three_values():
    t = flagged(survey.table(2), "E03")
    assert set(t.dataset) == {"MS COCO"}
    values = {ident: list(g.value) for ident, g in t.groupby("method_id")}
    assert values == {"ssdh_yang": [69.7, 72.5, 74.4], "hashgan_ghasedi": [69.7, 72.5, 74.4]}


def test_e04_copies():
    t = flagged(survey.table(2), "E04")
    copies = t[t.duplicate]
    assert set(copies.result_source) == {84}
    key = ["method_id", "dataset", "bits"]
    both = t[~t.duplicate].merge(copies, on=key, validate="one_to_one")
    differ = both[both.value_x != both.value_y]
    assert len(both) == 24
    assert differ[[*key, "value_x", "value_y"]].to_numpy().tolist() == [
        ["hashnet", "NUS-WIDE", 16, 66.2, 66.3]
    ]
    assert survey.results().duplicate.sum() == 24


def test_e08_dips_are_the_flagged_series():
    dips, series = set(), 0
    for table, t in survey.results("likely").dropna(subset="value").groupby("table"):
        for (line, dataset), g in t.sort_values("bits").groupby(["survey_line", "dataset"]):
            v = list(g.value)
            series += 1
            assert v[-1] > v[0]
            if any(b < a for a, b in pairwise(v)):
                dips.add((table, line, dataset))
    marked = flagged(survey.results(), "E08")
    assert (series, len(dips)) == (106, 13)
    assert dips == set(
        marked[["table", "survey_line", "dataset"]].itertuples(index=False, name=None)
    )


def test_e10_sources():
    t = survey.results().drop_duplicates(["table", "survey_line"])
    assert len(t) == 85
    assert t.result_source.nunique() == 19
    assert (t.result_source == t.citation).sum() == 30


@pytest.mark.parametrize(
    ("dataset", "naive", "cleaned"),
    [("NUS-WIDE", (67.1, 69.6), (71.6, 68.65)), ("MS COCO", (69.4, 70.7), (73.6, 70.15))],
)
def test_e12_medians_by_supervision(dataset, naive, cleaned):
    t = survey.table(2)
    t = t[(t.dataset == dataset) & (t.bits == 64)].dropna(subset="value")
    t = t.assign(kind=["sup" if s == "supervised" else "unsup" for s in t.supervision])
    medians = t.groupby("kind").value.median().round(2)
    assert tuple(medians[["sup", "unsup"]]) == naive
    t = t[~t.duplicate & (t.method_id != "ssdh_yang")]
    t.loc[t.method_id_likely == "hashgan_cao", "kind"] = "sup"
    medians = t.groupby("kind").value.median().round(2)
    assert tuple(medians[["sup", "unsup"]]) == cleaned


def test_e15_greedyhash_rows_are_the_unsupervised_variant():
    assert survey.method("greedyhash").supervision == ("supervised", "unsupervised")
    t = survey.results().query("method_id == 'greedyhash'")
    assert set(t.supervision) == {"unsupervised"}
    assert len(flagged(t, "E15")) == len(t) == 10


def test_e20_years_differ_between_tables():
    t = flagged(survey.results(), "E20")
    years = {ident: set(g.year_printed) for ident, g in t.groupby("method_id")}
    assert years == {"deepbit": {2016, 2019}, "bgan": {2018, 2019}, "dha": {2014, 2019}}
    everywhere = survey.results().groupby("method_id").year_printed.nunique()
    assert set(everywhere[everywhere > 1].index) == set(years)


def test_e21_network_types_differ_between_tables():
    t = survey.results().groupby("method_id").network_type_printed.nunique()
    assert set(t[t > 1].index) == {"dnnh", "dtq"}
    for ident in ("dnnh", "dtq"):
        rows = survey.reported(ident)
        assert len(flagged(rows, "E21")) == len(rows)


def test_unflagged_rows_exist():
    rows = survey.reported("spdaq").query("table == 'IV'")
    assert set(rows.errata) == {""}


def test_reported():
    rows = survey.reported("hashgan_ghasedi")
    assert rows.value.notna().all()
    assert len(rows) == 13
    assert survey.reported("dch").empty
    with pytest.raises(KeyError, match="did you mean"):
        survey.reported("hashgan")
