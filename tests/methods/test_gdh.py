"""GDH: three players' losses, the factor and code steps, and the trip through the photo domain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch, TrainingData

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 4)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 2, 2, 0, 1]]
BATCH = Batch(*(torch.from_numpy(v) for v in (X, Y.astype(np.float32))), torch.arange(8),
              other=torch.from_numpy(T))  # fmt: skip


def fitted(**params):
    method = registry.create("gdh", bits=4, dropout=0.0, **{"epochs": 1, "width": 8, **params})
    return method.fit(Split(X, Y, other=T))


def parts(method):
    """The networks as functions of one row, on 64-bit numbers."""
    network = method.network_.double()

    def run(name):
        return lambda v: network.get_submodule(name)(torch.from_numpy(v)[None])[0].detach().numpy()

    names = ("to_photo", "to_sketch", "photo_critic", "sketch_critic", "hashing")
    return {name: run(name) for name in names}


def standardised(v):
    return ((v - v.mean(0)) / v.std(0)).astype(np.float64)


def test_generators_critics_and_hash_network_have_their_terms():
    method = fitted(cycle=2.0)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    found["critics"] = method.critic_loss(method.migrate(BATCH)).item()
    net, B_I, B_S = parts(method), method.memory_["B_I"].numpy(), method.memory_["B_S"].numpy()
    x, s = standardised(X), standardised(T)
    terms = dict.fromkeys(found, 0.0)
    for i in range(8):
        photo, sketch = net["to_photo"](s[i]), net["to_sketch"](x[i])
        real = float(net["photo_critic"](x[i])), float(net["sketch_critic"](s[i]))
        made = float(net["photo_critic"](photo)), float(net["sketch_critic"](sketch))
        terms["generators"] += sum((m - 1) ** 2 for m in made) / 8 / 4
        terms["critics"] += sum((r - 1) ** 2 + m**2 for r, m in zip(real, made, strict=True)) / 16
        there = np.abs(net["to_sketch"](photo) - s[i]).mean()
        back = np.abs(net["to_photo"](sketch) - x[i]).mean()
        terms["cycle"] += 2.0 * (there + back) / 8 / 4
        h, g = net["hashing"](x[i]), net["hashing"](photo)
        terms["codes"] += (((h - B_I[i]) ** 2).mean() + ((g - B_S[i]) ** 2).mean()) / 8
        terms["domains"] += ((h - g) ** 2).mean() / 8
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_factor_and_codes_have_their_closed_forms():
    method = fitted()
    y = BATCH.labels
    D = method.factor(y).numpy().astype(float)
    codes = [method.memory_[k].numpy().astype(float) for k in ("B_I", "B_S")]
    for c in range(3):
        rows = [i for i in range(8) if Y[i, c]]
        mean = sum(b[i] for b in codes for i in rows) / (2 * len(rows) + 1)
        np.testing.assert_allclose(D[c], mean, rtol=1e-5)
    method.start_epoch(0, TrainingData(BATCH.x, y, None, BATCH.other))
    for name, H in (("B_I", method.embed(X)), ("B_S", method.embed_other(T))):
        for i in range(8):
            expected = D[Y[i].argmax()] + 1e-5 * H[i]
            assert (method.memory_[name][i].numpy() == np.where(expected >= 0, 1, -1)).all()


def test_each_player_moves_only_its_own_parts():
    method = fitted()
    method._optimisers = method.optimisers()
    owned = [{id(p) for g in o.param_groups for p in g["params"]} for o in method._optimisers]
    assert not owned[0] & owned[1]
    assert len(owned[0] | owned[1]) == len(list(method.network_.parameters()))
    before = {k: v.clone() for k, v in method.network_.named_parameters()}
    method._descend(method.critic_loss(method.migrate(BATCH)), method._optimisers[1])
    moved = {k.split(".")[0] for k, v in method.network_.named_parameters()
             if not torch.equal(v, before[k])}  # fmt: skip
    assert moved == {"photo_critic", "sketch_critic"}


def test_round_trips_and_hash_targets_are_learned():
    method = fitted(epochs=150, lr=5e-3, batch_size=8, width=32)
    first, last = method.history_[0], method.history_[-1]
    assert last["cycle"] < 0.7 * first["cycle"]
    assert last["codes"] < 0.5 * first["codes"]


def test_a_sketch_is_hashed_as_the_photo_it_is_turned_into():
    method = fitted()
    net = parts(method)
    expected = [net["hashing"](net["to_photo"](s)) for s in standardised(T)]
    method.network_.float()
    np.testing.assert_allclose(method.embed_other(T), expected, rtol=1e-3, atol=1e-5)
