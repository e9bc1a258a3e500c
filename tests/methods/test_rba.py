"""RBA: both kinds of pooling and every step against solvers of the plain problem."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder import rba
from cbir_lite.methods.registry import create


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((6, 3, 2, 10)))
    x[2, 0, 1] = 0
    V = rba.local_descriptors(x).astype(np.float64)
    B = rng.choice([-1.0, 1.0], size=(6, 4))
    W1, c1 = rng.standard_normal((4, 10)), rng.standard_normal(4)
    W2, c2 = rng.standard_normal((10, 4)), rng.standard_normal(10)
    return V, B, W1, c1, W2, c2


def test_local_descriptors_have_length_one_or_zero():
    x = np.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(rba.local_descriptors(x)[0], [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_generalized_max_pooling_is_ridge_regression_of_ones(small):
    V = small[0]
    for mu in (0.1, 5.0):
        for v, phi in zip(V, rba.max_pooling(V, mu), strict=True):
            expected = np.linalg.solve(v.T @ v + mu * np.eye(10), v.sum(0))
            np.testing.assert_allclose(phi, expected, atol=1e-9)


def test_a_repeated_descriptor_does_not_drown_a_rare_one():
    a, b = np.eye(4)[0], np.eye(4)[1]
    V = np.array([[a] * 9 + [b]])
    phi = rba.max_pooling(V, 1e-3)[0]
    assert phi[0] == pytest.approx(phi[1], rel=2e-3)
    assert V.mean(1)[0][0] == 9 * V.mean(1)[0][1]


def test_the_step_of_the_aggregated_vectors_solves_each_images_system(small):
    V, B, W1, c1, W2, c2 = small
    lam, gamma, mu = 0.7, 3.0, 0.5
    found = rba.phi_step(V, B, W1, c1, W2, c2, lam, gamma, mu)
    for v, b, phi in zip(V, B, found, strict=True):
        A = (1 + gamma * mu) * np.eye(10) + lam * W1.T @ W1
        right = W2 @ b + c2 + lam * W1.T @ (b - c1)
        for descriptor in v:
            A += gamma * np.outer(descriptor, descriptor)
            right += gamma * descriptor
        np.testing.assert_allclose(phi, np.linalg.solve(A, right), atol=1e-9)


def test_ridge_has_no_slope_at_its_solution():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((30, 5)), rng.standard_normal((30, 3)) + 4
    W, c = rba.ridge(X, Y, 2.0)
    residual = X @ W.T + c - Y
    np.testing.assert_allclose(residual.sum(0), 0, atol=1e-9)
    np.testing.assert_allclose(residual.T @ X + 2.0 * W, 0, atol=1e-9)


def test_terms_are_those_of_explicit_sums(small):
    V, B, W1, c1, W2, c2 = small
    method = create("rba", bits=4, gamma=3.0, mu=0.5)
    X = np.random.default_rng(2).standard_normal((6, 10))
    terms = method._terms(V.reshape(6, 3, 2, 10), X, B, W1, c1, W2, c2, 0.7, 0.2)
    expected = dict.fromkeys(terms, 0.0)
    for v, phi, b in zip(V, X, B, strict=True):
        expected["reconstruction"] += ((phi - W2 @ b - c2) ** 2).sum() / 12
        expected["hashing"] += 0.7 * ((b - W1 @ phi - c1) ** 2).sum() / 12
        spread = sum((descriptor @ phi - 1) ** 2 for descriptor in v)
        expected["aggregation"] += 3.0 * (spread + 0.5 * (phi**2).sum()) / 12
    expected["weights"] = 0.2 * ((W1**2).sum() + (W2**2).sum()) / 12
    assert terms == pytest.approx(expected, rel=1e-5)


def test_no_round_raises_the_objective_and_codes_rebuild_better(lab):
    history = lab.smoke_fit("rba").method.history_
    total = [sum(h.values()) for h in history]
    assert len(total) == 6
    assert (np.diff(total) <= 1e-5 * total[0]).all()
    assert history[-1]["reconstruction"] < 0.9 * history[0]["reconstruction"]


def test_maps_are_asked_for_and_equal_rows_refused(digits):
    with pytest.raises(ValueError, match="reads maps"):
        create("rba", bits=4).fit(Split(digits.train.pooled, supervision="unsupervised"))
    with pytest.raises(ValueError, match="all training rows are equal"):
        create("rba", bits=4).fit(
            Split(np.ones((9, 2, 2, 8), np.float32), supervision="unsupervised")
        )
