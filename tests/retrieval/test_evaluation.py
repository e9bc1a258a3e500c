from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir_lite.retrieval import (
    DENOMINATORS,
    Evaluation,
    cosine_distances,
    cutoffs_within,
    distance_blocks,
    evaluate_codes,
    evaluate_distances,
    hamming_distance_blocks,
    hamming_distances,
    l2_distances,
    pack,
    stable_sort_ap,
)

from .twins import average_precision, enumerated_ap, random_codes, random_multi_hot

seeds = st.integers(0, 2**32 - 1)


def _same(one: Evaluation, other: Evaluation) -> None:
    for table in ("ap", "ap_low", "ap_high", "precision", "recall", "f_score"):
        first, second = getattr(one, table), getattr(other, table)
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_allclose(first[key], second[key], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        one.curve_by_rank.precision, other.curve_by_rank.precision, rtol=1e-12
    )


@pytest.mark.parametrize("bits", [3, 12, 24, 48, 128])
def test_codes_and_their_distances_score_the_same(bits: int) -> None:
    rng = np.random.default_rng(bits)
    queries, database = random_codes(rng, 6, bits), random_codes(rng, 90, bits)
    query_labels, labels = random_multi_hot(rng, 6, 70, 0.05), random_multi_hot(rng, 90, 70, 0.05)
    labels[0] = 1
    cutoffs = (7, 50, None, 90)
    by_codes = evaluate_codes(queries, pack(database), query_labels, labels, cutoffs)
    for distances in (
        hamming_distances(queries, database).astype(np.float32),
        list(hamming_distance_blocks(queries, database, block=4)),
        distance_blocks(queries, database, cosine_distances, block=4),
        distance_blocks(queries.astype(float), database, "l2"),
        distance_blocks(queries, database, lambda q, d: -(q.astype(int) @ d.T), block=5),
    ):
        _same(by_codes, evaluate_distances(distances, query_labels, labels, cutoffs))


def test_per_query_values_equal_the_enumeration() -> None:
    query = np.array([[1, 1, 1]], np.int8)
    database = np.array(
        [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, -1, -1], [-1, -1, 1]], np.int8
    )
    labels = np.array([4, 2, 4, 4, 4, 2])
    result = evaluate_codes(query, database, [4], labels, (1, 2, 3, 5, None), radii=(0, 1))
    distances, hits = [0, 1, 1, 1, 3, 2], [1, 0, 1, 1, 1, 0]
    for k in result.cutoffs:
        for denominator in DENOMINATORS:
            expected = enumerated_ap(distances, hits, k or 6, denominator)
            found = (result.mean_ap(k, denominator), *result.interval(k, denominator))
            assert found == pytest.approx([float(value) for value in expected])
    assert result.precision_within[0].tolist() == [1.0]
    assert result.precision_within[1] == pytest.approx([3 / 4])
    # At k = 2: the first item, and one of three tied items of which two are relevant.
    assert result.precision[2] == pytest.approx([(1 + 2 / 3) / 2])
    assert result.recall[2] == pytest.approx([(1 + 2 / 3) / 4])
    assert result.f_score[2] == pytest.approx([2 * (1 + 2 / 3) / (2 + 4)])
    assert result.n_relevant.tolist() == [4]


