"""VDSH: each local step against brute force, the objective, and training through depth."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.vdsh import VDSH, theta_step, u_step, z_step

RANDOM = np.random.default_rng(0)


def test_u_step_finds_the_best_value_of_each_entry():
    z, v = RANDOM.standard_normal((2, 200)) * 2
    grid = np.linspace(-8, 8, 3201)
    cost = np.square(z[:, None] - np.maximum(grid, 0)) + np.square(grid - v[:, None])
    u = u_step(z, v)
    found = np.square(z - np.maximum(u, 0)) + np.square(u - v)
    assert (found <= cost.min(1) + 1e-9).all()
    assert (u[(z > 0) & (v > 0)] > 0).all()


def z_cost(theta, target, u, z):
    cost = 0.0
    for k, t in enumerate(target):
        cost += 0.7 * (t - sum(theta[k, :-1] * z) - theta[k, -1]) ** 2
    return cost + sum((a - max(b, 0)) ** 2 for a, b in zip(z, u, strict=True))


def theta_cost(theta, z, target):
    cost = 0.3 * sum(v * v for row in theta for v in row)
    for row, t in zip(z, target, strict=True):
        cost += sum((t[k] - sum(theta[k, :-1] * row) - theta[k, -1]) ** 2 for k in range(len(t)))
    return cost


def test_z_and_theta_steps_are_minima():
    theta, target = RANDOM.standard_normal((3, 5)), RANDOM.standard_normal((6, 3))
    u, z = RANDOM.standard_normal((2, 6, 4))
    best = z_step(theta, target, u, 0.7)
    weights = theta_step(z, target, 0.3)
    for _ in range(30):
        move = 0.01 * RANDOM.standard_normal(4)
        for i in range(6):
            here = z_cost(theta, target[i], u[i], best[i])
            assert here < z_cost(theta, target[i], u[i], best[i] + move)
        away = weights + 0.01 * RANDOM.standard_normal(weights.shape)
        assert theta_cost(weights, z, target) < theta_cost(away, z, target)


def test_terms_are_those_of_explicit_rows():
    method = VDSH(bits=2, depth=1, width=3, lam=0.4, nu=0.2, rho=0.3)
    B, Y = np.sign(RANDOM.standard_normal((5, 2))), np.eye(2)[[0, 1, 1, 0, 1]]
    W, x = RANDOM.standard_normal((2, 2)), RANDOM.standard_normal((5, 4))
    z, u = RANDOM.standard_normal((2, 5, 3))
    theta = [RANDOM.standard_normal((3, 5)), RANDOM.standard_normal((2, 4))]
    terms = method._terms(B, Y, W, [x, z], [u], theta, [0.5, 0.6])
    classification = 0.4 * sum(v * v for row in W for v in row)
    hashing = 0.6 * sum(v * v for row in theta[1] for v in row)
    layers = 0.5 * sum(v * v for row in theta[0] for v in row)
    for i in range(5):
        classification += sum((Y[i, c] - sum(W[:, c] * B[i])) ** 2 for c in range(2))
        for k in range(2):
            hashing += (B[i, k] - sum(theta[1][k, :-1] * z[i]) - theta[1][k, -1]) ** 2
        for k in range(3):
            layers += (z[i, k] - max(u[i, k], 0)) ** 2
            layers += (u[i, k] - sum(theta[0][k, :-1] * x[i]) - theta[0][k, -1]) ** 2
    assert terms["classification"] == pytest.approx(classification / 5)
    assert terms["hashing"] == pytest.approx(0.2 * hashing / 5)
    assert terms["layers"] == pytest.approx(0.3 * layers / 5)


def test_no_round_raises_the_objective_at_any_depth(lab):
    for depth in (1, 5):
        method = lab.create("vdsh", lab.SMOKE, bits=32, depth=depth, rounds=6)
        method.fit(lab.make_split(method))
        values = [sum(terms.values()) for terms in method.history_]
        assert len(values) == 7
        assert (np.diff(values) <= 1e-6).all()
        assert values[-1] < 0.5 * values[0]


def test_local_updates_train_through_many_layers(lab):
    def score(**params):
        method = lab.create("vdsh", lab.SMOKE, bits=32, depth=6, **params)
        method.fit(lab.make_split(method))
        return lab.mean_ap(lab.distances(method), lab.relevance())

    assert score() > score(rounds=0) + 0.2


def test_no_hidden_layer_is_refused():
    with pytest.raises(ValueError, match="depth=0"):
        VDSH(depth=0).fit(Split(np.ones((3, 2)), np.ones((3, 1), np.uint8)))
