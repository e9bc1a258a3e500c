"""Instance-aware hashing: terms against loops, groups by hand, pieces that know one category."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.instance_aware_hash import InstanceAwareHash
from cbir_lite.methods.deep import Batch


def scenes(n, seed, d=12, classes=4):
    """Maps 2x2 whose positions show the patterns of one or two of the categories, and noise."""
    rng = np.random.default_rng(seed)
    patterns = 2 * np.random.default_rng(9).standard_normal((classes, d)).astype(np.float32)
    maps = 0.5 * rng.standard_normal((n, 4, d)).astype(np.float32)
    labels = np.zeros((n, classes), np.uint8)
    for i in range(n):
        shown = rng.choice(classes, rng.integers(1, 3), replace=False)
        maps[i, rng.choice(4, len(shown), replace=False)] += patterns[shown]
        labels[i, shown] = 1
    return maps.reshape(n, 2, 2, d), labels


def hinges(codes, pairs, negatives, margin):
    values = []
    for q, p in pairs:
        for n in negatives(q):
            near = sum((a - b) ** 2 for a, b in zip(codes[q], codes[p], strict=True))
            far = sum((a - b) ** 2 for a, b in zip(codes[q], codes[n], strict=True))
            values.append(max(0.0, margin + near - far))
    return sum(values) / len(values)


def test_terms_equal_loops_over_triplets():
    maps, labels = scenes(9, 1, classes=3)
    labels[0] = 0
    method = InstanceAwareHash(bits=7, width=16, lam=0.7, beta=0.3)
    method.network_ = net = method.build(maps, 3).eval()
    y = torch.from_numpy(labels).float()
    got = method.loss(Batch(torch.from_numpy(maps), y, torch.arange(9)))
    with torch.no_grad():
        g, scores = (t.double() for t in net.groups(torch.from_numpy(maps)))
        b = net.code(g.float()).sigmoid().double().tolist()
        pieces = net.pieces(g.float()).double().tolist()
    assert len(pieces[0][0]) == 3  # ceil(7 / 3)
    alike = (labels.astype(int) @ labels.T > 0).tolist()
    everyone = range(9)
    pairs = [(q, p) for q in everyone for p in everyone if q != p and alike[q][p]]
    expected = hinges(b, pairs, lambda q: [n for n in everyone if not alike[q][n]], 7 / 4)
    # An image without labels is unlike itself, but never a query.
    assert float(got["semantic"].detach()) == pytest.approx(expected, rel=1e-4)
    by_category = []
    for c in range(3):
        have = [i for i in everyone if labels[i, c]]
        lack = [i for i in everyone if not labels[i, c]]
        pairs = [(q, p) for q in have for p in have if q != p]
        codes = [row[c] for row in pieces]
        by_category.append(hinges(codes, pairs, lambda q, lack=lack: lack, 3 / 4))
    assert float(got["category"].detach()) == pytest.approx(0.7 * np.mean(by_category), rel=1e-4)
    entropy = []
    for i in everyone:
        total = math.log(sum(math.exp(v) for v in scores[i].tolist()))
        own = labels[i] / max(1, labels[i].sum())
        entropy.append(sum(w * (total - v) for w, v in zip(own, scores[i].tolist(), strict=True)))
    assert float(got["classification"].detach()) == pytest.approx(0.3 * np.mean(entropy), rel=1e-4)


def test_a_group_gathers_what_shows_its_category():
    maps, _ = scenes(5, 2)
    method = InstanceAwareHash(bits=8, width=16)
    net = method.build(maps, 4).eval()
    with torch.no_grad():
        f, a = net.instances(torch.from_numpy(maps))
        g, scores = net.groups(torch.from_numpy(maps))
    assert f.shape == (5, 4, 8)
    for i in range(5):
        for c in range(4):
            weights = [math.exp(a[i, r, c]) / a[i, r].exp().sum().item() for r in range(4)]
            mean = sum(w * f[i, r].numpy() for r, w in enumerate(weights)) / 4
            assert g[i, c].numpy() == pytest.approx(mean, rel=1e-4, abs=1e-6)
            assert scores[i, c].item() == max(a[i, r, c].item() for r in range(4))


def test_pieces_find_images_that_share_one_category():
    train, query = scenes(400, 3), scenes(60, 4)
    method = InstanceAwareHash(bits=16, width=64, epochs=15, batch_size=64, lr=3e-3)
    method.fit(Split(*train))
    pieces, database = method.encode_pieces(query[0]), method.encode_pieces(train[0])
    assert pieces.shape == (60, 4, 4)
    found, chance = [], []
    for c in range(4):
        rows = query[1][:, c] > 0
        d = (pieces[rows, None, c] != database[None, :, c]).sum(2)
        nearest = np.argsort(d, axis=1, kind="stable")[:, :50]
        found.append(train[1][nearest, c].mean())
        chance.append(train[1][:, c].mean())
    assert np.mean(found) > np.mean(chance) + 0.4
    # The piece of another category does not tell.
    rows = query[1][:, 0] > 0
    d = (pieces[rows, None, 1] != database[None, :, 1]).sum(2)
    other = train[1][np.argsort(d, axis=1, kind="stable")[:, :50], 0].mean()
    assert found[0] > other + 0.2


def test_other_inputs_are_refused():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"reads maps \(n, h, w, d\) and got \(4, 3\)"):
        InstanceAwareHash(bits=12).fit(Split(x, np.eye(2, dtype=np.uint8)[[0, 1, 0, 1]]))
