"""Rank agreement against SciPy's own loops and hand-worked orders; Holm's rule by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cbir_lite.bench.agreement import holm, kendall, neighbours, rank_agreement, spearman


def table(reported: list[float], measured: list[float], bits: int = 32) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "protocol": "mAP@All",
            "dataset": "CIFAR-10",
            "result_source": 223,
            "measured_protocol": "cifar10-59k",
            "method_label": [f"m{i}" for i in range(len(reported))],
            "bits": bits,
            "reported": reported,
            "measured": measured,
        }
    )


def runs(values: dict[str, list[list[float]]]) -> pd.DataFrame:
    """values: method to rows of lengths, columns of seeds."""
    rows = [
        {"method": m, "protocol": "p", "bits": 16 * (i + 1), "seed": s, "map_all": v}
        for m, lengths in values.items()
        for i, seeds in enumerate(lengths)
        for s, v in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def test_values_of_two_protocols_are_not_ranked_together() -> None:
    cells = table([1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 1, 2, 3, 4])
    cells.loc[4:, "measured_protocol"] = "cifar10-official"
    found = rank_agreement(cells, draws=50).dropna(subset="bits").set_index("measured_protocol")
    assert found["kendall"].to_dict() == {"cifar10-59k": -1, "cifar10-official": 1}


def test_correlations_equal_scipys_with_ties() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, (2, 40, 7)).astype(float)
    for row in range(len(x)):
        rho, tau = stats.spearmanr(x[row], y[row])[0], stats.kendalltau(x[row], y[row])[0]
        assert spearman(x, y)[row] == pytest.approx(rho)
        assert kendall(x, y)[row] == pytest.approx(tau)


def test_a_level_row_has_no_correlation() -> None:
    level, other = np.ones((1, 4)), np.arange(4.0)[None]
    assert np.isnan(spearman(level, other)[0])
    assert np.isnan(kendall(other, level)[0])


def test_one_swap_in_five_by_hand() -> None:
    frame = rank_agreement(table([1, 2, 3, 4, 5], [10, 20, 40, 30, 50]))
    at_length = frame[frame["bits"] == 32].iloc[0]
    # One discordant pair of ten: (9 - 1) / 10; squared rank differences 1 + 1: 1 - 6 * 2 / 120.
    assert at_length["kendall"] == pytest.approx(0.8)
    assert at_length["spearman"] == pytest.approx(0.9)
    # Of the 120 orders 1 + 4 have at most one inversion, and as many at least nine.
    assert at_length["p"] == pytest.approx(10 / 120)
    assert at_length["kendall_low"] <= 0.8 <= at_length["kendall_high"] == pytest.approx(1)


def test_reversed_order_and_its_interval() -> None:
    row = rank_agreement(table([1, 2, 3, 4], [4, 3, 2, 1]), draws=200).iloc[0]
    found = [row[c] for c in ("spearman", "spearman_low", "spearman_high", "kendall_high")]
    assert found == pytest.approx([-1, -1, -1, -1])


def test_interval_equals_a_plain_loop() -> None:
    reported, measured = [5.0, 1, 4, 2, 3, 6], [1.0, 2, 4, 3, 5, 6]
    row = rank_agreement(table(reported, measured), draws=300, seed=7).iloc[0]
    sampled = []
    for pick in np.random.default_rng(7).integers(0, 6, (300, 6)):
        if len(np.unique(pick)) >= 3:
            a, b = np.array(reported)[pick], np.array(measured)[pick]
            sampled.append(stats.kendalltau(a, b)[0])
    assert row["kendall_low"] == pytest.approx(np.quantile(sampled, 0.025))
    assert row["kendall_high"] == pytest.approx(np.quantile(sampled, 0.975))


def test_too_few_systems_give_words_and_no_number() -> None:
    frame = rank_agreement(table([1, 2, 3], [1, 2, 3]))
    assert frame[["spearman", "kendall", "p"]].isna().all(axis=None)
    assert frame["note"].str.startswith("3 systems: too few").all()


def test_sources_and_lengths_are_kept_apart_and_the_mean_needs_all_lengths() -> None:
    four = table([1, 2, 3, 4], [1, 2, 3, 4], 16)
    five = table([1, 2, 3, 4, 5], [4, 3, 2, 1, 0], 32)
    other = table([1, 2], [2, 1]).assign(result_source=84)
    frame = rank_agreement(pd.concat([four, five, other]), draws=50)
    here = frame[frame["result_source"] == 223]
    assert here["bits"].fillna(0).tolist() == [16, 32, 0]
    assert here["systems"].tolist() == [4, 5, 4]
    assert here["kendall"].iloc[:2].tolist() == pytest.approx([1, -1])
    assert set(frame[frame["result_source"] == 84]["systems"]) == {2}


def test_rows_without_both_values_do_not_count() -> None:
    cells = table([1, 2, 3, 4], [1, 2, 3, np.nan])
    assert set(rank_agreement(cells)["systems"]) == {3}


def test_bad_tables_are_named() -> None:
    with pytest.raises(ValueError, match="no column measured"):
        rank_agreement(table([1, 2], [1, 2]).drop(columns="measured"))
    twice = pd.concat([table([1, 2], [1, 2])] * 2)
    with pytest.raises(ValueError, match="m0 occurs twice at 32 bits"):
        rank_agreement(twice)
    with pytest.raises(ValueError, match="least=2"):
        rank_agreement(table([1, 2], [1, 2]), least=2)


def test_holm_by_hand() -> None:
    # Sorted .01 .03 .04 times 3, 2, 1: .03 .06 .04, made non-decreasing.
    assert holm([0.04, np.nan, 0.01, 0.03])[[0, 2, 3]] == pytest.approx([0.06, 0.03, 0.06])
    assert np.isnan(holm([0.04, np.nan])[1])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).size == 0


def test_neighbours_are_ranked_and_tested_in_pairs() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((6, 3)) / 2
    near = low + rng.normal(0, 1e-3, low.shape)
    high = low + 0.2 + rng.random(low.shape) / 100
    frame = neighbours(runs({"low": low.tolist(), "high": high.tolist(), "near": near.tolist()}))
    assert frame["better"][0] == "high"
    assert set(frame.loc[1, ["better", "other"]]) == {"low", "near"}
    assert frame["pairs"].tolist() == [18, 18]
    assert frame["wins"][0] == 18
    ahead = (near > low) if frame["better"][1] == "near" else (low > near)
    assert frame["wins"][1] == ahead.sum()
    second = near if frame["other"][0] == "near" else low
    assert frame["gain"][0] == pytest.approx((high - second).mean())
    # All eighteen signs agree: two of the 2**18 equally likely sign patterns.
    assert frame["p"][0] == pytest.approx(2 / 2**18)
    assert frame["p_holm"][0] == pytest.approx(4 / 2**18)
    assert frame["p"][1] == pytest.approx(stats.wilcoxon((near - low).ravel()).pvalue)


def test_neighbours_leave_out_what_lacks_a_length_and_do_not_test_few_pairs() -> None:
    records = runs({"a": [[0.9], [0.8]], "b": [[0.5], [0.4]], "part": [[0.99]]})
    frame = neighbours(records)
    assert frame[["better", "other"]].to_numpy().tolist() == [["a", "b"]]
    assert frame["pairs"][0] == 2
    assert frame[["p", "p_holm"]].isna().all(axis=None)


def test_neighbours_do_not_test_runs_that_are_equal() -> None:
    first = np.linspace(0.5, 0.6, 18).reshape(6, 3)
    for differing, tested in ((5, False), (6, True)):
        second = first.copy()
        second.flat[:differing] += 0.01
        frame = neighbours(runs({"first": first.tolist(), "second": second.tolist()}))
        assert frame.loc[0, ["pairs", "wins"]].tolist() == [18, differing]
        assert np.isfinite(frame.loc[0, "p"]) == tested


def test_neighbours_name_bad_records() -> None:
    records = runs({"a": [[0.9]], "b": [[0.5]]})
    with pytest.raises(ValueError, match="no column map_5000"):
        neighbours(records, "map_5000")
    with pytest.raises(ValueError, match="several records of a, 16 bits, seed 0"):
        neighbours(pd.concat([records, records]))
    with pytest.raises(ValueError, match="mix protocols p, q"):
        neighbours(pd.concat([records, records.assign(protocol="q")]))
