"""UCBD: four terms by a second calculation; bits are less alike with the third than without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.deepbit import one_view
from cbir_lite.methods.cnn.ucbd import UCBD, correlation_loss
from cbir_lite.methods.deep import Batch

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5)).astype(np.float32)
VIEWS = (X[:, None] + 0.3 * RNG.standard_normal((7, 6, 5))).astype(np.float32)


def test_terms_are_those_of_explicit_codes():
    method = UCBD(bits=12, epochs=2, width=8, alpha=0.7, beta=3.0, gamma=0.6, delta=0.2)
    method.fit(Split(X, supervision="unsupervised", views=VIEWS))
    batch = Batch(torch.from_numpy(X), None, torch.arange(7), torch.from_numpy(VIEWS))
    torch.manual_seed(3)
    terms = method.loss(batch)
    torch.manual_seed(3)
    _, k = one_view(batch.views)
    z = method.embed(X).astype(np.float64)
    seen = method.embed(VIEWS[np.arange(7), k.numpy()]).astype(np.float64)
    rows = [*z, *seen]
    away, uneven, alike = [], 0.0, 0.0
    for row in rows:
        away.append(sum(((0.5 if v >= 0 else -0.5) - v) ** 2 for v in row))
    for a in range(12):
        uneven += (sum(row[a] >= 0 for row in rows) / 14 - 0.5) ** 2
        for b in range(12):
            agree = sum((1 if (row[a] >= 0) == (row[b] >= 0) else -1) for row in rows) / 14
            alike += (agree - (a == b)) ** 2
    moved = [sum((p - q) ** 2 for p, q in zip(z[i], seen[i], strict=True)) for i in range(7)]
    assert terms["quantization"].item() == pytest.approx(0.7 * np.mean(away), rel=1e-5)
    assert terms["even"].item() == pytest.approx(3.0 * uneven, rel=1e-5)
    assert terms["uncorrelated"].item() == pytest.approx(0.6 * alike / 12, rel=1e-5)
    assert terms["invariance"].item() == pytest.approx(0.2 * np.mean(moved), rel=1e-5)


def test_two_equal_bits_are_pushed_apart_and_two_independent_ones_are_left_alone():
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], requires_grad=True)
    correlation_loss(z).backward()
    assert ((z.grad * z.detach()) > 0).all()
    free = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], requires_grad=True)
    assert correlation_loss(free).item() == 0


def test_bits_are_less_correlated_with_the_term_than_without(lab, digits):
    kept = lab.smoke_fit("ucbd").method
    split = lab.make_split(kept)
    strong, without = (UCBD(**{**kept.params, "gamma": gamma}).fit(split) for gamma in (2.0, 0.0))

    def correlation(method):
        b = method.encode(digits.database.pooled).astype(np.float64)
        c = np.abs(np.corrcoef(b.T + 1e-9 * np.arange(32)[:, None] * b.T))
        return np.nanmean(c[~np.eye(32, dtype=bool)])

    assert correlation(strong) < 0.9 * correlation(without)


def test_views_change_fewer_bits_than_other_images(lab):
    method = lab.smoke_fit("ucbd").method
    split = lab.make_split(method)
    codes = method.encode(split.x)
    for v in range(len(method.views)):
        seen = method.encode(split.views[:, v])
        assert (codes != seen).mean() < 0.8 * (codes != np.roll(seen, 1, axis=0)).mean()
