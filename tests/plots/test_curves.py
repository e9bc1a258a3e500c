"""Curves draw the means and spreads that plain arithmetic gives."""

import numpy as np
import pandas as pd
import pytest

from cbir_lite import plots


def line(ax, name):
    handles, labels = ax.get_legend_handles_labels()
    return handles[labels.index(name)]


def test_pr_curve_means_over_seeds_and_drops_empty_radii():
    precision = [[np.nan, 0.9, 0.4], [0.8, 0.7, 0.2]]
    ax = plots.pr_curve({"dpsh": (precision, [0.0, 0.5, 1.0]), "lsh": ([0.5], [0.3])})
    x, y = line(ax, "dpsh").get_data()
    np.testing.assert_allclose(x, [0.5, 1.0])
    np.testing.assert_allclose(y, [0.8, 0.3])
    (band,) = ax.collections
    spread = np.std([0.9, 0.7], ddof=1)
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(0.8 + spread)
    assert heights.min() == pytest.approx(0.3 - spread)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["dpsh", "lsh"]


def test_precision_at_k():
    ax = plots.precision_at_k({"itq": ([1, 10, 100], [0.9, 0.5, 0.1])})
    x, y = line(ax, "itq").get_data()
    np.testing.assert_allclose(x, [1, 10, 100])
    np.testing.assert_allclose(y, [0.9, 0.5, 0.1])
    ax.figure.draw_without_rendering()
    assert "100" in [t.get_text() for t in ax.get_xticklabels()]


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (([0.5, 0.5], [0.1]), "do not belong together"),
        (([50.0], [0.1]), r"0\.\.1"),
        (([], []), r"\(points,\)"),
    ],
)
def test_bad_curves(curve, message):
    with pytest.raises(ValueError, match=message):
        plots.pr_curve({"x": curve})


def test_ranks_start_at_one():
    with pytest.raises(ValueError, match="ranks from 1"):
        plots.precision_at_k({"x": ([0, 1], [0.5, 0.5])})


def test_map_by_bits(make_records):
    p = "cifar10-59k"
    records = make_records(
        {
            ("lsh", p, 16): [0.1, 0.2, 0.3],
            ("lsh", p, 32): [0.3, 0.3],
            ("dpsh", p, 32): [0.7],
            ("neural_codes/full", p, 1280): [0.6],
        }
    )
    ax = plots.map_by_bits(records)
    data, _, bars = line(ax, "lsh")
    x, y = data.get_data()
    assert list(x) == [16, 32]
    assert list(y) == pytest.approx([20, 30])
    (segments,) = (b.get_segments() for b in bars)
    assert [list(s[:, 1]) for s in segments] == [
        pytest.approx([10, 30]),
        pytest.approx([30, 30]),
    ]
    assert line(ax, "neural_codes/full (1280 numbers)").get_ydata() == pytest.approx([60, 60])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16", "32"]
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["dpsh", "neural_codes/full (1280 numbers)", "lsh"]
    only = plots.map_by_bits(records, methods=["lsh"])
    assert len(only.get_legend().get_texts()) == 1


def test_map_by_bits_refuses_mixtures(make_records):
    records = make_records({("lsh", "a", 16): [0.1], ("lsh", "b", 16): [0.1]})
    with pytest.raises(ValueError, match="mix protocols a, b"):
        plots.map_by_bits(records)
    one = records[records["protocol"] == "a"]
    with pytest.raises(ValueError, match="no record of itq"):
        plots.map_by_bits(one, methods=["itq"])
    with pytest.raises(ValueError, match="several records of lsh"):
        plots.map_by_bits(pd.concat([one, one]))
    with pytest.raises(ValueError, match="no record has a value of map_all"):
        plots.map_by_bits(one.assign(map_all=np.nan))
