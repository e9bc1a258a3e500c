"""The paired bootstrap against a naive one, and what its verdict means."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.bench import Difference, difference, listed, together, weakest


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


def test_within_margins_needs_the_whole_interval() -> None:
    d = Difference(0.0, -0.02, 0.02, 9)
    assert d.within(-0.03, 0.03) == "supported"
    assert d.within(-0.03) == "supported"
    assert d.within(high=0.03) == "supported"
    assert d.within(-0.01, 0.03) == "mixed"
    assert d.within(-0.03, 0.01) == "mixed"
    assert d.within(0.03) == "contradicted"
    assert d.within(-0.09, -0.03) == "contradicted"


def test_parts_of_a_claim_stand_together_or_are_mixed() -> None:
    assert together("contradicted") == "contradicted"
    assert together("supported", "supported", "mixed") == "mixed"
    assert together("mixed", "mixed") == "mixed"
    parts = {"a": Difference(0.2, 0.1, 0.3, 9), "b": Difference(0.1, 0.05, 0.2, 9)}
    assert together("supported", *parts.values()) == "supported"
    assert weakest(parts) is parts["b"]
    assert listed(parts).startswith("a +0.200 [+0.100, +0.300], n = 9; b +0.100 [")
