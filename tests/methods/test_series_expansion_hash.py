"""Series expansion: derivatives, the series against the true loss, the best codes, the schedule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.series_expansion_hash import (
    SeriesExpansionHash,
    derivatives,
    pair_loss,
)
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((7, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (7, 3)).astype(np.uint8)
S = np.array([[float(any(a & b)) for b in Y] for a in Y])
OUTPUTS = np.tanh(RANDOM.standard_normal((7, 4)))


def naive_loss(f):
    value = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                t = sum(f[i] * f[j]) / 2
                value += math.log(1 + math.exp(t)) - S[i, j] * t
    return value / 42


def test_derivatives_are_those_of_the_naive_loss():
    gradient, curvature = derivatives(torch.from_numpy(OUTPUTS), torch.from_numpy(S))
    for i, k in itertools.product(range(7), range(4)):
        step = np.zeros((7, 4))
        step[i, k] = 1e-3
        up, down = naive_loss(OUTPUTS + step), naive_loss(OUTPUTS - step)
        centre = naive_loss(OUTPUTS)
        assert gradient[i, k].item() == pytest.approx((up - down) / 2e-3, abs=1e-7)
        assert curvature[i, k].item() == pytest.approx((up - 2 * centre + down) / 1e-6, abs=1e-6)
    assert pair_loss(torch.from_numpy(OUTPUTS), torch.from_numpy(S)).item() == pytest.approx(centre)


def test_terms_are_the_relaxed_loss_and_the_weighted_series():
    method = SeriesExpansionHash(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, Y))
    method.memory_["lam"] = torch.tensor(0.7)
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(7)))
    f = np.tanh(method.embed(X).astype(np.float64))
    gradient, curvature = (d.numpy() for d in derivatives(torch.from_numpy(f), torch.from_numpy(S)))
    series = 0.0
    for i, k in itertools.product(range(7), range(12)):
        # The better of the two values of the bit.
        series += min(
            gradient[i, k] * (b - f[i, k]) + curvature[i, k] * (b - f[i, k]) ** 2 / 2
            for b in (-1, 1)
        )
    assert terms["relaxed"].item() == pytest.approx(naive_loss(f), rel=1e-4)
    assert terms["discrepancy"].item() == pytest.approx(0.7 * series, rel=1e-3)


def test_the_series_is_nearer_to_the_loss_of_moved_outputs_than_the_relaxed_loss():
    gradient, curvature = (
        d.numpy() for d in derivatives(torch.from_numpy(OUTPUTS), torch.from_numpy(S))
    )
    for i, k in itertools.product(range(7), range(4)):
        moved = OUTPUTS.copy()
        moved[i, k] = np.sign(moved[i, k])
        gap = moved[i, k] - OUTPUTS[i, k]
        zeroth = naive_loss(OUTPUTS)
        first = zeroth + gradient[i, k] * gap
        second = first + curvature[i, k] * gap**2 / 2
        true = naive_loss(moved)
        assert abs(second - true) <= abs(first - true) <= abs(zeroth - true) + 1e-4


def test_without_discrepancy_the_network_follows_the_relaxed_loss_and_in_the_end_the_codes():
    method = SeriesExpansionHash(bits=4, epochs=1, width=8).fit(Split(X, Y))
    y = torch.from_numpy(Y).float()
    gradient, curvature = derivatives(
        torch.from_numpy(OUTPUTS).float(), torch.from_numpy(S).float()
    )
    f = torch.from_numpy(OUTPUTS).float()
    B = method.codes(f, gradient, curvature)
    for lam, expected in ((0.0, gradient), (1.0, curvature * (f - B))):
        z = torch.atanh(f).requires_grad_()
        method.network_ = lambda x, z=z: z
        method.memory_["lam"] = torch.tensor(lam)
        terms = method.loss(Batch(torch.from_numpy(X), y, torch.arange(7)))
        actual = torch.autograd.grad(sum(terms.values()), z)[0]
        torch.testing.assert_close(actual, expected * (1 - f.square()), rtol=1e-4, atol=1e-6)


def test_weight_rises_from_zero_to_the_last(lab):
    method = SeriesExpansionHash(bits=12, epochs=5, width=8, last=0.8)
    weights = []
    start = method.start_epoch
    method.start_epoch = lambda epoch, data: (
        start(epoch, data),
        weights.append(method.memory_["lam"].item()),
    )
    method.fit(Split(X, Y))
    np.testing.assert_allclose(weights, [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
