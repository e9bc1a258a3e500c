"""Neural codes: unit length, PCA, Euclidean ranking."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create


def fitted(x, name="neural_codes", **params):
    return create(name, **params).fit(Split(x, None, "unsupervised"))


def unit(x):
    return np.array([row / np.sqrt((row.astype(float) ** 2).sum()) for row in x])


def test_descriptor_is_the_pca_of_rows_of_unit_length(digits):
    x, q = digits.train.pooled, digits.query.pooled
    f = fitted(x, bits=12).embed(q)
    twin = PCA(12, svd_solver="full").fit(unit(x)).transform(unit(q))
    assert f.dtype == np.float32
    np.testing.assert_allclose(np.abs(f), np.abs(twin), atol=1e-5)


def test_scale_of_the_activations_does_not_matter(digits):
    x, q = digits.train.pooled, digits.query.pooled
    method = fitted(x, bits=12)
    scales = np.random.default_rng(0).uniform(0.1, 10, (len(q), 1)).astype(np.float32)
    np.testing.assert_allclose(method.embed(q * scales), method.embed(q), atol=1e-5)


def test_full_variant_keeps_all_dimensions_and_all_components_rank_the_same(digits):
    x, q = digits.train.pooled, digits.query.pooled
    full = fitted(x, "neural_codes/full", bits=12)
    np.testing.assert_allclose(full.embed(q), unit(q), atol=1e-6)
    rotated = fitted(x, bits=64)
    # Blank training pixels leave the rank below 64, so only rows of the training span are alike.
    np.testing.assert_allclose(
        rotated.distance(rotated.embed(x[:50]), rotated.embed(x)),
        full.distance(full.embed(x[:50]), full.embed(x)),
        atol=2e-3,
    )


def test_whitened_components_have_equal_variance_before_they_are_normalised(digits):
    x = digits.train.pooled
    method = fitted(x, bits=10, whiten=True)
    f = (unit(x) - method.mean_) @ method.V_
    np.testing.assert_allclose(f.std(0), 1, rtol=1e-3)
    np.testing.assert_allclose(method.embed(x), unit(f), atol=1e-4)


def test_distance_is_euclidean(digits):
    method = fitted(digits.train.pooled, bits=12)
    a, b = method.embed(digits.query.pooled[:6]), method.embed(digits.database.pooled[:9])
    expected = [[np.sqrt(((p - r) ** 2).sum()) for r in b.astype(float)] for p in a.astype(float)]
    found = method.distance(a, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_blank_row_stays_finite(digits):
    method = fitted(digits.train.pooled, bits=12)
    assert np.isfinite(method.embed(np.zeros((2, 64), np.float32))).all()


def test_short_descriptors_keep_most_of_what_the_full_ones_rank(lab):
    short = lab.smoke_fit("neural_codes").method
    full = lab.smoke_fit("neural_codes/full").method
    value = lab.mean_ap(lab.distances(short), lab.relevance())
    assert value == pytest.approx(lab.mean_ap(lab.distances(full), lab.relevance()), abs=0.05)
    assert value > lab.lsh_map() + 0.05
