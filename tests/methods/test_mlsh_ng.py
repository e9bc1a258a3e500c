"""MLSH: the tables' terms, their independence of the network, and what they add to each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.mlsh_ng import MLSH, table_bits
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((7, 5)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 7)]
BATCH = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(7))


def fitted():
    return MLSH(bits=13, epochs=1, width=8, dropout=0.0, eta=0.7).fit(Split(X, Y))


@pytest.mark.parametrize(
    ("bits", "expected"), [(12, [4, 4, 4]), (16, [5, 5, 6]), (32, [10, 11, 11])]
)
def test_bits_are_shared_evenly(bits, expected):
    assert table_bits(bits) == expected


def test_terms_are_those_of_explicit_pairs_of_each_table():
    method = fitted()
    terms = method.loss(BATCH)
    outputs = method.embed(X).astype(np.float64)
    features = [f.detach().double().numpy() for f in method.network_.levels(torch.from_numpy(X))]
    first = 0
    for level, size in enumerate([4, 4, 5], 1):
        table = method.network_.tables[level - 1]
        W, c = table.weight.detach().double().numpy(), table.bias.detach().double().numpy()
        z = np.array(
            [[sum(w * f) + b for w, b in zip(W, c, strict=True)] for f in features[level - 1]]
        )
        np.testing.assert_allclose(z, outputs[:, first : first + size], rtol=1e-4, atol=1e-5)
        first += size
        likelihood = quantization = 0.0
        for i in range(7):
            quantization += sum((abs(v) - 1) ** 2 for v in z[i])
            for j in range(i + 1, 7):
                theta = sum(z[i] * z[j]) / 2
                likelihood += math.log(1 + math.exp(theta)) - any(Y[i] & Y[j]) * theta
        assert terms[f"likelihood_{level}"].item() == pytest.approx(likelihood / 21, rel=1e-4)
        assert terms[f"quantization_{level}"].item() == pytest.approx(
            0.7 * quantization / (7 * size), rel=1e-4
        )
    V, d = (p.detach().double().numpy() for p in method.network_.classifier.parameters())
    error = 0.0
    for f, label in zip(features[2], Y.argmax(1), strict=True):
        scores = [sum(V[k] * f) + d[k] for k in range(3)]
        error += math.log(sum(math.exp(v) for v in scores)) - scores[label]
    assert terms["classification"].item() == pytest.approx(error / 7, rel=1e-4)


def test_a_table_learns_from_its_own_term_only_and_leaves_the_features_alone():
    method = fitted()
    for level in (1, 2, 3):
        method.network_.zero_grad()
        method.loss(BATCH)[f"likelihood_{level}"].backward()
        touched = {n for n, p in method.network_.named_parameters() if p.grad is not None}
        assert touched == {f"tables.{level - 1}.weight", f"tables.{level - 1}.bias"}


def test_tables_together_retrieve_better_than_any_alone(lab, digits):
    method = lab.smoke_fit("mlsh_ng").method
    sides = [s.astype(int) for s in lab.sides(method)]

    def score(columns):
        q, b = (s[:, columns] for s in sides)
        return lab.mean_ap((q.shape[1] - q @ b.T) // 2, lab.relevance())

    alone = [score(slice(a, b)) for a, b in ((0, 10), (10, 21), (21, 32))]
    assert min(alone) > lab.lsh_map()
    assert score(slice(None)) > max(alone)
