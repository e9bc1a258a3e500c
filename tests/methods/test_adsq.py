"""ADSQ: four terms by loops, who guides whom, and two sides with networks of their own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.adsq import ADSQ
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((8, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (8, 4)).astype(np.uint8)
    method = ADSQ(bits=6, epochs=1, width=8, dropout=0.0, alpha=0.3, beta=0.7)
    return method.fit(Split(x, y)), x, y


def terms_of(method, x, y, rows):
    method.network_.train()
    index = torch.tensor(rows)
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], index))
    method.network_.eval()
    return terms


def streams(method, x, y):
    net = method.network_
    with torch.no_grad():
        outputs = net.label(torch.from_numpy(y).float()), net.query(torch.from_numpy(x))
        outputs = (*outputs, net.database(torch.from_numpy(x)))
    return [np.tanh(z.numpy().astype(np.float64)) for z in outputs]


def test_terms_are_those_of_explicit_pairs_and_rows(small):
    method, x, y = small
    rows = [3, 1, 7, 0, 5]
    terms = terms_of(method, x, y, rows)
    label, u, v = streams(method, x, y)

    def likelihood(a, c):
        values = []
        for i, j in itertools.product(rows, rows):
            theta = sum(a[i] * c[j]) / 2
            values.append(math.log(1 + math.exp(theta)) - any(y[i] & y[j]) * theta)
        return np.mean(values)

    b = np.where(label + u + v >= 0, 1, -1)
    guidance = [sum((z[i] - label[i]) ** 2) / 6 for i in rows for z in (u, v)]
    gaps = [sum((b[i] - z[i]) ** 2) / 6 for i in rows for z in (u, v)]
    assert terms["pairs"].item() == pytest.approx(likelihood(u, v), rel=1e-4)
    assert terms["guidance"].item() == pytest.approx(0.3 * sum(guidance) / 5, rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.7 * sum(gaps) / 5, rel=1e-4)

    label_terms = method.label_loss(torch.from_numpy(y).float()[rows])
    alone = [sum((np.where(label[i] >= 0, 1, -1) - label[i]) ** 2) / 6 for i in rows]
    assert label_terms["pairs"].item() == pytest.approx(likelihood(label, label), rel=1e-4)
    assert label_terms["quantization"].item() == pytest.approx(0.7 * sum(alone) / 5, rel=1e-4)


def test_label_network_learns_first_and_is_left_alone_by_images(small):
    _, x, y = small
    labels = torch.from_numpy(y).float()

    def pairs(**options):
        other = ADSQ(bits=6, epochs=1, width=8, dropout=0.0, **options).fit(Split(x, y))
        return other.label_loss(labels)["pairs"].item(), other.network_.label.state_dict()

    early, _ = pairs(label_steps=0)
    late, first = pairs(label_steps=200)
    _, again = pairs(label_steps=200, alpha=50.0)
    assert late < 0.8 * early
    for name, weights in first.items():
        assert torch.equal(weights, again[name])


def test_the_two_sides_come_from_their_own_networks(small):
    method, x, y = small
    _, u, v = streams(method, x, y)
    np.testing.assert_array_equal(method.encode_query(x), np.where(u >= 0, 1, -1))
    np.testing.assert_array_equal(method.encode_database(x), np.where(v >= 0, 1, -1))
    assert not np.array_equal(method.encode_query(x), method.encode_database(x))


def test_training_makes_the_streams_agree(lab, digits):
    method = lab.smoke_fit("adsq").method
    x, y = digits.train.pooled, digits.train.y
    label, u, v = streams(method, x, y)
    for z in (u, v):
        assert (np.sign(z) == np.sign(label)).mean() > 0.9
    assert method.history_[-1]["guidance"] < 0.5 * method.history_[0]["guidance"]
    queries = method.encode_query(digits.query.pooled)
    assert (queries == method.encode_database(digits.query.pooled)).mean() > 0.85
