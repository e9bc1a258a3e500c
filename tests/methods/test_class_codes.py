"""Class codes: the classifier against scikit-learn's, codewords, the labelled database."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create
from cbir_lite.methods.shallow.class_codes import codewords


def blobs(n: int = 60, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows around three centres, float32 (n, 5), and their classes."""
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 3
    centres = 4 * rng.standard_normal((3, 5))
    return (centres[kind] + rng.standard_normal((n, 5))).astype(np.float32), kind


def made(x: np.ndarray, y: np.ndarray, database: Split | None = None) -> Split:
    return Split(x, y.astype(np.uint8), "supervised", np.arange(len(x)), database=database)


@pytest.mark.parametrize("classes", [3, 2])
def test_probabilities_are_those_of_scikit_learn(classes: int) -> None:
    """Of two classes scikit-learn keeps one row of weights."""
    from sklearn.linear_model import LogisticRegression

    x, kind = blobs()
    x, kind = x[kind < classes], kind[kind < classes]
    method = create("class_codes", bits=16, C=0.1).fit(made(x, np.eye(classes)[kind]))
    z = (x - x.mean(0)) / x.std(0)
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-3).fit(z, kind)
    expected = model.predict_proba(z)[:, ::-1]  # label sets are sorted, the last label first
    np.testing.assert_allclose(method.probabilities(x), expected, atol=2e-3)


def test_a_sure_answer_is_the_codeword_of_its_class() -> None:
    x, kind = blobs()
    method = create("class_codes", bits=24, C=100.0).fit(made(x, np.eye(3)[kind]))
    sure = method.probabilities(x).max(1) > 0.5
    assert sure.mean() > 0.9
    best = method.probabilities(x).argmax(1)
    np.testing.assert_array_equal(method.encode(x)[sure], method.words_[best[sure]])


def test_a_doubtful_answer_lies_between_its_classes() -> None:
    x, kind = blobs()
    method = create("class_codes", bits=32).fit(made(x, np.eye(3)[kind]))
    method.V_[:] = 0
    method.a_[:] = np.log([0.45, 0.35, 0.2])
    by_hand = np.sign(np.array([0.45, 0.35, 0.2]) @ method.words_.astype(float))
    np.testing.assert_array_equal(method.encode(x[:1])[0], by_hand)


@pytest.mark.parametrize(("n", "bits"), [(10, 12), (10, 32), (3, 64)])
def test_codewords_are_farther_apart_than_those_of_most_draws(n: int, bits: int) -> None:
    def nearest(words: np.ndarray) -> int:
        pairs = [(words[i] != words[j]).sum() for i in range(n) for j in range(i)]
        return int(min(pairs))

    rng = np.random.default_rng(5)
    others = [nearest(np.sign(rng.standard_normal((n, bits)))) for _ in range(50)]
    assert nearest(codewords(n, bits, 0)) >= np.quantile(others, 0.9)
    np.testing.assert_array_equal(codewords(n, bits, 3), codewords(n, bits, 3))


def test_sets_that_share_a_label_are_nearer() -> None:
    x, kind = blobs()
    y = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]])[kind]
    method = create("class_codes", bits=256).fit(made(x, y))
    sets = np.unique(y, axis=0).tolist()
    words = {tuple(s): w.astype(int) for s, w in zip(sets, method.words_, strict=True)}
    shared = words[1, 0, 0, 0] @ words[1, 1, 1, 0]
    apart = words[1, 0, 0, 0] @ words[0, 0, 0, 1]
    assert shared > 64 > abs(apart)


def test_the_database_holds_the_codewords_of_its_true_labels() -> None:
    x, kind = blobs(90)
    wrong = kind.copy()
    wrong[:3] = (kind[:3] + 1) % 3  # labels the classifier would not guess
    database = made(x, np.eye(3)[wrong])
    train = made(x[:30], np.eye(3)[wrong[:30]], database)
    method = create("class_codes/database", bits=16).fit(train)
    assert method.learns_database
    codes = method.encode_database(x)
    np.testing.assert_array_equal(codes, method.words_[2 - wrong])  # sets are sorted
    assert (codes[:3] != method.encode(x)[:3]).any()
    with pytest.raises(ValueError, match="database of 90 rows and got 89"):
        method.encode_database(x[:89])


def test_it_says_what_is_missing() -> None:
    x, kind = blobs()
    with pytest.raises(ValueError, match="two classes or more"):
        create("class_codes").fit(made(x, np.ones((60, 1))))
    with pytest.raises(ValueError, match="pass a split with database="):
        create("class_codes/database").fit(made(x, np.eye(3)[kind]))
