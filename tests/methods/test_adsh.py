"""ADSH: sums over the database against the full matrix, the discrete step, the two sides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.adsh import ADSH
from cbir_lite.methods.deep import TrainingData

RANDOM = np.random.default_rng(0)
ONE = np.eye(4, dtype=np.uint8)[RANDOM.integers(0, 4, 40)]
SEVERAL = RANDOM.integers(0, 2, (40, 4)).astype(np.uint8)
BOTH = pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])
X = RANDOM.standard_normal((40, 6)).astype(np.float32)


def in_a_round(y, bits=12):
    """A system in the middle of its second round, and its data."""
    method = ADSH(bits=bits, epochs=1, width=16, sample=15, inner_epochs=1)
    database = Split(X, y)
    method.fit(Split(X[:5], y[:5], database=database))
    data = TrainingData(torch.from_numpy(X), torch.from_numpy(y).float())
    method.start_fit(data)
    method.start_epoch(0, data)
    return method, data


def full_similarity(y, omega):
    """S (|Omega|, m) by loops: 1, or minus the ratio of the numbers of both kinds."""
    shares = np.array([[any(y[i] & y[j]) for j in range(len(y))] for i in omega.tolist()])
    return np.where(shares, 1.0, -shares.sum() / (~shares).sum())


def objective(U, V, S, omega, bits, gamma):
    value = 0.0
    for i, row in enumerate(omega.tolist()):
        for j in range(len(V)):
            value += (U[i] @ V[j] - bits * S[i, j]) ** 2
        value += gamma * ((V[row] - U[i]) ** 2).sum()
    return value


@BOTH
def test_loss_is_that_of_every_pair_with_the_database(y):
    method, data = in_a_round(y)
    omega, V = method.memory_["omega"], method.memory_["V"].double().numpy()
    S = full_similarity(y, omega)
    terms = method.loss(data.batch(omega[3:11]))
    U = np.tanh(method.embed(X).astype(np.float64))
    similarity = agreement = 0.0
    for i in range(3, 11):
        for j in range(40):
            similarity += (U[omega[i]] @ V[j] - 12 * S[i, j]) ** 2
        agreement += 200 * ((V[omega[i]] - U[omega[i]]) ** 2).sum()
    assert terms["similarity"].item() == pytest.approx(similarity / (8 * 40), rel=1e-4)
    assert terms["agreement"].item() == pytest.approx(agreement / (8 * 40), rel=1e-4)


@BOTH
def test_gradient_is_that_of_the_full_matrix(y):
    method, data = in_a_round(y)
    omega, V = method.memory_["omega"], method.memory_["V"]
    S = torch.from_numpy(full_similarity(y, omega)).float()
    u = torch.tanh(method.network_(data.x[omega]))
    full = (u @ V.T - 12 * S).square().sum() + 200 * (V[omega] - u).square().sum()
    parameters = list(method.network_.parameters())
    expected = torch.autograd.grad(full / (len(omega) * 40), parameters)
    actual = torch.autograd.grad(sum(method.loss(data.batch(omega)).values()), parameters)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@BOTH
def test_discrete_step_never_raises_the_objective_and_ends_bitwise_optimal(y):
    method, data = in_a_round(y)
    omega = method.memory_["omega"]
    S = full_similarity(y, omega)
    U = np.tanh(method.embed(X).astype(np.float64))[omega.numpy()]
    values = [objective(U, method.memory_["V"].numpy(), S, omega, 12, 200)]
    for _ in range(4):
        method._update_codes(data.x)
        values.append(objective(U, method.memory_["V"].numpy(), S, omega, 12, 200))
    assert values[1] < values[0]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values))
    V = method.memory_["V"].numpy()
    assert set(np.unique(V)) == {-1, 1}
    for k in range(12):
        for row in range(0, 40, 5):
            flipped = V.copy()
            flipped[row, k] *= -1
            assert objective(U, flipped, S, omega, 12, 200) >= values[-1] * (1 - 1e-6)


def test_a_column_is_the_closed_form_of_the_paper():
    method, data = in_a_round(ONE)
    omega = method.memory_["omega"]
    V = method.memory_["V"].double().numpy().copy()
    S = full_similarity(ONE, omega)
    U = np.tanh(method.embed(X).astype(np.float64))[omega.numpy()]
    bar_U = np.zeros((40, 12))
    bar_U[omega.numpy()] = U
    Q = -2 * 12 * S.T @ U - 2 * 200 * bar_U
    for k in range(12):
        rest = [c for c in range(12) if c != k]
        V[:, k] = np.where(2 * V[:, rest] @ U[:, rest].T @ U[:, k] + Q[:, k] <= 0, 1, -1)
    method._update_codes(data.x)
    np.testing.assert_array_equal(method.memory_["V"].numpy(), V)


def test_small_blocks_give_the_same_codes(monkeypatch):
    first, data = in_a_round(SEVERAL)
    second, _ = in_a_round(SEVERAL)
    first._update_codes(data.x)
    monkeypatch.setattr("cbir_lite.methods.cnn.adsh._BLOCK_ELEMENTS", 16)
    second.start_epoch(0, data)
    second._update_codes(data.x)
    assert torch.equal(first.memory_["V"], second.memory_["V"])
    torch.testing.assert_close(first.memory_["P"], second.memory_["P"])


def test_omega_is_drawn_anew_each_round_and_visited_in_every_inner_epoch():
    seen = []

    class Watched(ADSH):
        def _batches(self, data, epoch):
            batches = list(super()._batches(data, epoch))
            seen.append(sorted(torch.cat([b.index for b in batches]).tolist()))
            yield from batches

    method = Watched(bits=12, epochs=6, width=8, sample=15, inner_epochs=3, batch_size=4)
    method.fit(Split(X[:5], ONE[:5], database=Split(X, ONE)))
    assert [len(rows) for rows in seen] == [15] * 6
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5]


def test_database_side_holds_the_learned_codes_and_only_for_that_database(lab, digits):
    method = lab.smoke_fit("adsh").method
    x = digits.database.pooled
    codes = method.encode_database(x)
    np.testing.assert_array_equal(codes, method.codes_)
    assert (codes != method.encode(x)).any()
    for other in (x[:-1], x[::-1], digits.query.pooled):
        with pytest.raises(ValueError, match=r"database of 600 rows"):
            method.encode_database(other)


def test_learned_database_codes_rank_better_than_hashing_the_database(lab, digits):
    method = lab.smoke_fit("adsh").method
    q, x = method.encode(digits.query.pooled).astype(int), digits.database.pooled
    learned = lab.mean_ap(-q @ method.encode_database(x).T.astype(int), lab.relevance())
    hashed = lab.mean_ap(-q @ method.encode(x).T.astype(int), lab.relevance())
    assert learned > hashed
    assert learned > lab.lsh_map()


def test_a_split_without_database_and_a_held_out_part_are_refused():
    with pytest.raises(ValueError, match=r"with_database=True"):
        ADSH().fit(Split(X, ONE))
    with pytest.raises(ValueError, match="validation must be 0"):
        ADSH(validation=0.1)
    with pytest.raises(ValueError, match="sample=1"):
        ADSH(sample=1)


def test_a_database_of_one_class_has_no_dissimilar_pairs():
    y = np.ones((40, 1), np.uint8)
    method = ADSH(bits=12, epochs=1, width=8, inner_epochs=1)
    method.fit(Split(X[:5], y[:5], database=Split(X, y)))
    assert np.isfinite(list(method.history_[-1].values())).all()
