"""PCDH: contrast of pairs on two layers, classification of signs, by loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.pcdh import PCDH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (9, 4)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    options = {"width": 8, "dropout": 0.0, "alpha": 0.3, "beta": 0.7}
    return PCDH(bits=3, epochs=1, **options).fit(Split(x, y)), x, y


def naive_contrast(z, y, margin):
    total = 0.0
    for i, j in itertools.product(range(len(z)), repeat=2):
        d = sum((z[i] - z[j]) ** 2)
        total += d / 2 / margin if any(y[i] & y[j]) else max(0, 1 - d / margin) / 2
    return total / len(z) ** 2


def test_terms_are_those_of_explicit_pairs_and_rows(small):
    method, x, y = small
    rows = [3, 1, 8, 0, 5, 6]
    network = method.network_
    network.train()
    index = torch.tensor(rows)
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], index))
    network.eval()

    with torch.no_grad():
        f = network.trunk(torch.from_numpy(x)).numpy().astype(np.float64)[rows]
    h, b = method.embed(x).astype(np.float64)[rows], method.encode(x)[rows]
    W = network.classifier.weight.detach().numpy().astype(np.float64)
    entropies = []
    for i, labels in enumerate(y[rows]):
        scores = W @ b[i]
        log_sum = math.log(sum(math.exp(t) for t in scores))
        own = [log_sum - scores[c] for c in range(4) if labels[c]]
        entropies.append(sum(own) / len(own))
    assert terms["hash_pairs"].item() == pytest.approx(naive_contrast(h, y[rows], 6), rel=1e-4)
    expected = 0.3 * naive_contrast(f, y[rows], 6)
    assert terms["feature_pairs"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["classification"].item() == pytest.approx(0.7 * np.mean(entropies), rel=1e-4)


def test_discrete_codes_are_the_signs_of_their_own_layer(small):
    method, x, _ = small
    layer = method.network_.discrete
    W, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    naive = [np.where(W @ h + bias >= 0, 1, -1) for h in method.embed(x)]
    codes = method.encode(x)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, naive)


def test_classification_reaches_the_layers_before_the_signs(small):
    method, x, y = small
    method.network_.train()
    method.network_.zero_grad()
    batch = Batch(torch.from_numpy(x), torch.from_numpy(y).float(), torch.arange(9))
    method.loss(batch)["classification"].backward()
    assert method.network_.hash_layer.weight.grad.abs().sum() > 0
    assert method.network_.discrete.weight.grad.abs().sum() > 0
    method.network_.eval()


def test_labels_can_be_read_from_the_discrete_codes_and_these_rank_too(lab, digits):
    method = lab.smoke_fit("pcdh").method
    codes = method.encode(digits.database.pooled).astype(np.float32)
    read = (codes @ method.network_.classifier.weight.detach().numpy().T).argmax(1)
    assert (read == digits.database.y.argmax(1)).mean() > 0.85
    queries = method.encode(digits.query.pooled).astype(np.float32)
    assert lab.mean_ap(-queries @ codes.T, lab.relevance()) > 0.7


def test_both_layers_hold_similar_rows_together_and_others_apart(lab, digits):
    method = lab.smoke_fit("pcdh").method
    h = method.embed(digits.database.pooled)
    d = ((h[:, None] - h[None]) ** 2).sum(2)
    s = digits.database.y @ digits.database.y.T > 0
    assert d[s].mean() < 0.4 * d[~s].mean()
