"""Multi-layer fusion: each layer's contrastive loss over explicit pairs, and the descriptor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 4)).astype(np.float32)
CLASS = [0, 0, 1, 1, 2, 2, 0, 1]
Y = np.eye(3, dtype=np.uint8)[CLASS]
PARTS = [slice(0, 3), slice(3, 6), slice(6, 8)]


def fitted(**params):
    settings = {"bits": 8, "width": 32, "epochs": 1, "dropout": 0.0, **params}
    return registry.create("multilayer_sbir", **settings).fit(Split(X, Y, other=T))


def test_each_layer_over_explicit_pairs():
    method = fitted(margin=1.2)
    batch = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8),
                  other=torch.from_numpy(T))  # fmt: skip
    found = [v.item() for v in method.loss(batch).values()]
    p, s = method.embed(X).astype(float), method.embed_other(T).astype(float)
    for value, part in zip(found, PARTS, strict=True):
        near, far = [], []
        for i in range(8):
            for j in range(8):
                d = 3**0.5 * np.linalg.norm(s[i, part] - p[j, part])
                (near.append(d**2) if CLASS[i] == CLASS[j] else far.append(max(0, 1.2 - d) ** 2))
        assert value == pytest.approx(np.mean(near) + np.mean(far), rel=1e-3)


def test_every_layer_has_the_same_weight_in_the_descriptor():
    z = fitted().embed(X)
    for part in PARTS:
        np.testing.assert_allclose((z[:, part] ** 2).sum(1), 1 / 3, rtol=1e-4)


def test_a_deeper_part_is_computed_from_the_layer_before():
    method = fitted()
    tower = method.network_.image
    before = method.embed(X)
    tower.deeper[0][0].weight.data.mul_(-1)
    after = method.embed(X)
    np.testing.assert_array_equal(before[:, PARTS[0]], after[:, PARTS[0]])
    for part in PARTS[1:]:
        assert np.abs(before[:, part] - after[:, part]).max() > 1e-3


def test_all_layers_learn_to_tell_the_classes_apart():
    method = fitted(epochs=80, lr=5e-3)
    first, last = method.history_[0], method.history_[-1]
    for k in first:
        assert last[k] < 0.5 * first[k]


def test_fewer_bits_than_layers_are_refused():
    with pytest.raises(ValueError, match="bits=2 are fewer than layers=3"):
        fitted(bits=2)
