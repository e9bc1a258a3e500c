"""RODH: relaxed average precision against loops and the true one; exact codes in the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.rodh import RODH, average_precision, soft_histogram
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 1, 0, 2, 0, 1]]
SEVERAL = RANDOM.integers(0, 2, (9, 3)).astype(np.uint8)
BOTH = pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])


def naive_precision(distances, relevant, bits):
    """The formula of the card for one query, by loops over bins and items."""
    before = before_hits = value = found = 0.0
    for d in range(-1, bits + 2):
        here = hits = 0.0
        for distance, r in zip(distances, relevant, strict=True):
            share = max(0.0, 2 - abs(distance - d)) / 4
            here += share
            hits += share * r
        value += hits * (before_hits + (1 + hits) / 2) / (before + (1 + here) / 2)
        before, before_hits, found = before + here, before_hits + hits, found + hits
    return value / found


@BOTH
def test_terms_are_those_of_explicit_queries(y):
    method = RODH(bits=12, epochs=1, width=8, dropout=0.0, lam=0.7).fit(Split(X, y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(9)))
    b = method.encode(X).astype(np.float64)
    W = method.network_.classifier.weight.detach().double().numpy()
    c = method.network_.classifier.bias.detach().double().numpy()
    classification, lacking = 0.0, []
    for i in range(9):
        logits = W @ b[i] + c
        if y is ONE:
            classification += math.log(np.exp(logits).sum()) - logits[y[i].argmax()]
        else:
            signs = np.where(y[i], 1, -1)
            classification += np.log1p(np.exp(-signs * logits)).sum() / 3
        others = [j for j in range(9) if j != i]
        relevant = [float(any(y[i] & y[j])) for j in others]
        if any(relevant):
            distances = [(b[i] != b[j]).sum() for j in others]
            lacking.append(1 - naive_precision(distances, relevant, 12))
    assert len(lacking) < 9 or y is SEVERAL
    assert terms["classification"].item() == pytest.approx(classification / 9, rel=1e-4)
    assert terms["ranking"].item() == pytest.approx(0.7 * np.mean(lacking), rel=1e-4)


def test_relaxed_precision_follows_the_true_one_of_rankings_with_ties(lab):
    quality = RANDOM.uniform(0, 1, (60, 1))
    relevant = RANDOM.uniform(size=(60, 150)) < 0.1
    relevant[:, 0] = True
    d = np.where(
        relevant, RANDOM.binomial(32, 0.4 * quality, (60, 150)), RANDOM.binomial(32, 0.4, (60, 150))
    )
    relaxed = average_precision(
        torch.from_numpy(d).double(), torch.from_numpy(relevant).double(), 32
    ).numpy()
    true = [lab.expected_ap(a, r) for a, r in zip(d, relevant, strict=True)]
    assert np.corrcoef(relaxed, true)[0, 1] > 0.99
    assert np.abs(relaxed - true).mean() < 0.03


def test_histogram_shares_inner_distances_without_loss_and_has_a_gradient_at_whole_numbers():
    d = torch.tensor([3.0, 5.0, 6.5, 0.0, 12.0], requires_grad=True)
    share = soft_histogram(d, 12)
    torch.testing.assert_close(share.sum(1), torch.ones(5))
    torch.testing.assert_close(share[0, 2:7], torch.tensor([0, 0.25, 0.5, 0.25, 0]))
    share[:, 5].sum().backward()
    assert d.grad[0] == 0.25
    assert d.grad[1] == -0.25


def test_gradient_moves_a_relevant_item_nearer_and_an_irrelevant_one_away():
    d = torch.full((1, 20), 6.0, requires_grad=True)
    relevant = (torch.arange(20) < 10).float()[None]
    spread = d + torch.linspace(-4, 4, 20).round()
    average_precision(spread, relevant, 12).sum().backward()
    assert d.grad[0, :10].sum() < 0
    assert d.grad[0, 10:].sum() > 0


def test_the_loss_sees_exact_codes():
    method = RODH(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, ONE))
    batch = Batch(torch.from_numpy(X), torch.from_numpy(ONE).float(), torch.arange(9))
    before = {k: v.item() for k, v in method.loss(batch).items()}
    with torch.no_grad():
        method.network_.hash_layer.weight.mul_(7)
        method.network_.hash_layer.bias.mul_(7)
    assert {k: v.item() for k, v in method.loss(batch).items()} == before
