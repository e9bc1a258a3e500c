"""Global loss: variances, means and triplet ratios against loops over pairs and triplets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.global_loss_kumar import GlobalLoss


def terms(f, labels, **params):
    method = GlobalLoss(bits=f.shape[1], **params)
    method.network_ = lambda x: f
    y = torch.as_tensor(labels, dtype=torch.float32)
    return method.loss(Batch(torch.zeros(len(f), 1), y, torch.arange(len(f))))


def units(rng, n, d):
    f = rng.standard_normal((n, d))
    return f / np.linalg.norm(f, axis=1, keepdims=True)


@pytest.mark.parametrize("t", [0.1, 0.4])
def test_terms_equal_loops_over_pairs_and_triplets(t):
    rng = np.random.default_rng(0)
    f = units(rng, 8, 5)
    labels = (rng.random((8, 4)) < 0.3).astype(np.uint8)

    def d(a, b):
        return sum((u - v) ** 2 for u, v in zip(f[a], f[b], strict=True)) / 4

    def alike(a, b):
        return bool((labels[a] & labels[b]).any())

    pairs = list(itertools.combinations(range(8), 2))
    plus = [d(a, b) for a, b in pairs if alike(a, b)]
    minus = [d(a, b) for a, b in pairs if not alike(a, b)]
    ratios = [
        max(0.0, 1 - d(a, n) / (d(a, p) + 0.2))
        for a in range(8) for p in range(8) for n in range(8)
        if p != a and alike(a, p) and not alike(a, n)
    ]  # fmt: skip
    assert min(len(plus), len(minus), len(ratios)) > 5

    got = terms(torch.from_numpy(f).float(), labels, lam=0.7, t=t, gamma=0.5, m=0.2)
    assert got["variances"].item() == pytest.approx(np.var(plus) + np.var(minus), rel=1e-5)
    gap = max(0.0, np.mean(plus) - np.mean(minus) + t)
    assert got["means"].item() == pytest.approx(0.7 * gap, rel=1e-5)
    assert got["triplet"].item() == pytest.approx(0.5 * np.mean(ratios), rel=1e-5)


def test_opposite_tight_classes_cost_nothing():
    f = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]).requires_grad_()
    got = terms(f, np.eye(2, dtype=np.uint8)[[0, 0, 1, 1]])
    assert [v.item() for v in got.values()] == [0, 0, 0]
    sum(got.values()).backward()
    assert torch.isfinite(f.grad).all()


def test_the_global_terms_separate_the_two_distributions_of_distances(lab):
    """Without the triplet term: matching and other distances of new images overlap less."""
    method = lab.create("global_loss_kumar", lab.SMOKE, bits=32, gamma=0.0)
    method.fit(lab.make_split(method))
    relevant = lab.relevance()

    def overlap(distances):
        """Chance that a matching pair is farther apart than another."""
        plus, minus = distances[relevant], np.sort(distances[~relevant])
        return float((np.searchsorted(minus, plus) / len(minus)).mean())

    digits = lab.load()
    x, b = digits.query.pooled, digits.database.pooled
    raw = np.sqrt(np.maximum((x**2).sum(1)[:, None] + (b**2).sum(1) - 2 * x @ b.T, 0))
    assert overlap(lab.distances(method)) < overlap(raw) / 2


def test_descriptors_have_length_one(lab, digits):
    f = lab.smoke_fit("global_loss_kumar").method.embed(digits.query.pooled)
    np.testing.assert_allclose(np.linalg.norm(f, axis=1), 1, rtol=1e-5)
