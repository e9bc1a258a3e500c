from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import LabelsHidden, Protocol, Split, as_multi_hot, labelled_mask
from cbir_lite.datasets.split import SHOWS

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 2, 2, 1, 0])
HOT = np.eye(3, dtype=np.uint8)[Y]


# as_multi_hot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y.tolist(),
        Y.astype(np.uint8),
        HOT,
        HOT.astype(bool),
        HOT.astype(np.float32),
        HOT.tolist(),
    ],
)
def test_class_ids_and_zero_one_become_multi_hot(labels):
    hot = as_multi_hot(labels)
    assert hot.dtype == np.uint8
    assert hot.tolist() == HOT.tolist()


def test_classes_without_an_image_keep_their_column():
    assert as_multi_hot([1, 0], 4).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert as_multi_hot([[1, 1, 0]]).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "n_classes", "message"),
    [
        ([0, -1], None, r"class id -1 in row 1 is outside 0\.\."),
        ([0, 3], 3, r"class id 3 in row 1 is outside 0\.\.2"),
        ([0, 10**9], None, r"class id 1000000000 in row 1"),
        ([0.0, 1.0], None, r"integer class ids.*float64 \(2,\)"),
        ([[0, 1], [2, 0]], None, r"found 2 in row 1, class 0"),
        ([[0.0, np.nan]], None, r"found nan in row 0, class 1"),
        ([[0, 1]], 3, r"2 classes, expected 3"),
        (np.zeros((2, 2, 2), int), None, r"\(2, 2, 2\)"),
        ([], None, r"empty"),
        (np.zeros((0, 4), np.uint8), None, r"empty"),
        (["cat", "dog"], None, r"integer class ids"),
    ],
)
def test_faulty_labels_are_named(labels, n_classes, message):
    with pytest.raises(ValueError, match=message):
        as_multi_hot(labels, n_classes)


# Split ------------------------------------------------------------------------------------------


def test_a_supervised_split_shows_all_labels():
    split = Split(X, Y)
    assert split.labels.tolist() == HOT.tolist()
    assert split.n_classes == 3
    assert split.labelled.all()
    assert split.indices.tolist() == list(range(6))
    assert len(split) == 6
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0, 0] = 0


@pytest.mark.parametrize("supervision", sorted(k for k, v in SHOWS.items() if v == "none"))
def test_labels_are_not_in_a_split_that_hides_them(supervision):
    split = Split(X, Y, supervision)
    with pytest.raises(LabelsHidden, match=f"declares itself '{supervision}'"):
        _ = split.labels
    assert issubclass(LabelsHidden, RuntimeError)
    assert split.n_classes is None
    assert not split.labelled.any()
    # Nowhere in the object, whatever the attribute.
    arrays = [v for v in vars(split).values() if isinstance(v, np.ndarray)]
    assert all(a.shape != HOT.shape for a in arrays)


def test_a_semi_supervised_split_shows_the_labelled_rows_only():
    mask = np.array([True, False, False, True, False, False])
    split = Split(X, Y, "semi-supervised", labelled=mask)
    assert split.labelled.tolist() == mask.tolist()
    assert split.labels.tolist() == [[1, 0, 0], [0] * 3, [0] * 3, [0, 0, 1], [0] * 3, [0] * 3]
    assert split.n_classes == 3


def test_labelled_rows_are_chosen_in_proportion():
    hot = np.eye(4, dtype=np.uint8)[np.repeat(np.arange(4), 50)]
    mask = labelled_mask(hot, 0.1)
    assert hot[mask].sum(axis=0).tolist() == [5, 5, 5, 5]
    assert np.array_equal(mask, labelled_mask(hot, 0.1))
    assert not np.array_equal(mask, labelled_mask(hot, 0.1, seed=1))
    assert labelled_mask(hot, 0.001).sum() == 1
    for fraction in (0, 1.1):
        with pytest.raises(ValueError, match="fraction"):
            labelled_mask(hot, fraction)


