"""Binary autoencoder: each step against a search or another solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder import binary_autoencoder as ba
from cbir_lite.methods.registry import create


@pytest.fixture
def small():
    """X (40, 7), codes Z and H (40, 6) in {0, 1}, decoder W (7, 6), c (7,)."""
    rng = np.random.default_rng(0)
    Z, H = (rng.integers(2, size=(40, 6)).astype(float) for _ in range(2))
    return rng.standard_normal((40, 7)), Z, H, rng.standard_normal((7, 6)), rng.standard_normal(7)


def naive_energy(x, z, h, W, c, mu):
    total = 0.0
    for i in range(len(x)):
        total += (x[i] - c[i] - sum(W[i, k] * z[k] for k in range(len(z)))) ** 2
    return total + mu * sum((z[k] - h[k]) ** 2 for k in range(len(z)))


def test_energy_is_reconstruction_and_penalty(small):
    X, Z, H, W, c = small
    expected = [naive_energy(x, z, h, W, c, 0.4) for x, z, h in zip(X, Z, H, strict=True)]
    np.testing.assert_allclose(ba.energy(X, Z, H, W, c, 0.4), expected, rtol=1e-10)


def test_decoder_is_least_squares_with_intercept(small):
    X, Z, *_ = small
    W, c = ba.decoder(Z, X)
    twin = LinearRegression().fit(Z, X)
    np.testing.assert_allclose(W, twin.coef_, atol=1e-9)
    np.testing.assert_allclose(c, twin.intercept_, atol=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.5, 5.0])
def test_enumeration_finds_the_best_code_and_descent_cannot_be_improved(small, mu):
    X, Z, H, W, c = small
    A, b = W.T @ W, (X - c) @ W
    every = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    best = np.array(
        [min(naive_energy(x, z, h, W, c, mu) for z in every) for x, h in zip(X, H, strict=True)]
    )
    exact = ba.energy(X, ba.enumerate_codes(A, b, H, mu), H, W, c, mu)
    np.testing.assert_allclose(exact, best, rtol=1e-9)

    found = ba.coordinate_descent(A, b, H, mu, ba.relaxed(A, b, H, mu, 1000))
    assert set(np.unique(found)) <= {0, 1}
    own = ba.energy(X, found, H, W, c, mu)
    for k in range(6):
        flipped = found.copy()
        flipped[:, k] = 1 - flipped[:, k]
        assert (own <= ba.energy(X, flipped, H, W, c, mu) + 1e-9).all()
    random = ba.energy(X, Z, H, W, c, mu).mean()
    assert own.mean() - best.mean() < 0.1 * (random - best.mean())


def test_relaxed_codes_solve_the_quadratic_programme_in_the_cube(small):
    X, _, H, W, c = small
    mu = 0.3
    found = ba.relaxed(W.T @ W, (X - c) @ W, H, mu, 5000)
    for x, h, z in zip(X[:8], H[:8], found[:8], strict=True):

        def f(z, x=x, h=h):
            return ((x - c - W @ z) ** 2).sum() + mu * ((z - h) ** 2).sum()

        twin = minimize(f, np.full(6, 0.5), bounds=[(0, 1)] * 6, method="L-BFGS-B")
        assert f(z) <= twin.fun + 1e-2


@pytest.mark.parametrize("bits", [6, 16])
def test_codes_step_never_raises_the_energy_of_any_row(bits):
    rng = np.random.default_rng(3)
    X, W, c = rng.standard_normal((60, 20)), rng.standard_normal((20, bits)), np.zeros(20)
    H = rng.integers(2, size=(60, bits)).astype(float)
    Z = rng.integers(2, size=(60, bits)).astype(float)
    for mu in (0.0, 0.1, 1.0, 1e4):
        before = ba.energy(X, Z, H, W, c, mu)
        Z = ba.z_step(X, Z, H, W, c, mu)
        assert (ba.energy(X, Z, H, W, c, mu) <= before).all()
    # A price no gain can pay: the codes are what the hash functions say.
    np.testing.assert_array_equal(Z, H)


def test_support_vector_machines_fall_to_the_optimum_of_their_loss(digits):
    x = digits.train.pooled[:300, 20:44].astype(float)
    x = (x - x.mean(0))[:, x.std(0) > 0.05]
    U, s, Vt = np.linalg.svd(x, full_matrices=False)
    y = 2.0 * digits.train.y[:300, :3] - 1
    C = 0.5
    losses, start = [], None
    for _ in range(60):
        g, c, start = ba.svm(U, s, y, C, start, rounds=10)
        losses.append(ba.svm_loss(start, y, g, s, C))
    assert (np.diff(losses, axis=0) <= 1e-7).all()
    for k in range(3):

        def f(v, k=k):
            hinge = np.maximum(0, 1 - y[:, k] * (x @ v[:-1] + v[-1]))
            return 0.5 * (v[:-1] ** 2).sum() + C * (hinge**2).sum()

        twin = minimize(f, np.zeros(x.shape[1] + 1), method="BFGS")
        assert losses[-1][k] == pytest.approx(twin.fun, rel=1e-2)
        w = Vt.T @ (g[:, k] / s)
        assert f(np.append(w, c[k])) == pytest.approx(losses[-1][k], rel=1e-9)


def test_neighbour_precision_counts_ties_by_expectation():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((30, 4))
    H = rng.integers(2, size=(30, 3)).astype(float)
    near = ba._Neighbours(X, rng, rows=4)
    assert near.k == 10
    values = []
    for row in near.rows:
        relevant = np.isin(np.arange(30), np.argsort(((X - X[row]) ** 2).sum(1))[:10])
        d = np.abs(H - H[row]).sum(1)
        for _ in range(400):
            first = np.lexsort((rng.random(30), d))[:10]
            values.append(relevant[first].mean())
    assert near.precision(H) == pytest.approx(np.mean(values), abs=0.02)


def test_training_lowers_the_energy_keeps_precision_and_ends_in_agreement(lab):
    history = lab.smoke_fit("binary_autoencoder").method.history_
    assert len(history) >= 4
    assert all(h["after"] <= h["before"] for h in history)
    assert (np.diff([h["mu"] for h in history]) >= 0).all()
    assert (np.diff([h["precision"] for h in history]) >= 0).all()
    assert history[-1]["precision"] > history[0]["precision"]
    assert history[-1]["disagreement"] < history[0]["disagreement"]


def test_codes_rebuild_the_rows_better_than_those_of_itq(lab, digits):
    def error(method):
        z, x = (method.encode(digits.train.pooled) + 1) / 2, digits.train.pooled
        W, c = ba.decoder(z, x)
        return np.square(x - c - z @ W.T).sum(1).mean()

    assert error(lab.smoke_fit("binary_autoencoder").method) < error(lab.smoke_fit("itq").method)


def test_equal_rows_are_refused():
    with pytest.raises(ValueError, match="all training rows are equal"):
        create("binary_autoencoder", bits=4).fit(
            Split(np.ones((20, 8), np.float32), None, "unsupervised")
        )
