"""Replicator features: regions, rewards and weights against loops over places."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.replicator import interest_regions, rewards
from cbir_lite.methods.registry import create

RANDOM = np.random.default_rng(11)
H, W, D = 6, 7, 5


def some_maps(n):
    """Maps (n, H, W, D) with smooth bumps, so that there are regions, and silent places."""
    x = RANDOM.random((n, H, W, D)) - 0.6
    for m in x:
        r, c = RANDOM.integers(0, H), RANDOM.integers(0, W)
        m[max(0, r - 1) : r + 2, max(0, c - 1) : c + 2] += RANDOM.random(D)
    return np.maximum(x, 0).astype(np.float32)


@pytest.fixture(scope="module")
def method():
    x = some_maps(60)
    return create("replicator", bits=4).fit(Split(x, supervision="unsupervised"))


def naive_regions(total, median, radius, share):
    """One image: sets of places (row, column), from the strongest centre downwards."""
    found, centres = [], []
    for value, r, c in sorted((total[r, c], r, c) for r in range(H) for c in range(W))[::-1]:
        if value < median:
            break
        if any(abs(r - a) < 2 * radius + 1 and abs(c - b) < 2 * radius + 1 for a, b in centres):
            continue
        window = [
            (i, j)
            for i in range(max(r - radius, 0), min(r + radius, H - 1) + 1)
            for j in range(max(c - radius, 0), min(c + radius, W - 1) + 1)
        ]
        high = [p for p in window if total[p] > median]
        if len(high) > share * len(window):
            centres.append((r, c))
            found.append(high)
    return found


def naive_rewards(a, members):
    """Affinities of all places to the members by the shares of the game among them."""
    if not members:
        return np.zeros(len(a))
    own = a[np.ix_(members, members)]
    x = np.full(len(members), 1 / len(members))
    mean = x @ own @ x
    if mean == 0:
        return np.zeros(len(a))
    while True:
        x = x * (own @ x) / mean
        now = x @ own @ x
        if (now - mean) / mean < 1e-5:
            return a[:, members] @ x
        mean = now


def naive_weights(m, mean, median, radius, share):
    total = m.sum(2)
    flat = total.ravel()
    places = m.reshape(-1, D) - mean
    places = places / np.linalg.norm(places, axis=1, keepdims=True)
    a = np.maximum(places @ places.T, 0)
    for i in range(len(a)):
        for j in range(len(a)):
            if i == j or (flat[i] == 0 and flat[j] == 0):
                a[i, j] = 0
    regions = [[r * W + c for r, c in s] for s in naive_regions(total, median, radius, share)]
    low = [p for p in range(len(flat)) if flat[p] < median]
    behind, damp = set(low), np.ones(len(flat))
    if regions:
        inside = sorted(set().union(*regions))
        back, whole = naive_rewards(a, low), naive_rewards(a, inside)
        best = np.max([whole, *[naive_rewards(a, s) for s in regions]], 0)
        behind |= {
            p for p in range(len(flat)) if p not in low and p not in inside and back[p] > best[p]
        }
        damp = np.exp(-whole)
    if len(behind) == len(flat):
        behind = set()
    strong = np.sqrt(flat / math.sqrt((flat**2).sum()))
    return np.array([0 if p in behind else damp[p] * strong[p] for p in range(len(flat))])


@pytest.mark.parametrize("radius", [1, 2])
def test_regions_go_down_from_the_strongest_place(method, radius):
    x = torch.from_numpy(some_maps(8)).sum(3)
    image, members = interest_regions(x, method.median_, radius, 0.5)
    for i in range(8):
        expected = naive_regions(x[i].numpy(), method.median_, radius, 0.5)
        found = [{(p // W, p % W) for p in np.flatnonzero(s)} for s in members[image == i].numpy()]
        assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert len(image) > 8


def test_a_lonely_peak_is_no_region():
    total = torch.zeros(1, 5, 5)
    total[0, 1, 1] = 9
    total[0, 3:, 3:] = 2
    image, members = interest_regions(total, 1.0, 1, 0.5)
    # The corner's window has four places, all above the median; the peak's has one of nine.
    assert image.tolist() == [0]
    assert members[0].nonzero().flatten().tolist() == [18, 19, 23, 24]


def test_rewards_are_affinities_to_what_survives():
    a = RANDOM.random((3, 9, 9)) * (RANDOM.random((3, 9, 9)) < 0.8)
    a = (a + a.transpose(0, 2, 1)) * (1 - np.eye(9))
    members = RANDOM.random((3, 9)) < 0.6
    members[2] = False
    members[2, 4] = True
    found = rewards(torch.from_numpy(a).float(), torch.from_numpy(members)).numpy()
    for i in range(2):
        expected = naive_rewards(a[i], np.flatnonzero(members[i]).tolist())
        np.testing.assert_allclose(found[i], expected, atol=2e-3)
    # One member alone has nothing in common with itself.
    assert (found[2] == 0).all()


def test_weights_are_those_of_the_three_steps(method):
    x = some_maps(12)
    # Too weak to reach the median anywhere, so all places are kept.
    x[3] *= 1e-3
    found = method.weights(torch.from_numpy(x)).numpy()
    for i in range(12):
        expected = naive_weights(x[i].astype(float), method.mean_, method.median_, 1, 0.5)
        np.testing.assert_allclose(found[i], expected, atol=2e-3)
    assert (found[3] > 0).sum() == (x[3].sum(2) > 0).sum()
    assert (found == 0).any(1).sum() > 6


def test_constants_are_learned_from_training_places():
    x = some_maps(11)
    method = create("replicator", bits=3).fit(Split(x, supervision="unsupervised"))
    np.testing.assert_allclose(method.mean_, x.reshape(-1, D).mean(0), atol=1e-6)
    sums = np.sort(x.sum(3).ravel())
    assert method.median_ == pytest.approx(float(sums[(len(sums) - 1) // 2]))


def test_what_is_repeated_counts_less(method):
    flat = np.zeros((1, H, W, D), np.float32)
    flat[0, 1:5, 1:6, 0] = 2
    flat[0, 1:5, 1:6, 1:] = 0.05 * RANDOM.random((4, 5, D - 1))
    # Two places of the object that look different from the rest, and fire as much.
    flat[0, 2, 2], flat[0, 3, 4] = [0, 2, 0.1, 0, 0], [0, 0, 0, 2, 0.1]
    w = method.weights(torch.from_numpy(flat))[0].view(H, W)
    assert w[2, 2] > w[2, 3]
    assert w[3, 4] > w[3, 3]
    assert w[0, 0] == 0