def test_a_subset_takes_rows_everywhere():
    database = Split(X + 1, Y)
    split = Split(X, Y, indices=np.arange(10, 16), database=database)
    for rows in (np.array([4, 1]), [4, 1]):
        part = split.subset(rows)
        assert part.x.tolist() == X[[4, 1]].tolist()
        assert part.labels.tolist() == HOT[[4, 1]].tolist()
        assert part.indices.tolist() == [14, 11]
        assert part.database is database
    assert split.subset(Y == 2).indices.tolist() == [12, 13]
    assert split.subset(Y == 0).n_classes == 3
    hidden = Split(X, Y, "unsupervised").subset([0])
    with pytest.raises(LabelsHidden):
        _ = hidden.labels
    mask = np.array([True, True, False, False, False, False])
    semi = Split(X, Y, "semi-supervised", labelled=mask).subset([1, 2])
    assert semi.labelled.tolist() == [True, False]
    for rows, message in (
        ([6], "row 6 is outside 0..5"),
        ([-1], "row -1"),
        ([0.5], "bool or integer"),
        ([True], r"shape \(6,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            split.subset(rows)


def _with(value: float, row: int, dtype=np.float32) -> np.ndarray:
    x = np.zeros((6, 2, 2), dtype)
    x[row, 1, 0] = value
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": _with(np.nan, 4)}, "NaN or infinity, first in row 4"),
        ({"x": _with(np.inf, 2, np.float16)}, "NaN or infinity, first in row 2"),
        ({"x": X[:5]}, "x has 5 rows, labels have 6"),
        ({"x": X[:, 0]}, "at least 2 dimensions"),
        ({"x": X[:0]}, "non-empty"),
        ({"x": X.tolist()}, "non-empty array.*list"),
        ({"x": X.astype(complex)}, "real number type, got complex128"),
        ({"x": X.astype(object)}, "real number type, got object"),
        ({"labels": None}, "a supervised split needs labels"),
        ({"labels": [0, 1, 2, 2, 1, -1]}, "class id -1 in row 5"),
        ({"labels": HOT * 2}, "found 2 in row 0, class 0"),
        ({"supervision": "super"}, "'super' is none of supervised"),
        ({"supervision": "semi-supervised"}, "needs labelled="),
        ({"supervision": "semi-supervised", "labelled": np.ones(5, bool)}, r"\(6,\)"),
        ({"supervision": "semi-supervised", "labelled": np.ones(6)}, "bool"),
        ({"labelled": np.ones(6, bool)}, "belongs to semi-supervised"),
        ({"indices": np.arange(5)}, "indices"),
        ({"indices": np.arange(6.0)}, "indices"),
        ({"database": Split(np.zeros((2, 3)), [0, 2])}, r"rows of x are \(2,\).*\(3,\)"),
        ({"database": Split(X, HOT[:, :2] | [[1, 0]])}, "3 classes, its database 2"),
    ],
)
def test_faults_are_named_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        Split(**{"x": X, "labels": Y, **arguments})


def test_the_first_bad_row_is_right_in_large_input(monkeypatch):
    monkeypatch.setattr("cbir_lite.datasets.split._CHECK_ELEMENTS", 8)
    with pytest.raises(ValueError, match="first in row 5"):
        Split(_with(np.nan, 5), Y)
    assert len(Split(_with(1, 5), Y)) == 6


def test_images_as_bytes_are_taken_without_a_copy():
    images = np.zeros((6, 4, 4, 3), np.uint8)
    assert Split(images, Y).x is images


# From a protocol --------------------------------------------------------------------------------


