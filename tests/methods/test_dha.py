"""DHA: both terms against explicit pairs; the slope follows code length and spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dha import DHA, adaptive_scale
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
BATCH = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8))


def fitted(**params):
    return DHA(bits=12, epochs=1, width=8, dropout=0.0, **params).fit(Split(X, Y))


def test_terms_are_those_of_explicit_pairs():
    method = fitted(beta=1.7, lam=0.3)
    terms = method.loss(BATCH)

    h = np.tanh(method.embed(X).astype(np.float64))
    products = [sum(h[i] * h[j]) for i in range(8) for j in range(8) if i != j]
    scale = math.sqrt(sum(p * p for p in products) / 56)
    likelihood = 0.0
    for i in range(8):
        for j in range(i + 1, 8):
            theta = 1.7 * sum(h[i] * h[j]) / scale
            likelihood += math.log(1 + math.exp(theta)) - any(Y[i] & Y[j]) * theta
    quantization = sum((abs(v) - 1) ** 2 for v in h.ravel())
    assert terms["likelihood"].item() == pytest.approx(likelihood / 28, rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.3 * quantization / h.size, rel=1e-4)


def test_repeating_every_bit_does_not_change_the_likelihood():
    method = fitted()
    expected = method.loss(BATCH)["likelihood"].item()
    network = method.network_
    method.network_ = lambda x: torch.cat([network(x)] * 8, 1)
    assert method.loss(BATCH)["likelihood"].item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_pairs_does_not_vanish_for_spread_codes_of_any_length():
    for bits in (12, 64, 512):
        h = torch.from_numpy(RANDOM.choice([-1.0, 1.0], (40, bits)))
        product = h @ h.T
        theta = product / adaptive_scale(product)
        off = ~torch.eye(40, dtype=torch.bool)
        slope = (torch.sigmoid(theta) * torch.sigmoid(-theta))[off].mean()
        assert slope > 0.15
    fixed = (torch.sigmoid(product) * torch.sigmoid(-product))[off].mean()
    assert fixed < slope / 4


def test_scale_is_a_constant_for_the_gradient():
    h = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert not adaptive_scale(h @ h.T).requires_grad
