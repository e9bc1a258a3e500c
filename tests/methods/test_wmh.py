"""WMH: each matrix against its definition, and the eigenvalue problem."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.shallow.wmh import discriminative, geometric

RANDOM = np.random.default_rng(9)
X = RANDOM.standard_normal((14, 5))
X -= X.mean(0)
INDEX = np.argsort(((X[:, None] - X[None]) ** 2).sum(2) + 1e9 * np.eye(14), 1)[:, :3]
Y = (RANDOM.random((14, 6)) < 0.4).astype(np.uint8)
Y[:, 0] |= ~Y.any(1)


def test_the_geometric_form_sums_differences_of_neighbours():
    w = RANDOM.standard_normal(5)
    z = X @ w
    naive = sum((z[i] - z[j]) ** 2 for i in range(14) for j in INDEX[i]) / 2
    assert w @ geometric(X, INDEX) @ w == pytest.approx(naive)


def test_the_discriminative_form_is_what_the_best_local_models_leave():
    w, ridge = RANDOM.standard_normal(5), 0.7
    z, naive = X @ w, 0.0
    for i in range(14):
        rows = [i, *INDEX[i]]
        local, wanted = X[rows] - X[rows].mean(0), z[rows] - z[rows].mean()
        model = np.linalg.solve(local.T @ local + ridge * np.eye(5), local.T @ wanted)
        naive += ((local @ model - wanted) ** 2).sum() + ridge * model @ model
    assert w @ discriminative(X, INDEX, ridge) @ w == pytest.approx(naive)


def test_the_tag_part_is_the_agreement_of_tags_over_pairs():
    method = registry.create("wmh", alpha=0.0, beta=0.0, gamma=0.0, bits=2)
    M = method.objective(X, Y.astype(np.float32))
    idf = [math.log(14 / max(1, Y[:, v].sum())) + 1 for v in range(6)]
    T = np.array([[Y[i, v] * idf[v] for v in range(6)] for i in range(14)])
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    agreement = (T - T.mean(0)) @ (T - T.mean(0)).T
    w = RANDOM.standard_normal(5)
    z = X @ w
    pairs = sum(agreement[i, j] * z[i] * z[j] for i in range(14) for j in range(14))
    trace = sum(
        agreement[i, j] * X[i, d] * X[j, d] for i in range(14) for j in range(14) for d in range(5)
    )
    assert w @ M @ w == pytest.approx(pairs / trace, rel=1e-5)


def test_projections_are_orthogonal_and_no_others_do_better():
    method = registry.create("wmh", bits=3, neighbours=3)
    method.fit(Split(X.astype(np.float32), Y, "weakly-supervised"))
    W = method.W_.astype(float)
    np.testing.assert_allclose(W.T @ W, np.eye(3), atol=1e-5)
    x = X / np.sqrt((X**2).sum(1).mean())
    M = method.objective(x, Y.astype(np.float32))
    best = np.trace(W.T @ M @ W)
    for _ in range(100):
        other = np.linalg.qr(RANDOM.standard_normal((5, 3)))[0]
        assert np.trace(other.T @ M @ other) <= best + 1e-9


def test_more_bits_than_dimensions_are_refused():
    with pytest.raises(ValueError, match="5 dimensions"):
        registry.create("wmh", bits=6).fit(Split(X.astype(np.float32), Y, "weakly-supervised"))
