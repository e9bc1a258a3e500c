"""DMSSPH: levels and distances against loops, and codes that keep levels apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn._multilevel import multilevel_terms, similarity_levels
from cbir_lite.methods.cnn.dmssph import DMSSPH
from cbir_lite.methods.deep import Batch


class Given(torch.nn.Module):
    """A network that returns the outputs it was given."""

    def __init__(self, u):
        super().__init__()
        self.u = torch.nn.Parameter(torch.as_tensor(u, dtype=torch.float32))

    def forward(self, x):
        return self.u


def level(a, b):
    common = sum(1 for u, v in zip(a, b, strict=True) if u and v)
    return common / max(sum(a), sum(b), 1)


def twin(u, labels, tolerance):
    """The two terms of pairs, by loops."""
    n, bits = u.shape
    similar = dissimilar = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            d = sum((float(a) - float(b)) ** 2 for a, b in zip(u[i], u[j], strict=True))
            d /= 4 * bits
            s = level(labels[i].tolist(), labels[j].tolist())
            if s > 0:
                similar += max(0.0, abs(d - (1 - s) / 2) - tolerance) ** 2
            else:
                dissimilar += max(0.0, 0.5 - d) ** 2
    pairs = n * (n - 1) / 2
    return similar / pairs, dissimilar / pairs


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_terms_equal_loops_over_pairs(tolerance):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((9, 12)).astype(np.float32)
    labels = (rng.random((9, 5)) < 0.4).astype(np.uint8)
    labels[3] = 0
    y = torch.from_numpy(labels).float()
    got = multilevel_terms(torch.from_numpy(u), y, tolerance)
    similar, dissimilar = twin(u, labels, tolerance)
    assert similar > 0
    assert got["similar"].item() == pytest.approx(similar, rel=1e-5)
    assert got["dissimilar"].item() == pytest.approx(dissimilar, rel=1e-5)


def test_the_system_adds_the_pull_to_its_terms():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((7, 8)).astype(np.float32)
    labels = (rng.random((7, 4)) < 0.5).astype(np.uint8)
    method = DMSSPH(bits=8, alpha=0.3)
    method.network_ = Given(u)
    y = torch.from_numpy(labels).float()
    got = method.loss(Batch(torch.zeros(7, 1), y, torch.arange(7)))
    similar, dissimilar = twin(u, labels, 0.0)
    assert got["similar"].item() == pytest.approx(similar, rel=1e-5)
    assert got["dissimilar"].item() == pytest.approx(dissimilar, rel=1e-5)
    pull = np.mean([abs(abs(float(v)) - 1) for v in u.ravel()])
    assert got["quantization"].item() == pytest.approx(0.3 * pull, rel=1e-5)


def test_levels_by_hand():
    y = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0.0]])
    third = 1 / 3
    expected = [[1, 0.5, third, 0], [0.5, 1, 0, 0], [third, 0, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(similarity_levels(y), torch.tensor(expected))


def test_codes_at_the_distances_of_their_levels_cost_nothing():
    # Equal labels, half of them shared (a quarter of the bits), and none shared (half of the bits).
    u = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, 1, 1.0]])
    y = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1.0]])
    assert sum(v.item() for v in multilevel_terms(u, y).values()) == 0
    u[1, 0] = -1
    assert multilevel_terms(u, y)["similar"].item() > 0


def test_codes_of_images_keep_the_levels_of_their_labels_apart():
    """Images made of the patterns of their labels: distances fall with the share in common."""
    rng = np.random.default_rng(2)
    patterns = rng.standard_normal((6, 30))

    def draw(n):
        y = (rng.random((n, 6)) < 0.4).astype(np.uint8)
        y[np.arange(n), rng.integers(6, size=n)] = 1
        return (y @ patterns + 0.3 * rng.standard_normal((n, 30))).astype(np.float32), y

    x, y = draw(600)
    scale = {"bits": 24, "epochs": 25, "batch_size": 64, "width": 128, "lr": 3e-3}
    method = DMSSPH(**scale).fit(Split(x, y))
    x, y = draw(150)
    codes = method.encode(x).astype(int)
    d = (24 - codes @ codes.T) / 2 / 24
    s = similarity_levels(torch.from_numpy(y).float()).numpy()
    off = ~np.eye(150, dtype=bool)
    means = [
        d[off & (s > low) & (s <= high)].mean()
        for low, high in ((-1, 0), (0, 0.4), (0.4, 0.6), (0.6, 0.9), (0.9, 1))
    ]
    assert all(a > b + 0.03 for a, b in pairwise(means))


def test_training_beats_random_projections(lab):
    fit = lab.smoke_fit("dmssph")
    assert fit.without_gradient == []
    assert lab.mean_ap(lab.distances(fit.method), lab.relevance()) > lab.lsh_map() + 0.1
