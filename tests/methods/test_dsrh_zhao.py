"""DSRH of Zhao: lists by level, weights of gain, hinge and balance; graded relevance is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn import dsrh_zhao
from cbir_lite.methods.cnn.dsrh_zhao import DSRHZhao, sample_triplets
from cbir_lite.methods.deep import Batch

LABELS = torch.tensor(
    [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
    dtype=torch.float32,
)


def shared(a, b):
    return int((LABELS[a] * LABELS[b]).sum())


def test_triplets_order_levels_and_are_weighted_by_gain():
    torch.manual_seed(0)
    q, i, j, weight = sample_triplets(LABELS @ LABELS.T, 200)
    kinds = set()
    for a, b, c, w in zip(q.tolist(), i.tolist(), j.tolist(), weight.tolist(), strict=True):
        assert a not in (b, c)
        high, low = shared(a, b), shared(a, c)
        assert high > low
        kinds.add((a, high, low))
        levels = {0: (2, 1), 1: (2, 1), 2: (1, 0), 3: (1, 0), 4: (1, 0)}[a]
        Z = (2 ** levels[0] - 1) / math.log(2) + (2 ** levels[1] - 1) / math.log(3)
        assert w == pytest.approx((2**high - 2**low) / Z, rel=1e-5)
    # Query 0 shares two labels with row 1, one with row 2; a row without labels never asks.
    expected = {(0, 2, 1), (0, 2, 0), (0, 1, 0), (1, 2, 1), (1, 2, 0), (1, 1, 0)}
    assert kinds == expected | {(2, 1, 0), (3, 1, 0), (4, 1, 0)}


def test_a_single_label_gives_every_triplet_the_same_weight():
    y = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    q, i, j, weight = sample_triplets(y @ y.T, 5)
    assert len(q) == 6 * 5
    np.testing.assert_allclose(weight, math.log(2), rtol=1e-6)
    assert (y[q] * y[i]).sum() == len(q)
    assert (y[q] * y[j]).sum() == 0


def test_a_batch_of_one_class_has_no_triplets_and_a_finite_loss():
    method = DSRHZhao(bits=12)
    z = torch.randn(4, 12, requires_grad=True)
    method.network_ = lambda x: z
    got = method.loss(Batch(torch.zeros(4, 1), torch.ones(4, 1), torch.arange(4)))
    assert got["ranking"].item() == 0
    sum(got.values()).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("bits", [12, 32])
def test_terms_equal_loops(bits, monkeypatch):
    drawn = sample_triplets(LABELS @ LABELS.T, 7)
    monkeypatch.setattr(dsrh_zhao, "sample_triplets", lambda r, count: drawn)
    z = 2 * np.random.default_rng(bits).standard_normal((6, bits))
    method = DSRHZhao(bits=bits, alpha=0.6)
    method.network_ = lambda x: torch.from_numpy(z).float()
    got = method.loss(Batch(torch.zeros(6, 1), LABELS, torch.arange(6)))

    h = 1 / (1 + np.exp(-z))

    def hamming(a, b):
        agree = sum((2 * u - 1) * (2 * v - 1) for u, v in zip(h[a], h[b], strict=True))
        return (bits - agree) / 2

    losses = [
        float(w) * max(0.0, method.rho + hamming(a, b) - hamming(a, c))
        for a, b, c, w in zip(*(t.tolist() for t in drawn), strict=True)
    ]
    mean = (2 * h - 1).mean(0)
    assert got["ranking"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert got["balance"].item() == pytest.approx(0.6 * sum(mean**2) / 6, rel=1e-5)


def test_images_that_share_more_labels_get_nearer_codes(lab, digits):
    """Two labels of each digit: itself and its neighbour's group."""

    def y_of(part):
        digit = part.y.argmax(1)
        return np.concatenate([np.eye(5, dtype=np.uint8)[digit // 2], part.y], 1)

    method = lab.create("dsrh_zhao", lab.SMOKE, bits=32)
    method.fit(Split(digits.train.pooled, y_of(digits.train), "supervised"))
    q, b = (method.encode(p.pooled).astype(int) for p in (digits.query, digits.database))
    distance = (32 - q @ b.T) / 2
    level = y_of(digits.query).astype(int) @ y_of(digits.database).T
    nothing, group, both = (distance[level == k].mean() for k in range(3))
    assert nothing > group + 2
    assert group > both + 2
