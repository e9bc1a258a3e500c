"""Deep ranking: the hinge against a loop, triplets by relevance, order within a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.siamese import deep_ranking_wang
from cbir_lite.methods.siamese.deep_ranking_wang import DeepRanking, relevance, sample_triplets


@pytest.fixture
def rows():
    """Features, similarity and relevance of 9 rows in 3 classes."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((9, 4)) + 1.0).float()
    y = torch.eye(3)[[0, 0, 0, 0, 1, 1, 1, 2, 2]]
    s = (y @ y.T > 0).float()
    return x, s, relevance(x, s)


def test_relevance_is_the_cosine_within_a_class(rows):
    x, s, r = (t.numpy().astype(float) for t in rows)
    for i in range(9):
        for j in range(9):
            cosine = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
            expected = max(0.0, cosine) if i != j and s[i, j] else 0.0
            assert r[i, j] == pytest.approx(expected, abs=1e-6)


def test_triplets_are_drawn_by_relevance(rows):
    _, s, r = rows
    torch.manual_seed(0)
    q, p, n = sample_triplets(r, s, 40_000, within=0.25, gap=0.1)
    inside = s[q, n] > 0
    assert (r[q, p] > 0).all()
    assert (r[q, p] - r[q, n])[inside].min() >= 0.1 - 1e-6
    assert (n != q).all()
    # Draws of other classes are never dropped: they are three quarters of all.
    assert (~inside).sum().item() == pytest.approx(30_000, rel=0.02)
    seen = torch.zeros(9, 9).index_put_((q[~inside], p[~inside]), torch.tensor(1.0), True)
    np.testing.assert_allclose(seen / seen.sum(), r / r.sum(), atol=0.01)
    negatives = torch.bincount(n[~inside & (q == 0)], minlength=9).float()
    np.testing.assert_allclose(negatives[4:] / negatives.sum(), np.full(5, 0.2), atol=0.02)


def test_without_relevant_pairs_there_are_no_triplets():
    q, p, n = sample_triplets(torch.zeros(3, 3), torch.eye(3), 10, 0.2, 0.1)
    assert len(q) == len(p) == len(n) == 0
    f = torch.randn(3, 12, requires_grad=True)
    method = DeepRanking(bits=12)
    method.network_ = lambda x: f
    method.memory_ = {"mean": torch.zeros(2)}
    got = method.loss(Batch(torch.randn(3, 2), torch.eye(3), torch.arange(3)))["ranking"]
    got.backward()
    assert got.item() == 0


def test_loss_equals_the_loop_over_the_triplets_drawn(rows, monkeypatch):
    x, _, _ = rows
    drawn = []

    def spy(*args):
        drawn.append((args, sample_triplets(*args)))
        return drawn[-1][1]

    monkeypatch.setattr(deep_ranking_wang, "sample_triplets", spy)
    f = np.random.default_rng(1).standard_normal((9, 12))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    method = DeepRanking(bits=12, draws=4, g=0.3)
    method.network_ = lambda _: torch.from_numpy(f).float()
    method.memory_ = {"mean": torch.full((4,), 1.0)}
    y = torch.eye(3)[[0, 0, 0, 0, 1, 1, 1, 2, 2]]
    got = method.loss(Batch(x, y, torch.arange(9)))["ranking"].item()

    (r, s, count, within, gap), (q, p, n) = drawn[0]
    np.testing.assert_allclose(r, relevance(x - 1, s))
    assert (count, within, gap) == (36, method.within, method.gap)
    losses = [
        max(0.0, 0.3 + ((f[a] - f[b]) ** 2).sum() - ((f[a] - f[c]) ** 2).sum())
        for a, b, c in zip(q.tolist(), p.tolist(), n.tolist(), strict=True)
    ]
    assert got == pytest.approx(np.mean(losses), rel=1e-5)


def test_negatives_within_a_class_keep_its_order(lab):
    """With them, distances inside a class of new images follow those of the features more."""
    digits = lab.load()
    x, y = digits.database.pooled, digits.database.y.argmax(1)
    agreement = {}
    for within in (0.0, 0.8):
        method = lab.create("deep_ranking_wang", lab.SMOKE, bits=32, within=within)
        method.fit(lab.make_split(method))
        f = method.embed(x)
        centred = x - digits.train.pooled.mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        values = []
        for c in range(10):
            i, j = np.triu_indices((y == c).sum(), 1)
            learned, golden = (a[y == c] @ a[y == c].T for a in (f, unit))
            values.append(np.corrcoef(learned[i, j], golden[i, j])[0, 1])
        agreement[within] = np.mean(values)
    assert agreement[0.8] > agreement[0.0] + 0.1
