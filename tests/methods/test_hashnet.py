"""HashNet: the weighted likelihood pair by pair, the weights of a set, the continuation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.hashnet import HashNet
from cbir_lite.methods.deep import Batch, TrainingData

SEVERAL = np.array(
    [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], np.uint8
)


def naive_weights(y):
    """|S|/|S1| and |S|/|S0| over ordered pairs of different rows."""
    similar = dissimilar = 0
    for i in range(len(y)):
        for j in range(len(y)):
            if i != j:
                shared = any(a and b for a, b in zip(y[i], y[j], strict=True))
                similar, dissimilar = similar + shared, dissimilar + (not shared)
    total = similar + dissimilar
    return total / similar, total / dissimilar


def naive_loss(z, y, beta, w1, w0):
    n, bits = z.shape
    h = [[math.tanh(beta * v) for v in row] for row in z.tolist()]
    terms = []
    for i in range(n):
        for j in range(i + 1, n):
            product = 10 / bits * sum(a * b for a, b in zip(h[i], h[j], strict=True))
            both = sum(a and b for a, b in zip(y[i], y[j], strict=True))
            either = sum(a or b for a, b in zip(y[i], y[j], strict=True))
            s = float(both > 0)
            w = both / either * w1 if s else w0
            terms.append(w * (math.log(1 + math.exp(product)) - s * product))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("bits", [12, 32])
def test_loss_is_the_weighted_likelihood_of_explicit_pairs(bits):
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    method = HashNet(bits=bits, epochs=1, width=8).fit(Split(x, SEVERAL))
    method.memory_["beta"] = torch.tensor(1.7)
    batch = Batch(torch.from_numpy(x), torch.from_numpy(SEVERAL).float(), torch.arange(6))
    value = method.loss(batch)["likelihood"].item()
    w1, w0 = naive_weights(SEVERAL.tolist())
    assert value == pytest.approx(naive_loss(method.embed(x), SEVERAL.tolist(), 1.7, w1, w0))


@pytest.mark.parametrize("several", [False, True])
def test_weights_are_counted_from_the_labels_of_the_set(several):
    random = np.random.default_rng(1)
    y = np.eye(4, dtype=np.uint8)[random.choice(4, 30, p=[0.6, 0.2, 0.1, 0.1])]
    if several:
        y |= np.eye(4, dtype=np.uint8)[random.choice(4, 30)]
        y[7] = 0
    method = HashNet()
    method.start_fit(TrainingData(torch.zeros(30, 2), torch.from_numpy(y).float()))
    w1, w0 = naive_weights(y.tolist())
    assert float(method.memory_["w1"]) == pytest.approx(w1)
    assert float(method.memory_["w0"]) == pytest.approx(w0)


def test_slope_grows_in_stages_and_leaves_outputs_nearer_to_signs(lab):
    slopes = []

    class Watched(HashNet):
        def start_epoch(self, epoch, data):
            super().start_epoch(epoch, data)
            slopes.append(float(self.memory_["beta"]))

    class Flat(HashNet):
        def start_epoch(self, epoch, data):
            pass

    split = lab.make_split(HashNet())
    sharpness = []
    for cls in (Watched, Flat):
        method = cls(bits=32, epochs=15, batch_size=64, width=64).fit(split)
        h = np.tanh(float(method.memory_["beta"]) * method.embed(split.x))
        sharpness.append(np.abs(h).mean())
    assert slopes[0] == 1.0
    assert all(a < b for a, b in pairwise(slopes))
    assert slopes[-1] == pytest.approx(math.sqrt(1 + 0.005 * 200 * (50 * 14 // 15)))
    assert sharpness[0] > sharpness[1] + 0.2