@pytest.fixture
def small() -> Protocol:
    def vector(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    return Protocol("small", "any", vector(0), vector(1, 2, 3), vector(2, 3, 4, 5), 6)


def test_the_training_part_and_the_database_are_cut_out(small):
    split = Split.from_protocol(small, X, Y, with_database=True)
    assert split.indices.tolist() == [1, 2, 3]
    assert split.x.tolist() == X[1:4].tolist()
    assert split.labels.tolist() == HOT[1:4].tolist()
    assert split.database is not None
    assert split.database.x.tolist() == X[2:].tolist()
    assert split.database.labels.tolist() == HOT[2:].tolist()
    assert Split.from_protocol(small, X, Y).database is None
    assert Split.from_protocol(small, X, Y, rows=np.array([3])).indices.tolist() == [3]
    with pytest.raises(ValueError, match="speaks of 6 images, got 5 rows of x and 6 labels"):
        Split.from_protocol(small, X[:5], Y)


def test_a_hidden_database_is_hidden_too(small):
    split = Split.from_protocol(small, X, Y, "unsupervised", with_database=True)
    assert split.database is not None
    with pytest.raises(LabelsHidden):
        _ = split.database.labels


def test_a_semi_supervised_database_shows_no_label_the_training_part_hides(small):
    split = Split.from_protocol(
        small, X, Y, "semi-supervised", labelled_fraction=0.99, with_database=True
    )
    assert split.labelled.tolist() == [True] * 3
    assert split.database is not None
    assert split.database.labelled.tolist() == [True, True, False, False]
    assert split.database.labels[2:].sum() == 0


def test_a_semi_supervised_database_may_hold_no_labelled_image(small):
    apart = Protocol("apart", "any", small.query, small.train, np.array([4, 5]), 6)
    split = Split.from_protocol(
        apart, X, Y, "semi-supervised", labelled_fraction=0.5, with_database=True
    )
    assert split.labelled.sum() == 2
    assert split.database is not None
    assert split.database.labels.sum() == 0
    assert split.n_classes == split.database.n_classes == 3


def test_views_belong_to_the_rows_and_follow_them():
    x = np.zeros((4, 3), np.float32)
    views = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    split = Split(x, supervision="unsupervised", views=views)
    np.testing.assert_array_equal(split.subset([2]).views, views[[2]])
    with pytest.raises(ValueError, match="views must be"):
        Split(x, supervision="unsupervised", views=views[:3])
    with pytest.raises(ValueError, match="views must be"):
        Split(x, supervision="unsupervised", views=views[:, :, :2])


# parts --------------------------------------------------------------------------------------------


def test_parts_say_what_stands_side_by_side_and_go_with_every_cut():
    x = np.arange(30, dtype=np.float32).reshape(6, 5)
    assert Split(x, Y).parts == (5,)
    assert Split(x.reshape(6, 1, 1, 5), Y).parts == (5,)
    split = Split(x, Y, parts=(2, 3))
    assert split.parts == split.subset([4, 1]).parts == (2, 3)
    protocol = Protocol("p", "d", *(np.array(r) for r in ([0], [1, 2, 3], [3, 4, 5])), 6)
    cut = Split.from_protocol(protocol, x, Y, with_database=True, parts=(1, 4))
    assert cut.database is not None
    assert cut.parts == cut.database.parts == (1, 4)


@pytest.mark.parametrize("parts", [(2, 2), (5, 1), (), (0, 5), (-1, 6)])
def test_parts_that_do_not_divide_the_columns_are_refused(parts):
    x = np.zeros((6, 5), np.float32)
    with pytest.raises(ValueError, match="do not divide the 5 columns"):
        Split(x, Y, parts=parts)


# semantics ----------------------------------------------------------------------------------------

WORDS = np.arange(15).reshape(3, 5)


def test_semantics_belong_to_the_classes_and_go_with_every_cut():
    split = Split(X, Y, semantics=WORDS)
    assert split.semantics.dtype == np.float32
    for part in (split, split.subset([4, 1]), split.subset([0])):
        assert part.semantics.tolist() == WORDS.tolist()
        with pytest.raises(ValueError, match="read-only"):
            part.semantics[0, 0] = 1
    assert Split(X, Y).semantics is None
    assert Split(X, Y).subset([0]).semantics is None
    given = WORDS.astype(np.float32)
    kept = Split(X, Y, semantics=given).semantics
    given[:] = -1
    assert kept.tolist() == WORDS.tolist()


def test_semantics_are_cut_from_a_protocol_too(small):
    split = Split.from_protocol(small, X, Y, with_database=True, semantics=WORDS)
    assert split.semantics.tolist() == WORDS.tolist()
    assert split.database is not None
    assert split.database.semantics is None
    assert Split.from_protocol(small, X, Y).semantics is None
    hidden = Split.from_protocol(small, X, Y, "unsupervised", semantics=WORDS)
    assert hidden.semantics is None


@pytest.mark.parametrize("supervision", sorted(k for k, v in SHOWS.items() if v == "none"))
def test_semantics_are_not_in_a_split_that_hides_labels(supervision):
    split = Split(X, Y, supervision, semantics=WORDS)
    assert split.semantics is None
    assert split.subset([0, 1]).semantics is None
    arrays = [v for v in vars(split).values() if isinstance(v, np.ndarray)]
    assert all(a.shape != WORDS.shape for a in arrays)


@pytest.mark.parametrize(
    ("semantics", "message"),
    [
        (WORDS[:2], r"\(C, k\) of 3 classes, got \(2, 5\)"),
        (WORDS[:, :0], r"got \(3, 0\)"),
        (WORDS[:, 0], r"got \(3,\)"),
        (WORDS.astype(complex), "real number type, got complex128"),
        ([["a"], ["b"], ["c"]], "real number type"),
        ([[0, 1], [0, np.nan], [np.inf, 0]], "semantics hold NaN or infinity, first for class 1"),
    ],
)
def test_faulty_semantics_are_named(semantics, message):
    with pytest.raises(ValueError, match=message):
        Split(X, Y, semantics=semantics)


def test_the_second_modality_may_be_maps():
    maps = np.zeros((6, 2, 3, 4), np.float16)
    split = Split(X, Y, other=maps)
    assert split.other is maps
    assert split.subset([5, 0]).other.shape == (2, 2, 3, 4)
    maps[4, 1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="first in row 4"):
        Split(X, Y, other=maps)
