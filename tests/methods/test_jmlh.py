"""JMLH: both terms, the sampling of bits, and what the divergence does to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.jmlh import JMLH, divergence
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 8)]
BATCH = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8))


def fitted():
    return JMLH(bits=12, epochs=1, width=8, dropout=0.0, lam=0.7).fit(Split(X, Y))


def likelihood(bits, method):
    W, c = (p.detach().double().numpy() for p in method.network_.classifier.parameters())
    value = 0.0
    for b, label in zip(bits, Y.argmax(1), strict=True):
        scores = [sum(w for w, on in zip(W[k], b, strict=True) if on) + c[k] for k in range(3)]
        value += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    return value / 8


def test_terms_are_those_of_explicit_rows():
    method = fitted()
    z = method.embed(X).astype(np.float64)
    terms = method.loss(BATCH)
    expected = 0.0
    for row in z:
        for v in row:
            q = 1 / (1 + math.exp(-v))
            expected += q * math.log(q / 0.5) + (1 - q) * math.log((1 - q) / 0.5)
    assert terms["likelihood"].item() == pytest.approx(likelihood(z >= 0, method), rel=1e-4)
    assert terms["divergence"].item() == pytest.approx(0.7 * expected / 8, rel=1e-3)
    assert float(divergence(torch.tensor(80.0))) == pytest.approx(math.log(2))


def test_training_samples_each_bit_with_its_probability():
    method = fitted()
    method.network_.train()
    z = torch.from_numpy(method.embed(X))
    method.network_.train()
    torch.manual_seed(0)
    draws = [method.loss(BATCH)["likelihood"].item() for _ in range(400)]
    generator = np.random.default_rng(0)
    q = z.sigmoid().numpy()
    expected = [likelihood(generator.random(q.shape) < q, method) for _ in range(400)]
    error = math.hypot(np.std(draws), np.std(expected)) / math.sqrt(400)
    assert np.std(draws) > 0
    assert abs(np.mean(draws) - np.mean(expected)) < 4 * error
    assert np.std(draws) == pytest.approx(np.std(expected), rel=0.2)


def test_the_divergence_keeps_bits_uncertain_and_balanced(lab, digits):
    free = lab.create("jmlh", lab.SMOKE, bits=32, lam=0.0)
    free.fit(lab.make_split(free))
    bound = lab.smoke_fit("jmlh").method
    z = [m.embed(digits.query.pooled) for m in (free, bound)]
    assert np.abs(z[1]).mean() < 0.5 * np.abs(z[0]).mean()
    balance = [np.abs(np.where(v >= 0, 1, -1).mean(0)).mean() for v in z]
    assert balance[1] < balance[0]