def test_an_empty_ball_has_precision_zero() -> None:
    codes = np.ones((2, 8), np.int8)
    result = evaluate_codes(np.stack([codes[0], -codes[0]]), codes, [0, 0], [0, 0], (None,))
    assert result.precision_within[2].tolist() == [1.0, 0.0]
    assert result.columns()["precision_radius_2"] == 0.5


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 40))
def test_low_expected_high_are_ordered_and_denominators_too(seed: int, bits: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    queries, database = random_codes(rng, 3, bits), random_codes(rng, n, bits)
    query_labels, labels = rng.integers(0, 3, 3), rng.integers(0, 3, n)
    cutoffs = (int(rng.integers(1, n + 1)), n, None)
    result = evaluate_codes(
        queries, database, query_labels, labels, cutoffs, no_relevant="zero", radii=(0,)
    )
    for key, values in result.ap.items():
        assert (result.ap_low[key] <= values + 1e-12).all()
        assert (values <= result.ap_high[key] + 1e-12).all()
        assert (result.ap_high[key] <= 1 + 1e-12).all()
    for k in result.cutoffs:
        assert (result.ap[k, "all"] <= result.ap[k, "min"] + 1e-12).all()
        assert (result.ap[k, "min"] <= result.ap[k, "found"] + 1e-12).all()
    for denominator in DENOMINATORS:
        np.testing.assert_array_equal(result.ap[n, denominator], result.ap[None, "all"])


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_order_of_the_database_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, database = random_codes(rng, 3, 6), random_codes(rng, 30, 6)
    query_labels, labels = [0, 1, 2], np.arange(30) % 3
    order = rng.permutation(30)
    one = evaluate_codes(queries, database, query_labels, labels, (10, None))
    _same(one, evaluate_codes(queries, database[order], query_labels, labels[order], (10, None)))
    distances = l2_distances(queries, database)
    _same(
        evaluate_distances(distances, query_labels, labels, (10, None)),
        evaluate_distances(distances[:, order], query_labels, labels[order], (10, None)),
    )


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 30))
def test_swapping_a_relevant_item_forward_raises_ap(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    hits = rng.random(n) < 0.5
    hits[:2] = True, False
    rng.shuffle(hits)
    behind = rng.choice(np.flatnonzero(hits))
    ahead = rng.choice(np.flatnonzero(~hits))
    better = hits.copy()
    better[[ahead, behind]] = ahead < behind, ahead > behind
    ranks = np.arange(n, dtype=float)[None]
    aps = [
        evaluate_distances(ranks, [1], order.astype(int), (None,)).mean_ap()
        for order in (hits, better)
    ]
    if ahead < behind:
        assert aps[1] > aps[0]
    else:
        assert aps[1] == aps[0]


def test_a_perfect_ranking_scores_one_and_the_reverse_does_not() -> None:
    labels = np.array([5] * 4 + [6] * 16)
    ranks = np.arange(20.0)[None]
    perfect = evaluate_distances(ranks, [5], labels, (2, 4, 10, None))
    assert perfect.ap[2, "all"].tolist() == [0.5]
    for key in [(2, "found"), (2, "min"), (4, "all"), (10, "all"), (None, "found")]:
        assert perfect.ap[key].tolist() == [1.0]
    reverse = evaluate_distances(-ranks, [5], labels, (10, None))
    assert reverse.ap[10, "found"].tolist() == [0.0]
    assert reverse.mean_ap() == pytest.approx(np.mean([1 / 17, 2 / 18, 3 / 19, 4 / 20]))
    assert reverse.interval() == (reverse.mean_ap(), reverse.mean_ap())


def test_total_collapse_scores_the_share_of_relevant_items() -> None:
    codes = np.ones((400, 16), np.int8)
    labels = np.arange(400) % 4
    result = evaluate_codes(codes[:5], codes, labels[:5], labels, (100, None))
    assert result.columns()["precision_100"] == pytest.approx(0.25)
    # Sort order reads off the file layout instead: 1 if the class comes first.
    by_class = np.sort(labels)
    sorted_ap = stable_sort_ap(hamming_distances(codes[:1], codes), [0], by_class, (100, None))
    assert sorted_ap[100, "found"].tolist() == [1.0]
    assert result.interval(100)[1] == pytest.approx(1)
    assert result.interval(100)[0] == 0
    assert 0.25 < result.mean_ap() < 0.27


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_stable_sort_ap_is_the_definition_on_the_sorted_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, database = random_codes(rng, 3, 5), random_codes(rng, 25, 5)
    query_labels, labels = rng.integers(0, 3, 3), rng.integers(0, 3, 25)
    distances = hamming_distances(queries, database)
    results = [
        stable_sort_ap(blocks, query_labels, labels, (None, 4, 11))
        for blocks in (
            hamming_distance_blocks(queries, database, block=2),
            distances.astype(float),
        )
    ]
    for result in results:
        for (k, denominator), values in result.items():
            for i in range(3):
                hits = (labels == query_labels[i]).astype(int)
                ranked = hits[np.argsort(distances[i], kind="stable")].tolist()
                expected = average_precision(ranked, k or 25, denominator, sum(ranked))
                assert values[i] == pytest.approx(float(expected))


def test_stable_sort_ap_refuses_rows_that_do_not_fit_the_labels() -> None:
    labels = np.zeros(4, np.int64)
    distances = np.ones((3, 4), np.int16)
    for blocks, queries, message in [
        (distances, 2, r"\(2, 4\) in all; got a block \(3, 4\)"),
        (distances[:, :3], 3, r"\(3, 4\) in all"),
        ([distances[:1]], 3, "1 rows of distances for 3 rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            stable_sort_ap(blocks, np.zeros(queries, np.int64), labels, (None,))


def test_cutoffs_beyond_the_database_are_never_reported() -> None:
    codes, labels = np.ones((30, 8), np.int8), np.zeros(30, np.int64)
    with pytest.raises(ValueError, match="cut-off 1000 is beyond the 30 items"):
        evaluate_codes(codes, codes, labels, labels)
    assert cutoffs_within(30) == (None,)
    assert cutoffs_within(5000) == (1000, 5000, None)
    clipped = evaluate_codes(codes, codes, labels, labels, (10, 54000), clip=True)
    assert clipped.cutoffs == (10, None)
    assert not [name for name in clipped.columns() if "54000" in name]
    with pytest.raises(KeyError, match="no AP at cut-off 54000"):
        clipped.mean_ap(54000)


@pytest.mark.parametrize("cutoffs", [(0,), (-3,), (2.5,), (True,), ()])
def test_cutoffs_are_validated(cutoffs: tuple[int, ...]) -> None:
    codes, labels = np.ones((30, 8), np.int8), np.zeros(30, np.int64)
    with pytest.raises(ValueError, match="cut-off"):
        evaluate_codes(codes, codes, labels, labels, cutoffs)


def test_queries_without_a_relevant_item() -> None:
    rng = np.random.default_rng(1)
    queries, database = random_codes(rng, 4, 8), random_codes(rng, 20, 8)
    query_labels, labels = [0, 7, 1, 7], np.arange(20) % 2
    score: list[Callable[[str], Evaluation]] = [
        lambda policy: evaluate_codes(
            queries, database, query_labels, labels, (5, None), no_relevant=policy
        ),
        lambda policy: evaluate_distances(
            l2_distances(queries, database), query_labels, labels, (5, None), no_relevant=policy
        ),
    ]
    for run in score:
        with pytest.raises(ValueError, match=r"2 of 4 queries .*first: \[1, 3\]"):
            run("error")
        zero, skip = run("zero"), run("skip")
        assert zero.ap[5, "found"][[1, 3]].tolist() == [0, 0]
        assert skip.queries.tolist() == [0, 2]
        assert zero.mean_ap() == pytest.approx(skip.mean_ap() / 2)
        with pytest.raises(ValueError, match="'error', 'zero' or 'skip'"):
            run("drop")
    with pytest.raises(ValueError, match="no query has a relevant item"):
        evaluate_codes(queries, database, [7] * 4, labels, (5,), no_relevant="skip")


def test_bad_distances_are_refused() -> None:
    labels = np.zeros(6, np.int64)
    distances = np.ones((3, 6))
    for blocks, message in [
        (distances[:2], "2 rows of distances for 3 rows"),
        (np.ones((4, 6)), "more rows of distances than the 3"),
        (np.ones((3, 5)), r"\(queries, 6\)"),
        (np.ones(6), r"\(queries, 6\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate_distances(blocks, labels[:3], labels, (None,))
    distances[2, 1] = np.nan
    with pytest.raises(ValueError, match="distance of query 2 is NaN"):
        evaluate_distances([distances[:2], distances[2:]], labels[:3], labels, (None,))
    with pytest.raises(TypeError, match="complex"):
        evaluate_distances(distances.astype(complex), labels[:3], labels, (None,))
    codes = np.ones((6, 8), np.int8)
    with pytest.raises(ValueError, match="radius 9 is outside"):
        evaluate_codes(codes, codes, labels, labels, (None,), radii=(9,))


def test_infinite_distances_rank_last() -> None:
    distances = np.array([[np.inf, 1, np.inf, -np.inf]])
    result = evaluate_distances(distances, [1], [1, 0, 0, 1], (None,))
    assert result.mean_ap() == pytest.approx((1 + (2 / 3 + 2 / 4) / 2) / 2)


def test_columns_name_what_a_record_holds() -> None:
    rng = np.random.default_rng(2)
    codes, labels = random_codes(rng, 40, 16), rng.integers(0, 4, 40)
    result = evaluate_codes(codes[:8], codes, labels[:8], labels, (10, None), graded=True)
    columns = result.columns()
    expected = {f"map_10_{d}{end}" for d in DENOMINATORS for end in ("", "_low", "_high")}
    expected |= {"map_all", "map_all_low", "map_all_high", "precision_10", "recall_10", "f_10"}
    expected |= {f"{m}_{k}" for m in ("ndcg", "acg", "wap") for k in ("10", "all")}
    assert set(columns) == expected | {"precision_radius_2"}
    assert columns["map_10_min"] == pytest.approx(result.ap[10, "min"].mean())
    assert columns["map_all"] == result.mean_ap()


def test_curves() -> None:
    query = np.ones((2, 4), np.int8)
    database = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]], np.int8)
    result = evaluate_codes(query, database, [0, 1], [0, 1, 0], (None,))
    curve = result.curve_by_radius
    assert curve is not None
    assert curve.precision.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 1])
    ranks = result.curve_by_rank
    assert ranks.at.tolist() == [1, 2, 3]
    assert ranks.precision.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert ranks.recall.tolist() == pytest.approx([(1 / 2 + 0) / 2, (1 / 2 + 1) / 2, 1])
    far = evaluate_codes(-query, database[:2], [0, 1], [0, 1], (None,)).curve_by_radius
    assert far is not None
    assert np.isnan(far.precision[:3]).all()
