"""QaDWH: terms and weighted distances by loops, and what the weights are good for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.deep_weighted_hash import QaDWH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (9, 4)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    return QaDWH(bits=6, epochs=1, width=8, dropout=0.0).fit(Split(x, y)), x, y


def scores(method, x):
    with torch.no_grad():
        return method.network_.both(torch.from_numpy(x))[1].numpy().astype(np.float64)


def test_terms_are_those_of_explicit_triplets_and_rows(small):
    method, x, y = small
    rows = [3, 1, 8, 0, 5, 7]
    index = torch.tensor(rows)
    method.network_.train()
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], index))
    method.network_.eval()

    W = method.network_.W.detach().numpy().astype(np.float64)
    z, p = method.embed(x).astype(np.float64), scores(method, x)
    h = {}
    for i in rows:
        own = [W[c] for c in range(4) if y[i, c]]
        h[i] = sum(own) / len(own) / (1 + np.exp(-z[i]))
    hinges = []
    for a, b, c in itertools.permutations(rows, 3):
        if any(y[a] & y[b]) and not any(y[a] & y[c]):
            hinges.append(max(0, method.margin + sum((h[a] - h[b]) ** 2) - sum((h[a] - h[c]) ** 2)))
    entropies = []
    for i in rows:
        log_sum = math.log(sum(math.exp(t) for t in p[i]))
        own = [log_sum - p[i, c] for c in range(4) if y[i, c]]
        entropies.append(sum(own) / len(own))
    assert len(hinges) > 3
    assert terms["triplet"].item() == pytest.approx(np.mean(hinges), rel=1e-4)
    assert terms["softmax"].item() == pytest.approx(np.mean(entropies), rel=1e-4)


def test_distance_is_the_sum_of_weights_of_the_bits_that_differ(small):
    method, x, _ = small
    with torch.no_grad():
        method.network_.W[:, 2] -= 3
    W = np.asarray(method.network_.W.detach(), np.float64)
    codes, p = method.encode(x), np.exp(scores(method, x))
    weights = np.maximum(0, p / p.sum(1, keepdims=True) @ W)
    assert weights.min() == 0
    naive = [
        [sum(w for w, a, b in zip(weights[i], codes[i], other, strict=True) if a != b)
         for other in codes]
        for i in range(9)
    ]  # fmt: skip
    distance = method.distance(method.encode_query(x), method.encode_database(x))
    np.testing.assert_allclose(distance, naive, rtol=1e-4, atol=1e-5)


def test_weights_break_ties_and_rank_better_than_plain_codes(lab, digits):
    method = lab.smoke_fit("deep_weighted_hash").method
    weighted = lab.distances(method)
    q, b = (method.encode(p.pooled).astype(np.int32) for p in (digits.query, digits.database))
    plain = (method.bits - q @ b.T) // 2
    distinct = np.mean([len(np.unique(row.round(4))) for row in weighted])
    assert distinct > 2 * np.mean([len(np.unique(row)) for row in plain])
    gain = lab.mean_ap(weighted, lab.relevance()) - lab.mean_ap(plain, lab.relevance())
    assert gain > 0


def test_weights_of_a_query_are_those_of_its_class(lab, digits):
    method = lab.smoke_fit("deep_weighted_hash").method
    W = method.network_.W.detach().clamp_min(0).numpy()
    own = W[digits.train.y.argmax(1)]
    used = np.abs(method.encode_query(digits.train.pooled))
    other = W[(digits.train.y.argmax(1) + 1) % 10]
    assert np.abs(used - own).mean() < 0.2 * np.abs(used - other).mean()


def test_foreign_shapes_are_refused(small):
    method, x, _ = small
    with pytest.raises(ValueError, match=r"\(n, 6\).*\(n, 6\)"):
        method.distance(np.zeros((3, 4), np.float32), method.encode(x))
