"""DH: its objective, its gradient, its descent, and what each part of the objective is for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cbir_lite.methods.shallow import _liong
from cbir_lite.methods.shallow.dh_liong import DH

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((7, 5))
LAYERS = [
    (RANDOM.standard_normal((b, a)) * 0.6, RANDOM.standard_normal(b) * 0.3)
    for a, b in ((5, 4), (4, 4), (4, 3))
]
WEIGHTS = {"lam1": 0.7, "lam2": 0.3, "lam3": 0.2}


def naive_outputs(layers, x):
    for W, c in layers:
        x = [
            math.tanh(sum(w * v for w, v in zip(r, x, strict=True)) + b)
            for r, b in zip(W, c, strict=True)
        ]
    return x


def naive_penalties(layers):
    independence = size = 0.0
    for W, c in layers:
        for i, a in enumerate(W):
            for j, b in enumerate(W):
                product = sum(u * v for u, v in zip(a, b, strict=True))
                independence += (product - (i == j)) ** 2
        size += sum(v * v for row in W for v in row) + sum(v * v for v in c)
    return independence, size


def total(method, B, layers):
    H = _liong.forward(X, layers)[-1]
    return sum(method.objective(B, H, layers)[0].values())


def check_gradient(method):
    """Backpropagation against central differences of the objective, at every parameter."""
    H = _liong.forward(X, LAYERS)
    B = np.sign(H[-1])
    slope = method.objective(B, H[-1], LAYERS)[1]
    found = method.gradient(slope, H, LAYERS)
    for m, pair in enumerate(LAYERS):
        for part, values in enumerate(pair):
            for at in np.ndindex(values.shape):
                sides = []
                for step in (1e-5, -1e-5):
                    layers = [tuple(v.copy() for v in p) for p in LAYERS]
                    layers[m][part][at] += step
                    sides.append(total(method, B, layers))
                expected = (sides[0] - sides[1]) / 2e-5
                assert found[m][part][at] == pytest.approx(expected, rel=1e-4, abs=2e-6)


def test_terms_are_those_of_explicit_rows():
    method = DH(bits=3, **WEIGHTS)
    H = _liong.forward(X, LAYERS)[-1]
    terms, _ = method.objective(np.sign(H), H, LAYERS)
    quantization = balance = 0.0
    outputs = [naive_outputs(LAYERS, row) for row in X]
    for k in range(3):
        mean = sum(row[k] for row in outputs) / 7
        for row in outputs:
            quantization += ((1 if row[k] >= 0 else -1) - row[k]) ** 2 / 14
            balance += (row[k] - mean) ** 2 / 14
    independence, size = naive_penalties(LAYERS)
    assert terms["quantization"] == pytest.approx(quantization)
    assert terms["balance"] == pytest.approx(-0.7 * balance)
    assert terms["independence"] == pytest.approx(0.15 * independence)
    assert terms["size"] == pytest.approx(0.1 * size)


def test_the_gradient_is_that_of_the_objective():
    check_gradient(DH(bits=3, **WEIGHTS))


def test_widths_are_the_papers_and_fit_the_features():
    assert _liong.widths(512, 16) == (60, 30, 16)
    assert _liong.widths(512, 32) == (80, 50, 32)
    assert _liong.widths(512, 64) == (100, 80, 64)
    assert _liong.widths(512, 48) == (90, 65, 48)
    assert _liong.widths(512, 256) == (256, 256, 256)
    assert _liong.widths(20, 32) == (20, 20, 32)


def test_layers_start_orthonormal(digits):
    layers = _liong.start(digits.train.pooled, (20, 12, 8), np.random.default_rng(0))
    for W, _ in layers:
        np.testing.assert_allclose(W @ W.T, np.eye(len(W)), atol=1e-5)


def test_a_vector_of_all_weights_gives_back_the_layers():
    again = _liong.unpack(_liong.pack(LAYERS), [W.shape for W, _ in LAYERS])
    for (W, c), (V, d) in zip(LAYERS, again, strict=True):
        np.testing.assert_allclose(V, W, rtol=1e-6)
        np.testing.assert_allclose(d, c, rtol=1e-6)


def test_no_round_raises_the_objective_and_outputs_come_to_their_signs(lab):
    history = lab.smoke_fit("dh_liong").method.history_
    values = [sum(terms.values()) for terms in history]
    assert (np.diff(values) <= 0).all()
    assert history[-1]["quantization"] < 0.8 * history[0]["quantization"]


def test_orthogonality_bounds_the_weights_and_learning_improves_retrieval(lab):
    def scores(**params):
        method = lab.create("dh_liong", {}, bits=32, **params).fit(split)
        size = max(np.linalg.norm(W, 2) for W, _ in method.layers)
        return size, lab.mean_ap(lab.distances(method), lab.relevance())

    split = lab.make_split(DH())
    start, end, free = scores(rounds=0), scores(), scores(lam2=0.0)
    assert start[0] == pytest.approx(1, abs=1e-4)
    assert end[0] < 0.5 * free[0]
    assert end[1] > start[1] + 0.05
    assert end[1] > free[1] + 0.05
