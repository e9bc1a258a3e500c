import numpy as np
import pytest

from cbir_lite.retrieval import (
    hamming_distance_blocks,
    hamming_distances,
    hamming_histograms,
    pack,
)
from cbir_lite.retrieval.hamming import shared_label_histograms
from cbir_lite.retrieval.labels import MAX_CLASS_ID, pair_labels

from .twins import hamming_matrix, random_codes, random_multi_hot

BITS = [1, 12, 24, 48, 64, 65, 128, 200]


@pytest.mark.parametrize("bits", BITS)
def test_distances_match_comparing_every_bit(bits: int) -> None:
    rng = np.random.default_rng(bits)
    queries, gallery = random_codes(rng, 7, bits), random_codes(rng, 33, bits)
    expected = hamming_matrix(queries, gallery)
    np.testing.assert_array_equal(hamming_distances(queries, gallery), expected)
    blocks = list(hamming_distance_blocks(pack(queries), pack(gallery), block=3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("classes", [1, 10, 64, 81])
@pytest.mark.parametrize("share", [0.0, 0.15])
def test_histograms_match_a_plain_count(bits: int, classes: int, share: float) -> None:
    rng = np.random.default_rng(bits * classes)
    queries, gallery = random_codes(rng, 5, bits), random_codes(rng, 60, bits)
    query_labels = random_multi_hot(rng, 5, classes, share)
    labels = random_multi_hot(rng, 60, classes, share)
    distances = hamming_matrix(queries, gallery)
    shared = query_labels.astype(int) @ labels.T
    items, relevant = hamming_histograms(queries, gallery, query_labels, labels)
    graded = shared_label_histograms(queries, gallery, query_labels, labels)
    for i in range(5):
        for d in range(bits + 1):
            assert items[i, d] == (distances[i] == d).sum()
            assert relevant[i, d] == ((distances[i] == d) & (shared[i] > 0)).sum()
            for s in range(graded.shape[2]):
                assert graded[i, d, s] == ((distances[i] == d) & (shared[i] == s)).sum()
    assert graded.sum() == items.sum() == 5 * 60


@pytest.mark.parametrize("classes", [3, 64, 65, 1000])
def test_class_ids_and_one_hot_labels_mean_the_same(classes: int) -> None:
    rng = np.random.default_rng(classes)
    codes = random_codes(rng, 50, 16)
    ids = rng.integers(0, classes, 50)
    ids[10:20] = ids[:10]
    one_hot = np.eye(classes, dtype=np.uint8)[ids]
    results = [
        hamming_histograms(codes[:9], codes[9:], first, second)
        for first in (ids[:9], one_hot[:9], one_hot[:9].astype(bool))
        for second in (ids[9:], one_hot[9:])
    ]
    expected = (ids[:9, None] == ids[None, 9:]).sum(axis=1)
    for items, relevant in results:
        np.testing.assert_array_equal(items, results[0][0])
        np.testing.assert_array_equal(relevant, results[0][1])
        np.testing.assert_array_equal(relevant.sum(axis=1), expected)


def test_an_item_without_labels_is_relevant_to_nobody() -> None:
    labels = np.zeros((3, 80), np.uint8)
    labels[1, 7] = 1
    codes = np.ones((3, 8), np.int8)
    _, relevant = hamming_histograms(codes, codes, labels, labels)
    assert relevant.sum(axis=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        ([0, -2], [0], "class id -2 of item 1"),
        ([0], [0, MAX_CLASS_ID + 1], f"class id {MAX_CLASS_ID + 1} of item 1"),
        ([0.5], [0], "float64"),
        ([], [0], r"\(0,\)"),
        (np.array([[0, 2]], np.uint8), [0], "found 2 at item 0, class 1"),
        (np.ones((1, 3), np.int64), [0], "int64"),
        (np.ones((1, 3), np.uint8), np.ones((1, 4), np.uint8), "3 classes, database_labels 4"),
        (np.ones((1, 3), np.uint8), [3], "class id 3 is outside the 3 classes"),
    ],
)
def test_labels_are_validated(query: object, database: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_labels(query, database)  # type: ignore[arg-type]


def test_codes_and_labels_must_fit() -> None:
    codes = np.ones((3, 8), np.int8)
    with pytest.raises(ValueError, match="8 bits, database codes 9"):
        hamming_distances(codes, np.ones((3, 9), np.int8))
    with pytest.raises(ValueError, match="0 database items"):
        hamming_distances(codes, codes[:0])
    with pytest.raises(ValueError, match="40000 bits: beyond"):
        hamming_distances(*(np.ones((1, 40000), np.int8),) * 2)
    with pytest.raises(ValueError, match="3 query items but 2 rows of query_labels"):
        hamming_histograms(codes, codes, [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="3 database items but 2 rows of database_labels"):
        hamming_histograms(codes, codes, [0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="gallery_labels are missing"):
        hamming_histograms(codes, codes, [0, 1, 1])
