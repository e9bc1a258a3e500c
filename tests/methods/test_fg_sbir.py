"""FG-SBIR: second-order energy over explicit pairs, triplets, attention over positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 2, 3, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 2, 2, 0, 1]]
BATCH = Batch(*(torch.from_numpy(v) for v in (X, Y.astype(np.float32))), torch.arange(8),
              other=torch.from_numpy(T))  # fmt: skip


@pytest.fixture
def method():
    new = registry.create("fg_sbir", bits=4, epochs=1, width=8, dropout=0.0, anchors=5, lam=0.5)
    new.fit(Split(X, Y, other=T))
    W = RANDOM.standard_normal((4, 4)).astype(np.float32)
    new.network_.get_parameter("energy").data = torch.from_numpy(W)
    return new


def energy(s, p, W):
    return sum(W[i, j] * (s[i] - p[j]) ** 2 for i in range(4) for j in range(4))


def test_triplets_and_norms_over_explicit_pairs(method):
    W = method.network_.get_parameter("energy").detach().numpy().astype(float)
    s, p = method.embed_other(T).astype(float), method.embed(X).astype(float)
    gaps = [
        max(0.0, 0.3 + energy(s[i], p[a], W) - energy(s[i], p[b], W))
        for i in range(5)
        for a in range(8)
        for b in range(8)
        if (Y[i] == Y[a]).all() and (Y[i] != Y[b]).any()
    ]
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    assert terms["triplet"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    away = W - np.eye(4)
    norms = sum(abs(v) for v in away.ravel()) / 4 + sum(v**2 for v in away.ravel()) ** 0.5
    assert terms["energy"] == pytest.approx(0.5 * norms, rel=1e-4)
    found = method.distance(method.embed_other(T), method.embed(X))
    np.testing.assert_allclose(
        found, [[energy(a, b, W) for b in p] for a in s], rtol=1e-3, atol=1e-5
    )


def test_the_energy_starts_as_the_euclidean_distance(method):
    method.network_.get_parameter("energy").data = torch.eye(4)
    s, p = method.embed_other(T), method.embed(X)
    expected = [[((a - b) ** 2).sum() for b in p] for a in s]
    np.testing.assert_allclose(method.distance(s, p), expected, rtol=1e-3, atol=1e-5)


def test_attention_follows_what_the_scores_prefer(method):
    tower = method.network_.image
    with torch.no_grad():
        a = tower.mask(BATCH.x)
        scores = tower.score(tower.standardise(BATCH.x)).flatten(1)
        pooled = tower.standardise(torch.einsum("np,npd->nd", a, BATCH.x.flatten(1, 2)))
        mean = tower.standardise(BATCH.x.mean((1, 2)))
        expected = tower.fusion(pooled + mean)
        assert torch.allclose(a.sum(1), torch.ones(8))
        assert (a.argmax(1) == scores.argmax(1)).all()
        assert torch.allclose(tower(BATCH.x), expected, atol=1e-5)


def test_learning_moves_the_energy_and_orders_training_pairs():
    method = registry.create("fg_sbir", bits=8, epochs=60, width=16, dropout=0.0, lr=5e-3)
    method.fit(Split(X, Y, other=T))
    assert method.history_[-1]["triplet"] < 0.2 * method.history_[0]["triplet"]
    W = method.network_.get_parameter("energy").detach()
    assert (W - torch.eye(8)).abs().max() > 1e-2
    assert (W - torch.eye(8)).abs().max() < 1


def test_other_inputs_than_maps_are_refused():
    with pytest.raises(ValueError, match=r"photo maps \(n, h, w, d\).*\(8, 30\)"):
        registry.create("fg_sbir", bits=4, epochs=1).fit(Split(X.reshape(8, 30), Y, other=T))
    with pytest.raises(ValueError, match=r"\(8, 4\)"):
        registry.create("fg_sbir", bits=4, epochs=1).fit(Split(X, Y, other=T[:, :4]))
