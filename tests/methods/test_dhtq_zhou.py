"""Triplet quantization: both rankings by loops, and a loss that leaves magnitudes free."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.dhtq_zhou import TripletQuantization, quantized

RANDOM = np.random.default_rng(0)


def naive_ranking(codes, labels, margin):
    hinges = []
    for a, p, n in itertools.permutations(range(len(codes)), 3):
        if labels[a] == labels[p] != labels[n]:
            near = sum((codes[a] - codes[p]) ** 2) / 4
            far = sum((codes[a] - codes[n]) ** 2) / 4
            hinges.append(max(0, margin + near - far))
    return np.mean(hinges)


def test_terms_are_those_of_explicit_triplets():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 0, 2, 1, 0])
    y = np.eye(3, dtype=np.uint8)[labels]
    method = TripletQuantization(bits=12, epochs=1, width=8, dropout=0.0, lam=0.3, margin=0.2)
    method.fit(Split(x, y))
    rows = torch.tensor([3, 1, 8, 0, 5, 7, 6])
    method.network_.train()
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows))
    method.network_.eval()
    f = np.tanh(method.embed(x)[rows.numpy()].astype(np.float64))
    chosen = labels[rows.numpy()]
    assert terms["triplet"].item() == pytest.approx(naive_ranking(f, chosen, 2.4), rel=1e-4)
    codes = np.where(f >= 0, 1, -1)
    expected = 0.3 * naive_ranking(codes, chosen, 2.4)
    assert terms["quantization"].item() == pytest.approx(expected, rel=1e-4)


def test_signs_pass_the_gradient_within_one_and_none_beyond():
    f = torch.tensor([-2.0, -0.5, 0.0, 0.7, 3.0], requires_grad=True)
    b = quantized(f)
    assert b.tolist() == [-1, -1, 1, 1, 1]
    (b * torch.arange(1.0, 6.0)).sum().backward()
    assert f.grad.tolist() == [0, 2, 3, 4, 0]


def test_nothing_is_lost_where_signs_keep_the_order_however_small_outputs_are():
    labels = torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    signs = torch.tensor([[1.0] * 8, [1.0] * 8, [-1.0] * 8, [-1.0] * 8])
    method = TripletQuantization(bits=8)
    for size in (0.01, 0.3, 5.0):
        method.network_ = lambda x, size=size: size * x
        terms = method.loss(Batch(signs, labels, torch.arange(4)))
        assert terms["quantization"] == 0


def test_signs_rank_nearly_as_well_as_the_outputs_they_come_from(lab, digits):
    method = lab.smoke_fit("dhtq_zhou").method
    assert method.history_[-1]["quantization"] < 0.5 * method.history_[0]["quantization"]
    f, g = (np.tanh(method.embed(part.pooled)) for part in (digits.query, digits.database))
    real = lab.mean_ap(((f[:, None] - g[None]) ** 2).sum(2), lab.relevance())
    assert lab.mean_ap(lab.distances(method), lab.relevance()) > real - 0.03
