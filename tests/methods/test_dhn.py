"""DHN: both terms against explicit pairs, the prior's two modes, tightness of the relaxation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dhn import DHN, log_cosh
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)


def test_terms_are_those_of_explicit_pairs():
    method = DHN(bits=24, epochs=1, width=8, dropout=0.0, lam=0.7).fit(Split(X, Y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8)))

    z = np.tanh(method.embed(X).astype(np.float64))
    likelihood = 0.0
    for i in range(8):
        for j in range(8):
            product = sum(z[i] * z[j])
            likelihood += math.log(1 + math.exp(product)) - any(Y[i] & Y[j]) * product
    prior = sum(math.log(math.cosh(abs(v) - 1)) for v in z.ravel())
    assert terms["likelihood"].item() == pytest.approx(likelihood / 64, rel=1e-4)
    assert terms["prior"].item() == pytest.approx(0.7 * prior / 8, rel=1e-4)


def test_log_cosh_is_exact_for_small_and_finite_for_large_values():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    torch.testing.assert_close(log_cosh(x), torch.cosh(x).log())
    assert log_cosh(torch.tensor(1e6)).item() == pytest.approx(1e6 - math.log(2))


def test_prior_brings_outputs_to_the_code_values(lab):
    def distance(lam):
        method = lab.create("dhn", lab.SHORT, bits=16, lam=lam)
        split = lab.make_split(method)
        method.epochs = 8
        z = np.tanh(method.fit(split).embed(split.x))
        return float(np.abs(np.abs(z) - 1).mean())

    assert distance(50.0) < distance(0.0) - 0.1
