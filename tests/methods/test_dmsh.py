"""DMSH: relevance of labels, levels and terms against explicit loops; levels order the codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cross_modal.dmsh import label_relevance, semantic_levels
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
T = RANDOM.random((8, 4)).astype(np.float32)
Y = (RANDOM.random((8, 4)) < 0.5).astype(np.uint8)
Y[:, 0] |= ~Y.any(1)
BATCH = Batch(
    torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8), other=torch.from_numpy(T)
)


def naive_levels(y, R) -> np.ndarray:
    def inner(a, b) -> float:
        return sum(R[p, q] for p in np.flatnonzero(a) for q in np.flatnonzero(b))

    return np.array([[inner(a, b) / math.sqrt(inner(a, a) * inner(b, b)) for b in y] for a in y])


def test_labels_are_as_relevant_as_they_occur_together():
    y = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    R = label_relevance(y).numpy()
    np.testing.assert_allclose(
        R, [[1, 2 / 3, 0, 0], [2 / 3, 1, 3**-0.5, 0], [0, 3**-0.5, 1, 0], [0, 0, 0, 1]], atol=1e-6
    )


def test_levels_count_related_labels_in_part():
    R = label_relevance(torch.from_numpy(Y).float())
    found = semantic_levels(torch.from_numpy(Y).float(), R).numpy()
    np.testing.assert_allclose(found, naive_levels(Y, R.numpy()).clip(0, 1), atol=1e-5)
    one_label = torch.eye(3)
    np.testing.assert_array_equal(semantic_levels(one_label, torch.eye(3)), np.eye(3))


def test_terms():
    method = registry.create("dmsh", bits=4, epochs=1, width=8, dropout=0.0, alpha=0.5, eta=2.0)
    method.fit(Split(X, Y, other=T))
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    x, t = (np.tanh(z.double().numpy()) for z in (method.outputs(X), method.other_outputs(T)))
    levels = naive_levels(Y, method.memory_["R"].double().numpy()).clip(0, 1)
    binary = graded = distance = 0.0
    for i in range(8):
        for j in range(8):
            inner = float(x[i] @ t[j])
            s = bool((Y[i] & Y[j]).any())
            binary += math.log1p(math.exp(inner / 2)) - s * inner / 2
            graded += (inner / 4 - (2 * levels[i, j] - 1)) ** 2
        for k in range(4):
            b = 1 if x[i, k] + t[i, k] >= 0 else -1
            distance += (b - x[i, k]) ** 2 + (b - t[i, k]) ** 2
    assert found["binary"] == pytest.approx(binary / 64, rel=1e-4)
    assert found["levels"] == pytest.approx(0.5 * graded / 64, rel=1e-4)
    assert found["quantization"] == pytest.approx(2 * distance / 64, rel=1e-4)


def test_codes_that_share_more_are_nearer():
    y = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]], np.uint8)[
        np.arange(80) % 4
    ]
    x = (y @ RANDOM.standard_normal((4, 6)) + 0.1 * RANDOM.standard_normal((80, 6))).astype("f4")
    method = registry.create("dmsh", bits=32, epochs=60, batch_size=20, width=32)
    method.fit(Split(x, y, other=y + 0.1 * RANDOM.random((80, 4)).astype(np.float32)))
    inner = method.encode(x).astype(int) @ method.encode_other(y.astype(np.float32)).T.astype(int)
    two, one, none = (inner[0::4, j::4].mean() for j in (1, 2, 3))
    assert two > one + 4
    assert one > none + 4
