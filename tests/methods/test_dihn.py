"""DIHN: old codes never change, new ones are found as in the full objective, balance is exact."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dihn import DIHN
from cbir_lite.methods.deep import TrainingData

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((40, 6)).astype(np.float32)
Y = np.eye(5, dtype=np.uint8)[RANDOM.integers(0, 5, 40)]
OLD = Y[:, :3].any(1)


def in_a_round(mu=50.0, gamma=200.0):
    """A system at the start of its first round, and its data; three of five classes are old."""
    method = DIHN(
        bits=12, epochs=1, width=16, sample=15, inner_epochs=1, original=0.6, mu=mu, gamma=gamma
    )
    method.fit(Split(X[:5], Y[:5], database=Split(X, Y)))
    data = TrainingData(torch.from_numpy(X), torch.from_numpy(Y).float())
    method.start_fit(data)
    method.start_epoch(0, data)
    return method, data


def objective(U, V, omega, gamma, mu):
    """The objective by loops over every pair, terms apart."""
    share = np.array([[any(Y[i] & Y[j]) for j in range(40)] for i in omega])
    S = np.where(share, 1.0, -share.sum() / (~share).sum())
    similarity = agreement = balance = 0.0
    for r, i in enumerate(omega):
        for j in range(40):
            similarity += (U[r] @ V[j] - 12 * S[r, j]) ** 2
        agreement += gamma * ((V[i] - U[r]) ** 2).sum()
        balance += mu * U[r].sum() ** 2
    return similarity, agreement, balance


def test_loss_is_that_of_old_and_new_codes_and_the_balance_of_each_output():
    method, data = in_a_round(mu=70.0, gamma=30.0)
    omega = method.memory_["omega"]
    terms = method.loss(data.batch(omega))
    U = np.tanh(method.embed(X).astype(np.float64))[omega.numpy()]
    V = method.memory_["V"].double().numpy()
    similarity, agreement, balance = objective(U, V, omega.tolist(), 30.0, 70.0)
    assert balance > 0.01 * similarity
    assert terms["similarity"].item() == pytest.approx((similarity + balance) / 600, rel=1e-4)
    assert terms["agreement"].item() == pytest.approx(agreement / 600, rel=1e-4)


def test_old_codes_stay_and_the_step_on_new_ones_never_raises_the_objective():
    method, data = in_a_round()
    omega = method.memory_["omega"].tolist()
    before = method.memory_["V"].clone()
    U = np.tanh(method.embed(X).astype(np.float64))[omega]
    values = [sum(objective(U, before.double().numpy(), omega, 200.0, 50.0))]
    for _ in range(3):
        method._update_codes(data.x)
        V = method.memory_["V"].double().numpy()
        values.append(sum(objective(U, V, omega, 200.0, 50.0)))
    np.testing.assert_array_equal(V[OLD], before.numpy()[OLD])
    assert (V[~OLD] != before.numpy()[~OLD]).any()
    assert values[1] < values[0]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(values))
    for row in np.flatnonzero(~OLD):
        for k in range(12):
            flipped = V.copy()
            flipped[row, k] *= -1
            assert sum(objective(U, flipped, omega, 200.0, 50.0)) >= values[-1] * (1 - 1e-9)


def test_old_codes_do_not_depend_on_the_new_images(lab):
    split = lab.make_split(lab.create("dihn", lab.SHORT), 128)
    database = split.database
    new = database.labels[:, 7:].any(1)
    x = database.x.copy()
    x[new] = x[new][:, ::-1]
    codes = [
        lab.create("dihn", lab.SHORT, bits=16)
        .fit(Split(split.x, split.labels, database=Split(d, database.labels)))
        .codes_
        for d in (database.x, x)
    ]
    np.testing.assert_array_equal(codes[0][~new], codes[1][~new])
    assert (codes[0][new] != codes[1][new]).any()


def test_queries_of_old_and_of_new_classes_find_their_images(lab, digits):
    method = lab.smoke_fit("dihn").method
    distance, relevant = lab.distances(method), lab.relevance()
    new = digits.query.y[:, 7:].any(1)
    assert lab.mean_ap(distance[new], relevant[new]) > lab.lsh_map()
    assert lab.mean_ap(distance[~new], relevant[~new]) > lab.lsh_map()


def test_a_database_without_new_classes_and_impossible_shares_are_refused():
    y = np.eye(5, dtype=np.uint8)[np.arange(40) % 2]
    with pytest.raises(ValueError, match="40 of 40 database rows are of the first 4 classes"):
        DIHN(epochs=1).fit(Split(X[:5], y[:5], database=Split(X, y)))
    with pytest.raises(ValueError, match=r"original=1\.0"):
        DIHN(original=1.0)
