"""CNNH: the first stage against the n x n matrices, the second against explicit sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.cnnh import CNNH, newton_sweep
from cbir_lite.methods.deep import Batch, TrainingData

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((14, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 14)]
SEVERAL = RANDOM.integers(0, 2, (14, 3)).astype(np.uint8)
BOTH = pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])


def similarity(y):
    return np.array([[1.0 if any(a & b) else -1.0 for b in y] for a in y])


@BOTH
def test_a_pass_moves_every_entry_by_its_newton_step(y):
    q, order = 6, RANDOM.permutation(14 * 6)
    H = RANDOM.uniform(-1, 1, (14, q))
    kinds, kind = np.unique(y, axis=0, return_inverse=True)
    sums = np.array([H[kind == k].sum(0) for k in range(len(kinds))])
    actual, G = H.copy(), H.T @ H
    newton_sweep(actual, G, sums, similarity(kinds), kind, order)

    S, objective = similarity(y), []
    for t in order:
        i, j = divmod(int(t), q)

        def value(h, i=i, j=j):
            moved = H.copy()
            moved[i, j] = h
            return np.square(moved @ moved.T - q * S).sum()

        step = 1e-3
        centre, up, down = value(H[i, j]), value(H[i, j] + step), value(H[i, j] - step)
        first, second = (up - down) / (2 * step), (up - 2 * centre + down) / step**2
        if second > 0:
            H[i, j] = np.clip(H[i, j] - first / second, -1, 1)
        objective.append(value(H[i, j]))
    np.testing.assert_allclose(actual, H, atol=1e-3)
    np.testing.assert_allclose(G, actual.T @ actual, atol=1e-9)
    np.testing.assert_allclose(sums, [actual[kind == k].sum(0) for k in range(len(kinds))])
    assert objective[-1] < objective[0]


@BOTH
def test_logged_objective_is_that_of_all_pairs_and_never_rises(y):
    method = CNNH(bits=12, epochs=1, width=8, passes=6).fit(Split(X, y))
    values = method.memory_["objective"].numpy()
    H = method.memory_["relaxed"].double().numpy()
    expected = sum(
        (H[i] @ H[j] - 12 * similarity(y)[i, j]) ** 2 for i in range(14) for j in range(14)
    )
    assert values[-1] == pytest.approx(expected, rel=1e-4)
    assert (np.diff(values) <= 0).all()
    assert values[-1] < 0.7 * values[0]
    assert np.abs(H).max() <= 1
    np.testing.assert_array_equal(method.memory_["H"].numpy(), np.where(H >= 0, 1, -1))


@BOTH
def test_second_stage_is_cross_entropy_of_bits_and_classes(y):
    method = CNNH(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, y))
    rows = torch.tensor([3, 0, 11, 7])
    batch = Batch(torch.from_numpy(X)[rows], torch.from_numpy(y).float()[rows], rows)
    terms = method.loss(batch)

    z = method.embed(X[rows.numpy()]).astype(np.float64)
    network = method.network_
    with torch.no_grad():
        logits = network.classes(network.trunk(batch.x)).double().numpy()
    H, bits, classes = method.memory_["H"].numpy(), 0.0, 0.0
    for r, i in enumerate(rows.tolist()):
        for k in range(12):
            p = 1 / (1 + math.exp(-z[r, k]))
            bits -= math.log(p if H[i, k] > 0 else 1 - p)
        if y is ONE:
            classes += math.log(np.exp(logits[r]).sum()) - logits[r][y[i].argmax()]
        else:
            p = 1 / (1 + np.exp(-logits[r]))
            classes -= sum(math.log(p[c] if y[i, c] else 1 - p[c]) for c in range(3)) / 3
    assert terms["bits"].item() == pytest.approx(bits / 48, rel=1e-4)
    assert terms["classes"].item() == pytest.approx(classes / 4, rel=1e-4)


def test_codes_of_the_first_stage_keep_classes_apart():
    y = np.eye(10, dtype=np.float32)[np.arange(200) % 10]
    method = CNNH(bits=32, width=8)
    method.start_fit(TrainingData(torch.zeros(200, 2), torch.from_numpy(y)))
    H = method.memory_["H"].numpy()
    product, similar = H @ H.T, y @ y.T > 0
    assert product[similar].mean() > 28
    assert product[~similar].max() < product[similar].min()


def test_a_validation_part_is_refused():
    with pytest.raises(ValueError, match="validation must be 0: CNNH"):
        CNNH(validation=0.1)
