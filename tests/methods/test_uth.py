"""UTH: terms over explicit triplets; the triplets keep different images apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.deepbit import one_view
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.uth import UTH

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5)).astype(np.float32)
VIEWS = (X[:, None] + 0.3 * RNG.standard_normal((7, 4, 5))).astype(np.float32)


def test_terms_are_those_of_explicit_triplets():
    method = UTH(bits=12, epochs=2, width=8, alpha=0.7, beta=3.0)
    method.fit(Split(X, supervision="unsupervised", views=VIEWS))
    batch = Batch(torch.from_numpy(X), None, torch.arange(7), torch.from_numpy(VIEWS))
    torch.manual_seed(3)
    terms = method.loss(batch)
    torch.manual_seed(3)
    _, k = one_view(batch.views)
    z = method.embed(X).astype(np.float64)
    turned = method.embed(VIEWS[np.arange(7), k.numpy()]).astype(np.float64)

    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    hinges = [
        max(0, 12 / 4 + squared(z[i], turned[i]) - squared(z[i], z[(i - 1) % 7])) for i in range(7)
    ]
    assert min(hinges) == 0 < max(hinges)
    everything = [*z, *turned]
    bits = [[1 if v >= 0 else 0 for v in row] for row in everything]
    away = [squared(np.array(b) - 0.5, row) for b, row in zip(bits, everything, strict=True)]
    uneven = sum((np.mean([b[j] for b in bits]) - 0.5) ** 2 for j in range(12))
    assert terms["triplet"].item() == pytest.approx(np.mean(hinges), rel=1e-5)
    assert terms["quantization"].item() == pytest.approx(0.7 * np.mean(away), rel=1e-5)
    assert terms["entropy"].item() == pytest.approx(3.0 * uneven, rel=1e-5)


def test_a_triplet_that_keeps_its_margin_costs_nothing():
    method = UTH(bits=12, epochs=1, width=8)
    method.fit(Split(X, supervision="unsupervised", views=VIEWS))
    far = torch.from_numpy(1000 * X)
    same = Batch(far, None, torch.arange(7), far[:, None].expand(-1, 4, -1))
    assert method.loss(same)["triplet"].item() == 0


def test_turned_copies_stay_nearer_than_other_images(lab):
    method = lab.smoke_fit("uth").method
    split = lab.make_split(method)
    codes = method.encode(split.x).astype(int)
    turned = method.encode(split.views[:, 0]).astype(int)
    own = (codes != turned).sum(1)
    other = (codes != np.roll(turned, 1, axis=0)).sum(1)
    assert own.mean() < 0.3 * other.mean()
    # The margin in squared distance of outputs is as many bits.
    assert other.mean() > method.m
