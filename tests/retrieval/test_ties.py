from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from cbir_lite.retrieval import DENOMINATORS, tie_aware_ap
from cbir_lite.retrieval.ties import expected_sums, harmonic_difference

from .twins import enumerated_ap, histogram

rankings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(rankings)
def test_expectation_and_bounds_equal_the_enumeration_of_tie_orders(
    ranking: list[tuple[int, int]],
) -> None:
    distances, hits = [d for d, _ in ranking], [h for _, h in ranking]
    items, relevant = histogram(distances, hits, 4)
    cutoffs = list(range(len(ranking), 0, -1))
    results = tie_aware_ap(items, relevant, cutoffs)
    for i, k in enumerate(cutoffs):
        for j, denominator in enumerate(DENOMINATORS):
            expected = enumerated_ap(distances, hits, k, denominator)
            found = [float(result[0, i, j]) for result in results]
            assert found == pytest.approx([float(value) for value in expected], abs=1e-13)


@pytest.mark.parametrize("k", range(1, 9))
def test_one_large_tie_group_equals_the_enumeration(k: int) -> None:
    distances, hits = [0, 1, 1, 1, 1, 1, 1, 2], [1, 1, 0, 1, 0, 0, 1, 1]
    results = tie_aware_ap(*histogram(distances, hits, 3), [k])
    for j, denominator in enumerate(DENOMINATORS):
        expected = enumerated_ap(distances, hits, k, denominator)
        found = [float(result[0, 0, j]) for result in results]
        assert found == pytest.approx([float(value) for value in expected], abs=1e-13)


def test_a_hand_worked_tie() -> None:
    # One relevant item first, then a relevant and an irrelevant one tied: 1 and 2/2, or 1 and 2/3.
    expected, low, high = tie_aware_ap(np.array([[1, 2]]), np.array([[1, 1]]), [3, 2])
    assert expected[0, 0] == pytest.approx(11 / 12)
    assert low[0, 0] == pytest.approx(5 / 6)
    assert high[0, 0] == pytest.approx(1)
    # At k = 2 the tie is cut: 2 of 2 found (AP 1), or 1 found (1 by "found", 1/2 by the others).
    assert expected[0, 1] == pytest.approx([1, 0.75, 0.75])


def test_finding_more_can_lower_ap_by_found_and_the_bounds_know() -> None:
    # Relevant at rank 1, then 98 irrelevant, then a cut tie of a relevant and an irrelevant item.
    items, relevant = np.array([[1, 98, 2]]), np.array([[1, 0, 1]])
    _, low, high = tie_aware_ap(items, relevant, [100])
    assert high[0, 0, 0] == pytest.approx(1)
    assert low[0, 0, 0] == pytest.approx((1 + 2 / 100) / 2)


def _found_by_scipy(before: int, found: int, n: int, r: int, m: int, earlier: float) -> float:
    harmonic = sum(1 / (before + i) for i in range(1, m + 1))
    total = 0.0
    for j in range(max(0, m - (n - r)), min(m, r) + 1):
        pairs = (j - 1) / (m - 1) if m > 1 else 0
        inside = j / m * ((found + 1) * harmonic + pairs * (m - (before + 1) * harmonic))
        if found + j:
            total += hypergeom.pmf(j, n, r, m) * (earlier + inside) / (found + j)
    return total


@pytest.mark.parametrize(
    ("before", "n", "r", "m"),
    [(0, 3000, 300, 1000), (500, 40000, 4000, 4500), (7, 900, 880, 450), (1000, 20000, 3, 10000)],
)
def test_a_cut_through_a_large_tie_equals_the_sum_over_scipys_hypergeometric(
    before: int, n: int, r: int, m: int
) -> None:
    # All items of the first group relevant, so its sum of precisions is its size.
    items, relevant = np.array([[before, n]]), np.array([[before, r]])
    expected, _, _ = tie_aware_ap(items, relevant, [before + m])
    reference = _found_by_scipy(before, before, n, r, m, float(before))
    assert expected[0, 0, 0] == pytest.approx(reference, rel=1e-10)


def test_huge_ties_stay_finite_and_ordered() -> None:
    items = np.array([[10, 10**9, 5]])
    relevant = np.array([[0, 10**8, 5]])
    expected, low, high = tie_aware_ap(items, relevant, [5 * 10**5, 10**9])
    assert (low <= expected).all()
    assert (expected <= high).all()
    # In a tie this large the precision at every rank is the share of relevant items.
    assert expected[0, 1, 0] == pytest.approx(0.1, rel=1e-5)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_harmonic_difference_is_exact(start: int, count: int) -> None:
    exact = sum(1 / np.longdouble(start + i) for i in range(1, count + 1))
    assert harmonic_difference(start, count) == pytest.approx(float(exact), rel=4e-15)


def test_harmonic_difference_keeps_its_digits_far_out() -> None:
    exact = float(sum(Fraction(1, 10**9 + i) for i in range(1, 30)))
    assert harmonic_difference(10**9, 29) == pytest.approx(exact, rel=1e-15)


def test_empty_groups_and_the_order_of_cutoffs_change_nothing() -> None:
    items, relevant = np.array([[3, 4, 2]]), np.array([[1, 2, 2]])
    spread = [np.array([[0, 3, 0, 4, 2, 0]]), np.array([[0, 1, 0, 2, 2, 0]])]
    for one, other in zip(
        tie_aware_ap(items, relevant, [2, 5, 9]), tie_aware_ap(*spread, [5, 9, 2]), strict=True
    ):
        np.testing.assert_array_equal(one, other[:, [2, 0, 1]])


def test_no_relevant_item_gives_zero() -> None:
    for values in tie_aware_ap(np.array([[3, 4]]), np.array([[0, 0]]), [2, 7]):
        assert (values == 0).all()


@pytest.mark.parametrize("k", [0, 8])
def test_cutoffs_outside_the_ranking_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"within 1\.\.7"):
        tie_aware_ap(np.array([[3, 4]]), np.array([[1, 1]]), [k])


def test_expected_sums_by_hand() -> None:
    # Values 1 | {0, 1} with weights 3, 2, 1: 3, then 3 + 2 * 1/2, then 3 + 3 * 1/2.
    out = expected_sums(
        np.array([[1, 2]]), np.array([[1, 1]]), np.array([0.0, 3.0, 5.0, 6.0]), [3, 1, 2]
    )
    assert out.tolist() == [[4.5, 3.0, 4.0]]
