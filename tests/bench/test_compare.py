"""The paired bootstrap against a naive one, and what its verdict means."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.bench import Difference, difference


def test_interval_is_that_of_resampled_pairs() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(40)
    b = a - 0.05 + rng.normal(0, 0.1, 40)
    found = difference(a, b, draws=300, seed=5)
    draws = np.random.default_rng(5)
    means = []
    for rows in draws.integers(0, 40, (300, 40)):
        means.append(sum(a[i] - b[i] for i in rows) / 40)
    assert found.mean == pytest.approx(sum(a - b) / 40)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert found.n == 40


def test_pairs_of_equal_difference_leave_no_doubt() -> None:
    a = np.array([0.2, 0.9, 0.5])
    found = difference(a, a - 0.1)
    assert found == pytest.approx((0.1, 0.1, 0.1, 3))
    assert str(found) == "+0.100 [+0.100, +0.100], n = 3"
    assert found.verdict == "supported"
    assert difference(a - 0.1, a).verdict == "contradicted"
    assert difference(a, a).verdict == "mixed"
    assert Difference(0.1, -0.1, 0.3, 9).verdict == "mixed"


def test_measures_must_pair() -> None:
    for a, b in ((np.ones(3), np.ones(4)), (np.ones((2, 2)), np.ones((2, 2))), (np.ones(0),) * 2):
        with pytest.raises(ValueError, match="measures of the same queries"):
            difference(a, b)
