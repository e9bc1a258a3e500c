"""DSRH of Yao: ranking, orthogonality and classification against loops; orthogonal bits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.dsrh_yao import DSRH


def terms(h, scores, labels, **params):
    method = DSRH(bits=h.shape[1], **params)
    method.network_ = SimpleNamespace(streams=lambda x: (h, scores))
    y = torch.as_tensor(labels, dtype=torch.float32)
    return method, method.loss(Batch(torch.zeros(len(h), 1), y, torch.arange(len(h))))


@pytest.mark.parametrize("bits", [12, 24])
def test_terms_equal_loops(bits):
    rng = np.random.default_rng(bits)
    B = 8
    h = rng.uniform(-1, 1, (B, bits)).astype(np.float32)
    scores = rng.standard_normal((B, 4)).astype(np.float32)
    labels = (rng.random((B, 4)) < 0.4).astype(np.uint8)
    method, got = terms(torch.from_numpy(h), torch.from_numpy(scores), labels, lam=0.3)

    def squared(a, b):
        return sum((float(u) - float(v)) ** 2 for u, v in zip(h[a], h[b], strict=True))

    alike = [[bool((a & b).any()) for b in labels] for a in labels]
    hinges = [
        max(0.0, method.m + squared(q, p) - squared(q, n))
        for q in range(B) for p in range(B) for n in range(B)
        if p != q and alike[q][p] and not alike[q][n]
    ]  # fmt: skip
    off = 0.0
    for k in range(bits):
        for m in range(bits):
            product = sum(float(row[k]) * float(row[m]) for row in h) / B
            off += (product - (k == m)) ** 2
    surprise = 0.0
    for row, y in zip(scores.astype(float), labels, strict=True):
        total = math.log(sum(math.exp(v) for v in row))
        for c in np.flatnonzero(y):
            surprise -= (row[c] - total) / y.sum()
    assert got["ranking"].item() == pytest.approx(0.3 * np.mean(hinges), rel=1e-5)
    assert got["orthogonality"].item() == pytest.approx(0.7 * off / bits, rel=1e-5)
    assert got["classification"].item() == pytest.approx(surprise / B, rel=1e-5)


def test_balanced_bits_that_do_not_repeat_cost_nothing():
    H = torch.from_numpy(hadamard(16)[:, 1:13].astype(np.float32))
    scores, labels = torch.zeros(16, 2), np.eye(2, dtype=np.uint8)[np.arange(16) % 2]
    assert terms(H, scores, labels)[1]["orthogonality"].item() == 0
    twice = torch.cat([H[:, :6], H[:, :6]], 1)
    # 12 products of a bit with its copy are 1 instead of 0.
    assert terms(twice, scores, labels, lam=0.5)[1]["orthogonality"].item() == 0.5 * 12 / 12


def test_orthogonality_makes_bits_less_alike(lab):
    correlations = {}
    for lam in (0.2, 1.0):
        method = lab.create("dsrh_yao", lab.SMOKE, bits=32, lam=lam)
        split = lab.make_split(method)
        method.fit(split)
        codes = method.encode(split.x).astype(float)
        correlations[lam] = np.abs(codes.T @ codes / len(codes))[np.triu_indices(32, 1)].mean()
    assert correlations[0.2] < correlations[1.0]


def test_the_classification_stream_reads_every_feature_and_the_hash_stream_its_bags(lab):
    network = lab.smoke_fit("dsrh_yao").method.network_
    hidden = torch.randn(1, 128, requires_grad=True)
    (read,) = torch.autograd.grad(network.classify(hidden).sum(), hidden)
    assert (read != 0).all()
    (read,) = torch.autograd.grad(network.encode(hidden)[0, 5], hidden)
    assert read[0].nonzero()[:, 0].tolist() == [20, 21, 22, 23]
