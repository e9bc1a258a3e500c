"""DPAH: both terms, two peaks, and the place of each image among the class centres."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dpah import DPAH, kurtosis
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
Y[:, 0] |= Y.sum(1) == 0


def test_terms_are_those_of_explicit_rows_and_centres():
    method = DPAH(bits=12, epochs=1, width=8, dropout=0.0, lam=0.7).fit(Split(X, Y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8)))
    f = np.tanh(method.embed(X).astype(np.float64))
    centres = np.tanh(method.network_.centres.detach().double().numpy())
    position = 0.0
    for row, labels in zip(f, Y, strict=True):
        weights = [
            math.exp(-sum((a - b) ** 2 for a, b in zip(row, c, strict=True)) / 4 / (12 / 16))
            for c in centres
        ]
        for w, t in zip(weights, labels, strict=True):
            position -= t / labels.sum() * math.log(w / sum(weights))
    excess = 0.0
    for column in f.T:
        mean = sum(column) / 8
        second = sum((v - mean) ** 2 for v in column) / 8
        fourth = sum((v - mean) ** 4 for v in column) / 8
        excess += fourth / second**2 - 1
    assert terms["position"].item() == pytest.approx(position / 8, rel=1e-4)
    assert terms["kurtosis"].item() == pytest.approx(0.7 * excess / 12, rel=1e-3)


def test_kurtosis_is_one_only_for_two_equal_peaks():
    ones = torch.ones(4)
    columns = torch.stack(
        [
            torch.cat([ones, -ones]),
            torch.cat([ones, ones[:2], -ones[:2]]),
            torch.tensor([1.0, 0, 0, 0, 0, 0, 0, -1]),
        ],
        1,
    )
    # Two values in shares p and 1 - p: 1 / (p (1 - p)) - 3; here p = 1/2 and 3/4.
    np.testing.assert_allclose(kurtosis(columns), [1, 16 / 3 - 3, 4], rtol=1e-6)


def test_the_kurtosis_term_moves_outputs_towards_two_equal_peaks(lab, digits):
    def excess(method):
        z = torch.from_numpy(method.embed(digits.query.pooled))
        return float(kurtosis(torch.tanh(z)).mean()) - 1

    without = lab.create("dpah", lab.SMOKE, bits=32, lam=0.0)
    without.fit(lab.make_split(without))
    assert excess(lab.smoke_fit("dpah").method) < 0.9 * excess(without)


def test_unseen_digits_lie_nearest_to_the_centre_of_their_class(lab, digits):
    method = lab.smoke_fit("dpah").method
    centres = np.sign(method.network_.centres.detach().numpy())
    products = method.encode(digits.query.pooled) @ centres.T
    assert (products.argmax(1) == digits.query.y.argmax(1)).mean() > 0.85
    between = centres @ centres.T
    assert between[~np.eye(10, dtype=bool)].mean() < 0.3 * 32
