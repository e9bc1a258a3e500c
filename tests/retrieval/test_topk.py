import numpy as np
import pytest

from cbir_lite.retrieval import (
    cosine_distances,
    distance_blocks,
    hamming_distances,
    l2_distances,
    pack,
    top_k,
)

from .twins import random_codes


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("bits", [4, 130])
def test_codes_nearest_first_ties_by_index(k: int, bits: int) -> None:
    rng = np.random.default_rng(k)
    queries, database = random_codes(rng, 9, bits), random_codes(rng, 40, bits)
    expected = hamming_distances(queries, database)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    for pair in ((queries, database), (pack(queries), pack(database))):
        indices, distances = top_k(*pair, k)
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, axis=1))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_vectors_nearest_first_ties_by_index(metric: str) -> None:
    rng = np.random.default_rng(0)
    queries, database = rng.integers(-2, 3, (6, 3)), rng.integers(-2, 3, (50, 3))
    function = {"cosine": cosine_distances, "l2": l2_distances}[metric]
    order = np.argsort(function(queries, database), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(top_k(queries, database, 7, metric)[0], order)
    np.testing.assert_array_equal(top_k(queries, database, 7, function)[0], order)
    if metric == "cosine":
        np.testing.assert_array_equal(top_k(queries, database, 7)[0], order)


def test_distances_by_definition() -> None:
    rng = np.random.default_rng(5)
    queries, database = rng.standard_normal((4, 6)), rng.standard_normal((11, 6))
    gaps = queries[:, None] - database[None]
    np.testing.assert_allclose(
        l2_distances(queries, database), np.sqrt((gaps**2).sum(axis=2)), rtol=1e-10
    )
    for i, query in enumerate(queries):
        for j, item in enumerate(database):
            cosine = query @ item / (np.linalg.norm(query) * np.linalg.norm(item))
            assert cosine_distances(queries, database)[i, j] == pytest.approx(1 - cosine)
    assert cosine_distances(queries.astype(np.float32), database.astype(np.float32)).dtype == (
        np.float32
    )
    assert cosine_distances([[0.0, 0.0]], [[1.0, 2.0]]).tolist() == [[1.0]]
    blocks = list(distance_blocks(queries, database, "l2", block=3))
    np.testing.assert_array_equal([len(block) for block in blocks], [3, 1])


def test_bad_requests_are_refused() -> None:
    vectors = np.ones((3, 2))
    codes = np.ones((3, 8), np.int8)
    for arguments, message in [
        ((vectors, vectors, 4), r"within 1\.\.3"),
        ((vectors, vectors, 0), r"within 1\.\.3"),
        ((vectors[:0], vectors, 1), "no query"),
        ((vectors, vectors, 1, "manhattan"), "unknown distance 'manhattan'"),
        ((codes, codes, 1, "l2"), "ranked by Hamming distance"),
        ((vectors * np.nan, vectors, 1, "l2"), "distance of query 0 is NaN"),
        ((vectors, np.ones((3, 4)), 1), r"\(3, 2\) and \(3, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_k(*arguments)  # type: ignore[arg-type]
