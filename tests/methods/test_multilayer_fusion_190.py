"""Fusion of layers: what a layer is, the weighted sum of similarities, and what fusion is for."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cnn.multilayer_fusion_190 import MultiLayerFusion, layers_of, shares

PARTS = (2, 3, 4, 5, 6)


def test_layers_are_thirds_of_the_stages() -> None:
    assert layers_of([16, 24, 40, 80, 112, 192, 320, 1280]) == [
        [16, 24, 40],
        [80, 112, 192],
        [320, 1280],
    ]
    assert layers_of([1, 4, 16, 64]) == [[1, 4], [16], [64]]
    assert layers_of([7]) == [[7]]
    assert layers_of([7, 8]) == [[7], [8]]


def test_dimensions_go_to_layers_evenly_and_what_one_cannot_hold_to_others() -> None:
    assert shares(64, [80, 384, 1600]) == [21, 21, 22]
    assert shares(64, [5, 16, 64]) == [5, 16, 43]
    assert shares(12, [5, 16, 64]) == [4, 4, 4]
    assert shares(60, [100, 5, 5]) == [50, 5, 5]
    with pytest.raises(ValueError, match="bits=86 exceeds the 85 dimensions"):
        shares(86, [5, 16, 64])


def naive_similarities(x: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Cosines (n, n) of each layer: stages of unit length, half-whitened components by SVD."""
    stages = np.split(x.astype(np.float64), np.cumsum(PARTS)[:-1], 1)
    stages = [s / np.linalg.norm(s, axis=1, keepdims=True) for s in stages]
    found = []
    for places, size in zip(([0, 1], [2, 3], [4]), sizes, strict=True):
        layer = np.concatenate([stages[p] for p in places], 1)
        centred = layer - layer.mean(0)
        _, s, vt = np.linalg.svd(centred, full_matrices=False)
        f = centred @ vt[:size].T / np.sqrt(s[:size] / np.sqrt(len(x) - 1))
        f /= np.linalg.norm(f, axis=1, keepdims=True)
        found.append(f @ f.T)
    return found


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 0.0, 3.0)])
def test_the_distance_is_the_weighted_sum_of_the_layers_similarities(
    weights: tuple[float, float, float],
) -> None:
    x = np.abs(np.random.default_rng(0).normal(size=(40, sum(PARTS)))).astype(np.float32)
    low, middle, high = weights
    method = MultiLayerFusion(bits=9, low=low, middle=middle, high=high)
    method.fit(Split(x, supervision="unsupervised", parts=PARTS))
    f = method.embed(x)
    assert f.shape == (40, 9)
    expected = np.zeros((40, 40))
    for w, s in zip(weights, naive_similarities(x, [3, 3, 3]), strict=True):
        expected += w / sum(weights) * (1 - s)
    np.testing.assert_allclose(method.distance(f, f), expected, atol=1e-4)


def test_low_layers_find_the_same_thing_among_those_that_mean_the_same() -> None:
    """High layers hold the class, low layers which thing of the class it is."""
    rng = np.random.default_rng(2)
    classes, things = rng.normal(size=(4, 12)), rng.normal(size=(40, 12))

    def views() -> np.ndarray:
        low = things + 0.3 * rng.normal(size=things.shape)
        high = np.repeat(classes, 10, 0) + 0.3 * rng.normal(size=(40, 12))
        return np.concatenate([low, low + high, high], 1).astype(np.float32)

    x = np.concatenate([views(), views()])
    split = Split(x, supervision="unsupervised", parts=(12, 12, 12))
    right = {}
    for name in ("multilayer_fusion_190", "multilayer_fusion_190/high"):
        method = registry.create(name, bits=24).fit(split)
        d = method.distance(method.embed(x[:40]), method.embed(x[40:]))
        right[name] = float((d.argmin(1) == np.arange(40)).mean())
    assert right["multilayer_fusion_190"] > 0.9
    assert right["multilayer_fusion_190/high"] < 0.5


@pytest.mark.parametrize("weights", [(-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_weights_that_cannot_be_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="weights must not be negative, and not all zero"):
        MultiLayerFusion(low=weights[0], middle=weights[1], high=weights[2])


def test_other_features_than_stages_are_named() -> None:
    x = np.random.default_rng(0).random((30, 20), np.float32)
    method = MultiLayerFusion(bits=6).fit(Split(x, supervision="unsupervised", parts=PARTS))
    with pytest.raises(ValueError, match=r"reads stages \(n, 20\) and got \(5, 19\)"):
        method.embed(x[:5, :19])
