import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir_lite.retrieval import evaluate_codes, evaluate_distances, hamming_distances

from .twins import enumerated_ap, random_codes, random_multi_hot, tie_orders

MEASURES = ("ndcg", "acg", "wap")


def _dcg(gains: list[int], k: int) -> float:
    return sum((2**s - 1) / math.log2(1 + i) for i, s in enumerate(gains[:k], start=1))


def _labels_sharing(gains: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of one query (three classes) and of items that share the given numbers of labels."""
    items = np.array([[i < gain for i in range(3)] + [True] for gain in gains], np.uint8)
    return np.array([[1, 1, 1, 0]], np.uint8), items


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6))
def test_expectations_equal_the_enumeration_of_tie_orders(ranking: list[tuple[int, int]]) -> None:
    distances, gains = [d for d, _ in ranking], [s for _, s in ranking]
    query_labels, labels = _labels_sharing(gains)
    cutoffs = tuple(range(1, len(ranking) + 1))
    codes = np.array([[-1] * d + [1] * (3 - d) for d in distances], np.int8)
    results = [
        evaluate_codes(
            np.ones((1, 3), np.int8), codes, query_labels, labels, cutoffs,
            graded=True, no_relevant="zero",
        ),
        evaluate_distances(
            np.array([distances], float), query_labels, labels, cutoffs,
            graded=True, no_relevant="zero",
        ),
    ]  # fmt: skip
    orders = [[int(s) for s in order] for order in tie_orders(distances, gains)]
    for k in cutoffs:
        ideal = _dcg(sorted(gains, reverse=True), k)
        expected = {
            "ndcg": np.mean([_dcg(order, k) for order in orders]) / ideal if ideal else 0,
            "acg": float(sum(Fraction(sum(order[:k]), k) for order in orders) / len(orders)),
            "wap": float(enumerated_ap(distances, gains, k, "found")[0]),
        }
        for result in results:
            for measure in MEASURES:
                value = result.graded[measure][k][0]
                assert value == pytest.approx(expected[measure], abs=1e-12)


def test_a_hand_worked_ranking() -> None:
    query_labels, labels = _labels_sharing([2, 0, 3])
    result = evaluate_distances(
        np.array([[1.0, 2.0, 3.0]]), query_labels, labels, (3,), graded=True
    )
    assert result.graded["acg"][3] == pytest.approx([5 / 3])
    assert result.graded["wap"][3] == pytest.approx([(2 + 5 / 3) / 2])
    ideal = 7 + 3 / math.log2(3)
    assert result.graded["ndcg"][3] == pytest.approx([(3 + 7 / 2) / ideal])


def test_with_one_label_each_wap_is_ap_and_acg_is_precision() -> None:
    rng = np.random.default_rng(3)
    codes, labels = random_codes(rng, 300, 12), rng.integers(0, 100, 300)
    result = evaluate_codes(codes[:290], codes, labels[:290], labels, (20, None), graded=True)
    for k in (20, None):
        np.testing.assert_allclose(result.graded["wap"][k], result.ap[k, "found"], rtol=1e-12)
        np.testing.assert_allclose(result.graded["acg"][k], result.precision[k], rtol=1e-12)


def test_both_paths_agree_over_several_blocks_and_a_perfect_ranking_has_ndcg_one() -> None:
    rng = np.random.default_rng(4)
    queries, database = random_codes(rng, 300, 20), random_codes(rng, 80, 20)
    query_labels, labels = random_multi_hot(rng, 300, 9, 0.3), random_multi_hot(rng, 80, 9, 0.3)
    labels[0] = 1
    one = evaluate_codes(queries, database, query_labels, labels, (10, 80), graded=True)
    other = evaluate_distances(
        hamming_distances(queries, database), query_labels, labels, (10, 80), graded=True
    )
    plain = evaluate_codes(queries, database, query_labels, labels, (10, 80))
    for measure in MEASURES:
        for k in (10, 80):
            np.testing.assert_allclose(one.graded[measure][k], other.graded[measure][k], rtol=1e-10)
    assert plain.graded == {}
    columns = one.columns()
    assert {name: columns[name] for name in plain.columns()} == pytest.approx(plain.columns())
    shared = query_labels.astype(float) @ labels.T
    perfect = evaluate_distances(-shared, query_labels, labels, (10, 80), graded=True)
    np.testing.assert_allclose(perfect.graded["ndcg"][10], 1, rtol=1e-12)
