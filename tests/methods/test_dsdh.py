"""DSDH: both terms against explicit pairs, and the discrete step against all codes of a row."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dsdh import DSDH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (9, 3)).astype(np.uint8)


def row_objective(b, u, y, W, eta):
    """|y - W' b|^2 + eta |b - u|^2, written out."""
    value = sum((y[c] - sum(W[k, c] * b[k] for k in range(len(b)))) ** 2 for c in range(len(y)))
    return value + eta * sum((b[k] - u[k]) ** 2 for k in range(len(b)))


@pytest.mark.parametrize("training", [False, True])
def test_terms_are_those_of_explicit_pairs(training):
    method = DSDH(bits=12, epochs=1, width=8, dropout=0.0, eta=0.3).fit(Split(X, Y))
    U = RANDOM.standard_normal((9, 12)).astype(np.float32)
    method.memory_["U"] = torch.from_numpy(U.copy())
    method.network_.train(training)
    rows = [4, 0, 7, 2]
    batch = Batch(torch.from_numpy(X[rows]), torch.from_numpy(Y[rows]).float(), torch.tensor(rows))
    terms = method.loss(batch)

    u = method.embed(X).astype(np.float64)
    B, _ = method.discrete_step(torch.from_numpy(u[rows]), batch.labels)
    stored = U.astype(np.float64)
    if training:
        stored[rows] = u[rows]
    likelihood = codes = 0.0
    for r, i in enumerate(rows):
        for j in range(9):
            theta = sum(u[i] * stored[j]) / 2
            likelihood -= 2 * (any(Y[i] & Y[j]) * theta - math.log(1 + math.exp(theta)))
        codes += sum((float(B[r, k]) - u[i, k]) ** 2 for k in range(12))
    assert terms["likelihood"].item() == pytest.approx(likelihood / 36, rel=1e-4)
    assert terms["codes"].item() == pytest.approx(0.3 * codes / 36, rel=1e-4)


def test_classifier_solves_the_ridge_problem_on_the_signs_of_the_outputs():
    method = DSDH(bits=4, nu=0.3)
    u = torch.from_numpy(RANDOM.standard_normal((9, 4)))
    _, W = method.discrete_step(u, torch.from_numpy(Y).float())
    S = np.sign(u.numpy())
    gradient = S.T @ (S @ W - Y) + 0.3 * W
    np.testing.assert_allclose(gradient, 0, atol=1e-10)


def test_discrete_codes_cannot_be_bettered_by_one_bit_and_mostly_not_at_all():
    method = DSDH(bits=6, eta=0.05, sweeps=50)
    u = torch.from_numpy(0.3 * RANDOM.standard_normal((40, 6)))
    labels = torch.from_numpy(np.eye(3)[RANDOM.integers(0, 3, 40)])
    B, W = method.discrete_step(u, labels)
    U, y, best = u.numpy(), labels.numpy(), 0
    for i, b in enumerate(B.double().numpy()):
        value = row_objective(b, U[i], y[i], W, 0.05)
        for k in range(6):
            flipped = b * np.where(np.arange(6) == k, -1, 1)
            assert value <= row_objective(flipped, U[i], y[i], W, 0.05) + 1e-9
        all_codes = itertools.product((-1.0, 1.0), repeat=6)
        least = min(row_objective(c, U[i], y[i], W, 0.05) for c in all_codes)
        best += value < least + 1e-9
    assert best >= 30
    assert (B.numpy() != np.where(U >= 0, 1, -1)).any()
