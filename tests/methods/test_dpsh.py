"""DPSH: both terms against explicit pairs, and the stored outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dpsh import DPSH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (9, 3)).astype(np.uint8)


@pytest.mark.parametrize("training", [False, True])
def test_terms_are_those_of_explicit_pairs(training):
    method = DPSH(bits=12, epochs=1, width=8, dropout=0.0, eta=3.0).fit(Split(X, Y))
    U = RANDOM.standard_normal((9, 12)).astype(np.float32)
    method.memory_["U"] = torch.from_numpy(U.copy())
    method.network_.train(training)
    rows = [4, 0, 7]
    batch = Batch(torch.from_numpy(X[rows]), torch.from_numpy(Y[rows]).float(), torch.tensor(rows))
    terms = method.loss(batch)

    u = method.embed(X).astype(np.float64)
    stored = U.astype(np.float64)
    if training:
        stored[rows] = u[rows]
    likelihood = quantization = 0.0
    for i in rows:
        for j in range(9):
            s = float(any(Y[i] & Y[j]))
            theta = sum(u[i] * stored[j]) / 2
            likelihood -= s * theta - math.log(1 + math.exp(theta))
        quantization += sum((v - (1 if v >= 0 else -1)) ** 2 for v in u[i])
    assert terms["likelihood"].item() == pytest.approx(likelihood / 27, rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(3 * quantization / 27, rel=1e-4)


def test_stored_outputs_are_those_of_rows_that_passed_and_zero_before():
    method = DPSH(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, Y))
    method.memory_["U"] = torch.zeros(9, 12)
    method.network_.train()
    rows = torch.tensor([2, 6])
    method.loss(Batch(torch.from_numpy(X)[rows], torch.from_numpy(Y).float()[rows], rows))
    U = method.memory_["U"]
    np.testing.assert_allclose(U[rows], method.embed(X[[2, 6]]), rtol=1e-5, atol=1e-6)
    assert not U[[0, 1, 3, 4, 5, 7, 8]].any()
    assert not U.requires_grad


def test_similar_digits_end_nearer_than_dissimilar_ones(lab, digits):
    codes = lab.smoke_fit("dpsh").method.encode(digits.query.pooled).astype(int)
    product = codes @ codes.T
    similar = digits.query.y @ digits.query.y.T > 0
    different = ~np.eye(len(codes), dtype=bool)
    assert product[similar & different].mean() > product[~similar].mean() + 8
