"""DeepBit: three terms by a second calculation, its two stages, and bits that survive a turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.deepbit import ANGLES, DeepBit, evenness_loss, one_view
from cbir_lite.methods.deep import Batch

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5)).astype(np.float32)
VIEWS = (X[:, None] + 0.3 * RNG.standard_normal((7, 4, 5))).astype(np.float32)


def fitted(**params):
    method = DeepBit(bits=12, epochs=3, width=8, alpha=0.7, beta=3.0, gamma=0.4, **params)
    return method.fit(Split(X, supervision="unsupervised", views=VIEWS))


def batch():
    return Batch(torch.from_numpy(X), None, torch.arange(7), torch.from_numpy(VIEWS))


@pytest.mark.parametrize("stage", [1, 2])
def test_terms_are_those_of_explicit_codes(stage):
    method = fitted()
    method.memory_["stage"] = torch.tensor(stage)
    torch.manual_seed(5)
    terms = method.loss(batch())
    torch.manual_seed(5)
    _, k = one_view(batch().views)
    z = method.embed(X).astype(np.float64)
    turned = method.embed(VIEWS[np.arange(7), k.numpy()]).astype(np.float64)
    losses, counts = [], np.zeros(12)
    for row in [*z, *turned]:
        bits = [1 if v >= 0 else 0 for v in row]
        counts += bits
        losses.append(sum((b - 0.5 - v) ** 2 for b, v in zip(bits, row, strict=True)))
    even = sum((c / 14 - 0.5) ** 2 for c in counts)
    assert terms["quantization"].item() == pytest.approx(0.7 * np.mean(losses), rel=1e-5)
    assert terms["even"].item() == pytest.approx(3.0 * even, rel=1e-5)
    assert ("rotation" in terms) is (stage == 2)
    if stage == 2:
        weight = {10: math.exp(-2), 5: math.exp(-0.5)}
        rotation = [
            weight[abs(ANGLES[k[i]])]
            * sum((a - b) ** 2 for a, b in zip(z[i], turned[i], strict=True))
            for i in range(7)
        ]
        assert terms["rotation"].item() == pytest.approx(0.4 * np.mean(rotation), rel=1e-5)


def test_every_view_is_drawn_and_belongs_to_its_image():
    views = torch.arange(400.0).reshape(100, 4, 1)
    torch.manual_seed(0)
    seen, k = one_view(views)
    assert torch.equal(seen[:, 0], 4 * torch.arange(100) + k)
    assert set(k.tolist()) == {0, 1, 2, 3}


def test_a_bit_that_is_mostly_one_is_pushed_down():
    z = torch.tensor([[1.0, -0.2], [0.3, 0.4], [0.2, -0.1], [2.0, 0.6]], requires_grad=True)
    evenness_loss(z).backward()
    assert torch.allclose(z.grad[:, 0], torch.full((4,), 2 * 0.5 / 4))
    assert (z.grad[:, 1] == 0).all()


def test_the_first_stage_moves_the_hash_layer_only(lab):
    class Watched(DeepBit):
        states: list

        def start_epoch(self, epoch, data):
            super().start_epoch(epoch, data)
            self.seen.append({k: v.clone() for k, v in self.network_.state_dict().items()})

    method = Watched(bits=16, epochs=4, width=16, first_stage=0.5)
    method.seen = []
    method.fit(lab.make_split(method, 128))
    first, second, third, fourth = method.seen
    for name, value in first.items():
        assert torch.equal(value, second[name]) is (not name.startswith("hash_layer"))
    for name in ("trunk.2.weight", "hash_layer.weight"):
        assert not torch.equal(third[name], fourth[name])
    assert [set(e) for e in method.history_] == [{"quantization", "even"}] * 2 + [
        {"quantization", "even", "rotation"}
    ] * 2


def test_bits_survive_a_turn_and_are_spread_evenly(lab, digits):
    method = lab.smoke_fit("deepbit").method
    split = lab.make_split(method)
    without = DeepBit(**{**method.params, "gamma": 0.0}).fit(split)

    def changed(m):
        return np.mean([(m.encode(split.views[:, v]) != m.encode(split.x)).mean() for v in (0, 3)])

    assert changed(method) < 0.9 * changed(without)
    unbalanced = DeepBit(**{**method.params, "beta": 0.0}).fit(split)

    def imbalance(m):
        return np.abs(m.encode(digits.database.pooled).mean(0)).mean()

    assert imbalance(method) < imbalance(unbalanced)
