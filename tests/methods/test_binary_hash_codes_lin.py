"""Latent binary codes (Lin): the loss, and the second stage of the search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.binary_hash_codes_lin import LatentHash
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 8)]


def fitted():
    return LatentHash(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, Y))


def test_the_loss_is_that_of_explicit_rows():
    method = fitted()
    batch = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8))
    W, c = (p.detach().double().numpy() for p in method.network_.classifier.parameters())
    expected = 0.0
    for z, label in zip(method.embed(X).astype(np.float64), Y.argmax(1), strict=True):
        a = [1 / (1 + math.exp(-v)) for v in z]
        scores = [sum(w * v for w, v in zip(W[k], a, strict=True)) + c[k] for k in range(3)]
        expected += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    assert method.loss(batch)["classification"].item() == pytest.approx(expected / 8, rel=1e-4)


def test_refining_orders_each_pool_by_hidden_distance():
    method = fitted()
    database = RANDOM.standard_normal((9, 5)).astype(np.float32)
    pool = np.array([[3, 1, 8, 4], [0, 2, 4, 6]])
    found = method.refine(X[:2], database, pool)
    mean, scale = (b.numpy() for b in method.network_.trunk[0].buffers())
    weight, bias = (p.detach().numpy() for p in method.network_.trunk[2].parameters())

    def hidden(x):
        return np.maximum(weight @ ((x - mean) / scale) + bias, 0)

    for q in (0, 1):
        distances = {i: np.linalg.norm(hidden(X[q]) - hidden(database[i])) for i in pool[q]}
        assert found[q].tolist() == sorted(distances, key=distances.get)
    with pytest.raises(ValueError, match=r"q=3.*\(2, 4\)"):
        method.refine(X[:3], database, pool)


def test_the_second_stage_improves_the_first_places(lab, digits):
    method = lab.smoke_fit("binary_hash_codes_lin").method
    distances = lab.distances(method)
    # Ties in a random order, as the codes leave them.
    shuffled = np.random.default_rng(0).permutation(distances.shape[1])
    pool = shuffled[np.argsort(distances[:, shuffled], axis=1, kind="stable")[:, :100]]
    refined = method.refine(digits.query.pooled, digits.database.pooled, pool)
    assert (np.sort(pool, axis=1) == np.sort(refined, axis=1)).all()
    relevant = np.take_along_axis(lab.relevance(), refined, 1)[:, :5].mean()
    assert relevant > np.take_along_axis(lab.relevance(), pool, 1)[:, :5].mean() + 0.01
