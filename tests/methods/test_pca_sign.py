"""PCA signs and the principal components that ITQ, BA and neural codes build on."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create
from cbir_lite.methods.shallow._linear import principal_components


def test_components_are_those_of_the_singular_value_decomposition(digits):
    x = digits.train.pooled.astype(np.float64)
    mean, V, deviation = principal_components(x, 20)
    _, s, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-12)
    np.testing.assert_allclose(deviation, s[:20] / np.sqrt(len(x)), rtol=1e-9)
    np.testing.assert_allclose(V.T @ V, np.eye(20), atol=1e-10)
    # Each direction up to its sign, which is fixed by the largest entry.
    np.testing.assert_allclose(np.abs(np.diag(directions[:20] @ V)), 1, atol=1e-8)
    assert (V[np.abs(V).argmax(0), np.arange(20)] > 0).all()


def test_hand_worked_code():
    x = np.array([[0, 0], [4, 4], [0, 1], [4, 3]], np.float32)
    method = create("pca_sign", bits=1).fit(Split(x, None, "unsupervised"))
    # The main direction is (1, 0.75) up to length: rows left and right of x = 2.
    np.testing.assert_array_equal(method.encode(x), [[-1], [1], [-1], [1]])


def test_beyond_the_rank_bits_are_constant_and_distances_stay(digits):
    x = digits.train.pooled
    rank = np.linalg.matrix_rank(x - x.mean(0))
    assert rank < 64
    split = Split(x, None, "unsupervised")
    codes = create("pca_sign", bits=64).fit(split).encode(digits.query.pooled)
    shorter = create("pca_sign", bits=int(rank)).fit(split).encode(digits.query.pooled)
    np.testing.assert_array_equal(codes[:, :rank], shorter)
    assert (codes[:, rank:] == 1).all()
    assert all(len(np.unique(column)) == 2 for column in shorter.T)


def test_more_bits_than_dimensions_are_refused(digits):
    split = Split(digits.train.pooled, None, "unsupervised")
    for name in ("pca_sign", "itq", "neural_codes", "binary_autoencoder"):
        with pytest.raises(ValueError, match="bits=65 exceeds the 64 dimensions"):
            create(name, bits=65).fit(split)


def test_maps_are_refused(digits):
    split = Split(digits.train.maps, None, "unsupervised")
    with pytest.raises(ValueError, match="pool the maps"):
        create("pca_sign", bits=8).fit(split)
