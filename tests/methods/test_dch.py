"""DCH: both terms by their printed formulas over explicit pairs; concentration in a small ball."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dch import DCH, relaxed_distance
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)


def cosine(a, b):
    return sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))


def test_terms_are_those_of_explicit_pairs():
    method = DCH(bits=12, epochs=1, width=8, dropout=0.0, gamma=3.0, lam=0.7).fit(Split(X, Y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8)))

    h = np.tanh(method.embed(X).astype(np.float64))
    pairs = [(i, j, float(any(Y[i] & Y[j]))) for i in range(8) for j in range(i + 1, 8)]
    similar = sum(s for *_, s in pairs)
    cauchy = quantization = 0.0
    for i, j, s in pairs:
        d = 6 * (1 - cosine(h[i], h[j]))
        w = 28 / similar if s else 28 / (28 - similar)
        cauchy += w * (s * math.log(d / 3) + math.log(1 + 3 / d))
    for row in h:
        quantization += math.log(1 + 6 * (1 - cosine(abs(row), np.ones(12))) / 3)
    assert terms["cauchy"].item() == pytest.approx(cauchy / 28, rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.7 * quantization / 8, rel=1e-4)


def test_relaxed_distance_of_codes_is_their_hamming_distance():
    a, b = RANDOM.choice([-1.0, 1.0], (2, 30, 24))
    d = relaxed_distance(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(d, (a != b).sum(1))


def test_equal_outputs_of_a_dissimilar_pair_cost_much_but_not_infinitely():
    method = DCH(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, Y))
    x = torch.from_numpy(X[[0, 0]])
    terms = method.loss(Batch(x, torch.eye(2), torch.arange(2)))
    assert 9 < terms["cauchy"].item() < 12


def test_small_gamma_gathers_similar_digits_within_radius_two(lab, digits):
    def recall(gamma):
        method = lab.create("dch", lab.SMOKE, bits=32, gamma=gamma)
        method.fit(lab.make_split(method))
        near = lab.distances(method) <= 2
        return (near & lab.relevance()).sum() / lab.relevance().sum()

    assert recall(4.0) > 1.3 * recall(4000.0)
