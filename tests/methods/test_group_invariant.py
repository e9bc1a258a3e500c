"""Nested invariance pooling [213]: the three moments by hand, and what they do not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.group_invariant import nested
from cbir_lite.methods.registry import create


def some(n=3, h=4, w=3, d=5):
    return np.random.default_rng(0).random((n, h, w, d))


def test_mean_then_root_mean_square_then_maximum():
    x, scales = some(), 3
    for i, m in enumerate(x):
        best = np.zeros(5)
        for r in range(4):
            for c in range(3):
                squares = []
                for s in range(1, scales + 1):
                    reach = math.ceil(3 * s / scales)
                    window = m[max(0, r - reach) : r + reach + 1, max(0, c - reach) : c + reach + 1]
                    squares.append(window.mean((0, 1)) ** 2)
                best = np.maximum(best, np.sqrt(np.mean(squares, 0)))
        found = nested(torch.from_numpy(x[i : i + 1]).float(), scales)[0]
        np.testing.assert_allclose(found, best, atol=1e-5)


def test_mirrored_and_turned_layouts_look_alike(digits):
    method = create("group_invariant", bits=8)
    method.fit(Split(digits.train.maps[:200], supervision="unsupervised"))
    x = digits.query.maps[:6]
    f = method.embed(x)
    for other in (x[:, :, ::-1], x[:, ::-1], np.rot90(x, axes=(1, 2))):
        np.testing.assert_allclose(method.embed(np.ascontiguousarray(other)), f, atol=1e-4)


def test_neighbours_matter():
    x = torch.from_numpy(some(6, 4, 4)).float()
    shuffled = x.reshape(6, 16, 5)[:, torch.randperm(16, generator=torch.Generator())]
    assert (nested(shuffled.view(x.shape), 3) - nested(x, 3)).abs().max() > 0.01


def test_the_order_of_moments_grows():
    # An object that fills a window counts more than the same mass spread over the map.
    x = torch.zeros(2, 6, 6, 1)
    x[0, :2, :2] = 9
    x[1] = 1
    compact, spread = nested(x, 3)[:, 0]
    assert compact > spread
    assert spread.item() == pytest.approx(1)


def test_no_scales_are_refused():
    with pytest.raises(ValueError, match="scales=0"):
        create("group_invariant", scales=0)
