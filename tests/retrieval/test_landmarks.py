"""Trapezoidal AP and mP@k without junk: by hand, by a walk along every order of ties, by limits."""

from fractions import Fraction
from itertools import groupby, permutations, product

import numpy as np
import pytest

from cbir_lite.retrieval.landmarks import as_distances, landmark_scores, revisited_scores


def walk(ranking, positive, junk):
    """AP as a walk down the list: the area gained with each item, from the last two points."""
    old_recall, old_precision, area = Fraction(0), Fraction(1), Fraction(0)
    seen = found = 0
    for item in ranking:
        if item in junk:
            continue
        seen += 1
        found += item in positive
        recall, precision = Fraction(found, len(positive)), Fraction(found, seen)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def precision_at(ranking, positive, junk, k):
    """Positives of the first k, where the list ends with the last positive."""
    kept = [item for item in ranking if item not in junk]
    end = max(kept.index(item) for item in positive) + 1
    first = kept[: min(k, end)]
    return Fraction(sum(item in positive for item in first), len(first))


def orders(distances):
    """Every ranking that sorts the distances."""
    ranked = sorted(range(len(distances)), key=lambda i: distances[i])
    groups = [list(g) for _, g in groupby(ranked, key=lambda i: distances[i])]
    for order in product(*(permutations(g) for g in groups)):
        yield [i for group in order for i in group]


def test_worked_by_hand():
    # Ranking 4 0 3 1 2: positive 4 and 1, junk 0. Without junk: 4 3 1 2, positives at 1 and 3.
    # First: (1 + 1) / 2. Second: (1/2 + 2/3) / 2. Mean of the two: 19/24.
    scores = landmark_scores(as_distances([[4, 0, 3, 1, 2]]), [[4, 1]], [[0]], (1, 2, 3, 4))
    assert scores.ap == pytest.approx([19 / 24])
    assert {k: float(v[0]) for k, v in scores.precision.items()} == pytest.approx(
        {1: 1.0, 2: 0.5, 3: 2 / 3, 4: 2 / 3}
    )


def test_a_positive_that_is_found_at_once_ends_the_list():
    scores = landmark_scores([[0.1, 0.2, 0.3]], [[0]], cutoffs=(1, 10))
    assert scores.mean_ap == 1
    assert scores.mean_precision(10) == 1
    # Last of three: precision 0 before, 1/3 with it.
    assert landmark_scores([[0.1, 0.2, 0.3]], [[2]]).mean_ap == pytest.approx(1 / 6)


@pytest.mark.parametrize("seed", range(12))
def test_rankings_equal_a_naive_walk(seed):
    rng = np.random.default_rng(seed)
    n = 30
    rankings = np.stack([rng.permutation(n) for _ in range(4)])
    kinds = rng.choice(3, (4, n), p=(0.6, 0.25, 0.15))
    positive, junk = ([np.flatnonzero(row == k) for row in kinds] for k in (1, 2))
    scores = landmark_scores(as_distances(rankings), positive, junk)
    for i, ranking in enumerate(rankings.tolist()):
        wanted, left_out = set(positive[i].tolist()), set(junk[i].tolist())
        assert scores.ap[i] == pytest.approx(float(walk(ranking, wanted, left_out)), abs=1e-12)
        for k in (1, 5, 10):
            expected = float(precision_at(ranking, wanted, left_out, k))
            assert scores.precision[k][i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_ties_are_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(100 + seed)
    distances = rng.integers(0, 3, 8)
    kinds = rng.choice(3, 8, p=(0.45, 0.4, 0.15))
    kinds[0] = 1
    positive, junk = (np.flatnonzero(kinds == k) for k in (1, 2))
    cutoffs = (1, 2, 3, 5, 7)
    scores = landmark_scores([distances], [positive], [junk], cutoffs)
    rankings = list(orders(distances.tolist()))
    sets = set(positive.tolist()), set(junk.tolist())
    mean = sum(walk(r, *sets) for r in rankings) / len(rankings)
    assert scores.ap[0] == pytest.approx(float(mean), abs=1e-12)
    for k in cutoffs:
        mean = sum(precision_at(r, *sets, k) for r in rankings) / len(rankings)
        assert scores.precision[k][0] == pytest.approx(float(mean), abs=1e-12)


def test_the_three_set_ups():
    # Ranking: hard, junk, easy, nothing, hard.
    distances = [[1.0, 2.0, 3.0, 4.0, 5.0]]
    found = revisited_scores(distances, [[2]], [[0, 4]], [[1]])
    assert found["easy"].ap[0] == 1  # everything before it is left out
    ranks = {"medium": [0, 1, 3], "hard": [0, 2]}
    for name, places in ranks.items():
        areas = [((j / r if r else 1) + (j + 1) / (r + 1)) / 2 for j, r in enumerate(places)]
        assert found[name].ap[0] == pytest.approx(np.mean(areas)), name
    assert found["medium"].mean_precision(5) == pytest.approx(3 / 4)
    assert found["hard"].mean_precision(1) == 1


def test_queries_that_have_nothing_to_find_do_not_count():
    scores = landmark_scores([[1.0, 2.0], [1.0, 2.0]], [[], [1]], [[0], []])
    assert np.isnan(scores.ap[0])
    assert np.isnan(scores.precision[1][0])
    assert scores.mean_ap == pytest.approx(0.25)  # (0 + 1/2) / 2
    assert scores.mean_precision(5) == pytest.approx(0.5)


def test_junk_moves_nothing():
    rng = np.random.default_rng(7)
    distances = rng.random((3, 40))
    positive = [rng.choice(20, 6, replace=False) for _ in range(3)]
    junk = [rng.choice(np.arange(20, 40), 9, replace=False) for _ in range(3)]
    first = landmark_scores(distances, positive, junk)
    moved = distances.copy()
    for i, rows in enumerate(junk):
        moved[i, rows] = rng.random(len(rows)) * 2 - 0.5
    assert landmark_scores(moved, positive, junk).ap == pytest.approx(first.ap)
    assert not np.allclose(landmark_scores(moved, positive).ap, first.ap)


def test_random_order_gives_the_share_of_positives_in_the_long_run():
    n = 4000
    scores = landmark_scores(np.zeros((1, n)), [np.arange(n // 5)])
    assert scores.mean_ap == pytest.approx(0.2, abs=0.01)
    assert scores.mean_precision(10) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[np.nan, 1.0]], [[0]]), "query 0 is NaN"),
        (([1.0, 2.0], [[0]]), r"\(queries, items\), got \(2,\)"),
        (([[1.0, 2.0]], [[2]]), "query 0: items 2..2 of a database of 2"),
        (([[1.0, 2.0]], [[-1]]), "items -1..-1"),
        (([[1.0, 2.0]], [[1]], [[1]]), "item 1 is both positive and junk"),
        (([[1.0, 2.0]], [[1], [0]]), "2 lists of positive items for 1 queries"),
        (([[1.0, 2.0]], [[1]], [[], []]), "2 lists of junk items for 1 queries"),
        (([[1.0, 2.0]], [[1]], None, (0,)), "at least 1"),
        (([[1.0, 2.0]], [[]]), "nothing to score"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        landmark_scores(*arguments)


def test_rankings_are_complete():
    with pytest.raises(ValueError, match="every item of the database once"):
        as_distances([[0, 1, 1]])
    assert as_distances([[2, 0, 1], [0, 1, 2]]).tolist() == [[1, 2, 0], [0, 1, 2]]
