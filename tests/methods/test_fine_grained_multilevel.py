"""DH-FFL: the sketch against outer products, the loss against loops, and its zero-loss band."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.fine_grained_multilevel import DHFFL, compact_bilinear, count_sketches
from cbir_lite.methods.deep import Batch
from tests.methods.test_dmssph import twin


def normalised(v):
    v = np.sign(v) * np.sqrt(np.abs(v))
    return v / max(np.linalg.norm(v), 1e-12)


def test_the_sketch_equals_a_walk_over_pairs_of_channels():
    """Every product of two channels goes to the sum of their places, with both signs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 2, 7)).astype(np.float32)
    first, second = count_sketches(7, 5, seed=1)
    places = [s.place.numpy() for s in (first, second)]
    signs = [s.sign.numpy() for s in (first, second)]
    assert set(np.concatenate(signs)) == {-1.0, 1.0}
    got = compact_bilinear(torch.from_numpy(x), [first, second], 5).numpy()
    for image, row in zip(x.reshape(3, 4, 7).astype(np.float64), got, strict=True):
        sketch = np.zeros(5)
        for cell in image:
            for a in range(7):
                for b in range(7):
                    place = (places[0][a] + places[1][b]) % 5
                    sketch[place] += signs[0][a] * signs[1][b] * cell[a] * cell[b]
        np.testing.assert_allclose(row, normalised(sketch), rtol=1e-4, atol=1e-5)


def test_inner_products_of_sketches_approach_those_of_bilinear_pooling():
    rng = np.random.default_rng(1)
    cells = rng.standard_normal((2, 6, 12)) + rng.standard_normal(12)
    gram = [c.T @ c for c in cells]
    wanted = float((gram[0] * gram[1]).sum())
    found = []
    for seed in range(400):
        sketches = count_sketches(12, 64, seed)
        rows = []
        for c in torch.from_numpy(cells).float():
            f = [np.fft.rfft(s(c, 64).double().numpy()) for s in sketches]
            rows.append(np.fft.irfft((f[0] * f[1]).sum(0), n=64))
        found.append(float(rows[0] @ rows[1]))
    assert np.mean(found) == pytest.approx(wanted, rel=0.1)
    assert np.std(found) < abs(wanted)


def test_terms_equal_loops():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8, 2, 2, 6)).astype(np.float32)
    labels = (rng.random((8, 4)) < 0.4).astype(np.uint8)
    method = DHFFL(bits=12, width=9, size=16, epsilon=0.1, beta=0.7, alpha=0.2)
    features = method.prepare(x)
    method.network_ = method.build(features, 4).eval()
    batch = Batch(torch.from_numpy(features), torch.from_numpy(labels).float(), torch.arange(8))
    got = method.loss(batch)
    with torch.no_grad():
        u = method.network_(batch.x)
        scores = method.network_.classifier(u).double().numpy()
        u = u.numpy()
    similar, dissimilar = twin(u, labels, 0.1)
    assert got["similar"].item() == pytest.approx(similar, rel=1e-4)
    assert got["dissimilar"].item() == pytest.approx(dissimilar, rel=1e-4)
    entropy = []
    for row, wanted in zip(scores, labels, strict=True):
        for score, y in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-score))
            entropy.append(-math.log(p if y else 1 - p))
    pull = np.mean([abs(abs(float(v)) - 1) for v in u.ravel()])
    assert got["classification"].item() == pytest.approx(0.7 * np.mean(entropy), rel=1e-4)
    assert got["quantization"].item() == pytest.approx(0.2 * pull, rel=1e-4)


def together(n, seed):
    """Maps whose class is which two of four channels fire at one place; each fires equally often.

    Means over positions tell the classes nothing: only what fires together does.
    """
    rng = np.random.default_rng(seed)
    pairs = np.array([[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]])
    y = np.arange(n) % 3
    maps = np.zeros((n, 16, 4))
    for i in range(n):
        for place, pair in zip(rng.permutation(16)[:8], np.tile(pairs[y[i]], (4, 1)), strict=True):
            maps[i, place, pair] = 1
    maps += 0.2 * rng.standard_normal(maps.shape)
    return maps.reshape(n, 4, 4, 4).astype(np.float32), np.eye(3, dtype=np.uint8)[y]


def test_classes_that_differ_in_pairs_of_channels_only_are_told_apart(lab):
    scale = {"bits": 16, "epochs": 30, "batch_size": 32, "width": 64, "size": 64, "lr": 3e-3}
    x, y = together(300, 0)
    method = DHFFL(**scale).fit(Split(x, y))
    (queries, yq), (database, yd) = together(60, 1), together(200, 2)
    q, b = (method.encode(m).astype(int) for m in (queries, database))
    assert lab.mean_ap((16 - q @ b.T) / 2, yq @ yd.T > 0) > 0.8
    q, b = (m.mean((1, 2)) for m in (queries, database))
    by_means = ((q[:, None] - b[None]) ** 2).sum(2)
    assert lab.mean_ap(by_means, yq @ yd.T > 0) < 0.5


def test_pooled_features_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"\(8, 5\).*kind 'maps'"):
        DHFFL(bits=8).fit(Split(np.random.default_rng(0).random((8, 5)), np.arange(8) % 2))
