"""Deep hashing for scalable search: each criterion over explicit pairs, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.scalable_deep_hash_lu import DeepScalableHash
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 8)]
MANY = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
MANY[2] = 0


@pytest.mark.parametrize("y", [ONE, MANY], ids=["one_label", "many_labels"])
def test_terms_are_those_of_explicit_pairs(y):
    method = DeepScalableHash(bits=12, epochs=1, dropout=0.0, lam1=0.7, lam2=0.3, alpha=3.0).fit(
        Split(X, y)
    )
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(8)))
    h = np.tanh(method.embed(X).astype(np.float64))
    between, within, weight = [], 0.0, 0.0
    for i in range(8):
        for j in range(8):
            if i == j:
                continue
            d = sum((a - b) ** 2 for a, b in zip(h[i], h[j], strict=True))
            common, either = sum(y[i] & y[j]), sum(y[i] | y[j])
            if common:
                within += common / either * d
                weight += common / either
            else:
                between.append(d)
    quantization = sum((abs(v) - 1) ** 2 for row in h for v in row) / 8
    balance = sum((v - sum(column) / 8) ** 2 for column in h.T for v in column) / 8
    independence = 0.0
    for layer in method.network_.layers:
        W = layer.weight.detach().double().numpy()
        for i, a in enumerate(W):
            independence += sum((sum(a * b) - (i == j)) ** 2 for j, b in enumerate(W))
    expected = {
        "quantization": quantization / 2,
        "balance": -0.35 * balance,
        "between": -0.35 * 3 * sum(between) / len(between),
        "within": 0.35 * 3 * within / weight,
        "independence": 0.15 * independence,
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def test_pairs_of_one_kind_only_give_no_scatter_of_the_other():
    method = DeepScalableHash(bits=12, epochs=1).fit(Split(X, np.ones((8, 1), np.uint8)))
    same = Batch(torch.from_numpy(X), torch.ones(8, 1), torch.arange(8))
    assert method.loss(same)["between"].item() == 0
    apart = Batch(torch.from_numpy(X), torch.eye(8), torch.arange(8))
    assert method.loss(apart)["within"].item() == 0


def test_criteria_do_what_they_are_for(lab, digits):
    def codes(**params):
        method = lab.create("scalable_deep_hash_lu", lab.SMOKE, bits=32, **params)
        method.fit(lab.make_split(method))
        bits = method.encode(digits.database.pooled).astype(float)
        alike = np.abs(np.nan_to_num(np.corrcoef(bits.T)) - np.eye(32)).mean()
        return alike, lab.mean_ap(lab.distances(method), lab.relevance())

    whole, loose, unlabelled = codes(), codes(lam2=0.0), codes(alpha=0.0)
    assert whole[0] < 0.5 * loose[0]
    assert whole[1] > loose[1] + 0.03
    assert whole[1] > unlabelled[1] + 0.05
