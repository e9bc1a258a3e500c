"""DRDH: codes against brute force, losses with explicit loops; a redundant bit is found."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.reinforcement.drdh import (
    DRDH,
    average_precision,
    infer_block,
    infer_codes,
)


def fitted(lab, **params):
    scale = {"epochs": 4, "batch_size": 64, "width": 24, "dropout": 0.0}
    method = DRDH(seed=0, **{"bits": 8, **scale, **params})
    return method.fit(lab.make_split(method, 128))


def prepared(codes: np.ndarray, relevant: np.ndarray, **params) -> DRDH:
    """An agent before its first episode, for given codes of queries and gallery alike."""
    method = DRDH(bits=codes.shape[1], seed=0, **params)
    method.network_ = method.build(np.zeros((2, 3), np.float32), None)
    method._optimisers = method.optimisers()
    b, K = torch.from_numpy(codes).float(), codes.shape[1]
    method.memory_ = {
        "mask": torch.ones(K),
        "queries": b,
        "gallery": b,
        "relevant": torch.from_numpy(relevant),
        "replay": torch.zeros(4000, 2 * K + 3),
        "written": torch.zeros((), dtype=torch.int64),
    }
    return method


def naive_ap(distance: list[int], relevant: list[bool]) -> float:
    """Every item of a group of equal distances stands in the middle of it."""
    total = 0.0
    for d, r in zip(distance, relevant, strict=True):
        if r:
            nearer = [q for e, q in zip(distance, relevant, strict=True) if e < d]
            equal = [q for e, q in zip(distance, relevant, strict=True) if e == d]
            found = sum(nearer) + (sum(equal) + 1) / 2
            total += found / (len(nearer) + (len(equal) + 1) / 2)
    return total / max(1, sum(relevant))


def test_average_precision_is_that_of_explicit_groups_and_exact_without_ties():
    generator = np.random.default_rng(0)
    distance, relevant = generator.integers(0, 5, (6, 20)), generator.random((6, 20)) < 0.3
    relevant[2] = False
    actual = average_precision(torch.from_numpy(distance), torch.from_numpy(relevant))
    expected = [naive_ap(list(d), list(r)) for d, r in zip(distance, relevant, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    one = average_precision(torch.tensor([[3, 0, 1, 2]]), torch.tensor([[True, False, True, True]]))
    assert float(one) == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)


def test_quality_counts_only_the_bits_that_are_on():
    generator = np.random.default_rng(1)
    codes = generator.choice([-1.0, 1.0], (9, 6))
    relevant = generator.random((9, 9)) < 0.4
    method = prepared(codes, relevant)
    mask = np.array([1, 0, 1, 1, 0, 1])
    expected = []
    for i in range(9):
        distance = [
            sum(int(codes[i, k] != codes[j, k]) for k in range(6) if mask[k]) for j in range(9)
        ]
        expected.append(naive_ap(distance, list(relevant[i])))
    quality = method.quality(torch.from_numpy(mask).float())
    assert quality == pytest.approx(np.mean(expected), rel=1e-6)


def inference_error(B: np.ndarray, y: np.ndarray) -> float:
    """||B B' - K S||^2, pair by pair."""
    total = 0.0
    for i in range(len(B)):
        for j in range(len(B)):
            s = 1 if (y[i] * y[j]).sum() > 0 else -1
            total += (B[i] @ B[j] - B.shape[1] * s) ** 2
    return total


def test_each_bit_of_a_block_becomes_the_better_of_both_values():
    generator = np.random.default_rng(3)
    y = (generator.random((11, 4)) < 0.4).astype(int)
    y[4] = 0
    B = generator.choice([-1.0, 1.0], (11, 5))
    block = np.array([7, 4, 0, 9])
    expected = B.copy()
    for j in range(5):
        for i in block:
            flipped = expected.copy()
            flipped[i, j] = -flipped[i, j]
            if inference_error(flipped, y) < inference_error(expected, y):
                expected = flipped
    kinds, kind = np.unique(y, axis=0, return_inverse=True)
    S = np.where(kinds @ kinds.T > 0, 1.0, -1.0)
    sums = np.stack([B[kind == k].sum(0) for k in range(len(kinds))])
    actual, G = B.copy(), B.T @ B
    infer_block(actual, G, sums, S, kind, block)
    np.testing.assert_array_equal(actual, expected)
    assert (actual != B).any()
    np.testing.assert_allclose(G, actual.T @ actual)
    np.testing.assert_allclose(sums[kind[7]], actual[kind == kind[7]].sum(0))


def test_inferred_codes_tell_classes_apart():
    generator = np.random.default_rng(4)
    c = generator.integers(0, 4, 120)
    y = torch.eye(4)[torch.from_numpy(c)]
    B = infer_codes(y, 12, 5, 30, np.random.default_rng(0))
    assert set(np.unique(B)) == {-1, 1}
    words = np.unique(np.concatenate([c[:, None], B], 1), axis=0)
    assert len(words) == 4
    # Four words cannot be farther from each other than 2/3 of the bits on average.
    products = words[:, 1:] @ words[:, 1:].T
    assert products[~np.eye(4, dtype=bool)].max() <= 0


def test_hash_loss_is_that_of_explicit_bits(lab, monkeypatch):
    kept = []
    freeze = DRDH._freeze

    def note(self, data):
        kept.append((self.memory_["B"], data))
        freeze(self, data)

    monkeypatch.setattr(DRDH, "_freeze", note)
    method = fitted(lab)
    (B, data), index = kept[0], torch.arange(9)
    method.memory_["B"] = B
    with torch.no_grad():
        terms = method.loss(Batch(data.x[index], data.y[index], index))
        u = method.network_(data.x[index]).double().numpy()
    seen = [i for i in range(9) if B[i].abs().sum() > 0]
    assert len(seen) >= 5
    losses = []
    for i in range(9):
        for k in range(8):
            b = float(B[i, k])
            p = 1 / (1 + math.exp(-u[i, k]))
            losses.append(-(1 + b) / 2 * math.log(p) - (1 - b) / 2 * math.log(1 - p))
    assert set(terms) == {"bits"}
    assert float(terms["bits"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_difference_is_that_of_explicit_targets():
    method = prepared(np.ones((3, 4)), np.eye(3, dtype=bool), gamma=0.7)
    net = method.network_
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for layer in (net.target[0], net.target[2]):
            layer.reset_parameters()
    # Mask, action, reward, next mask, ended.
    steps = torch.tensor(
        [
            [1, 1, 1, 1, 2, 0.5, 1, 1, 0, 1, 0],
            [1, 0, 1, 1, 4, 0.0, 1, 0, 1, 1, 1],
            [1, 1, 0, 1, 0, 3.0, 0, 1, 0, 1, 0],
        ]
    )
    losses = []
    for step in steps:
        mask, action, reward, after, ended = step[:4], int(step[4]), step[5], step[6:10], step[10]
        q = net.q(mask).tolist()
        t = net.target(after).tolist()
        best = max(v for k, v in enumerate(t) if k == 4 or after[k] == 1)
        gap = q[action] - (float(reward) + (0.0 if ended else 0.7 * best))
        losses.append(0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5)
    assert method.temporal_difference(steps).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_bits_that_are_off_are_never_chosen():
    method = prepared(np.ones((3, 4)), np.eye(3, dtype=bool))
    mask = torch.tensor([0.0, 1, 0, 1])
    for chance in (0.0, 1.0):
        method._random = chance
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            chosen = {method._choose(mask) for _ in range(60)}
        assert chosen <= {1, 3, 4}
    assert chosen == {1, 3, 4}


def test_the_agent_learns_to_switch_harmful_bits_off():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 60)
    # Nine bits of which a class turns two over, and three more that are noise.
    words = np.ones((4, 9))
    for c in range(1, 4):
        words[c, 2 * c - 2 : 2 * c] = -1
    codes = np.concatenate([words[y], generator.choice([-1.0, 1.0], (60, 3))], 1)
    # Three agents: sums differ in their last digits from process to process, and an agent that
    # explored other bits for it may stop short of the best.
    gains, kept = [], []
    for seed in range(3):
        method = prepared(codes, y[:, None] == y[None])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for t in range(300):
                method._random = max(0.1, 1 - t / 200)
                method._episode()
        mask = method.greedy()
        gains.append(method.quality(mask) - method.quality(torch.ones(12)))
        kept.append([int(mask[:9].sum()), int(mask[9:].sum())])
    useful, noise = np.median(kept, 0)
    masks = [torch.ones(12).index_fill(0, torch.tensor(off, dtype=torch.long), 0)
             for k in range(4) for off in combinations(range(12), k)]  # fmt: skip
    best = max(map(method.quality, masks)) - method.quality(torch.ones(12))
    assert best > 0.05
    assert np.median(gains) == pytest.approx(best)
    # Of the two bits of a class one can go at no loss.
    assert useful >= 8
    assert noise <= 1


def test_images_of_the_reward_never_reach_codes_and_hash_network(lab, monkeypatch):
    seen = []
    loss = DRDH.loss
    monkeypatch.setattr(DRDH, "loss", lambda self, b: seen.append(b.index) or loss(self, b))
    kept, coded = [], []
    freeze = DRDH._freeze

    def note(self, data):
        freeze(self, data)
        kept.append(self.memory_["kept"])
        coded.append(self.memory_["B"].abs().sum(1) > 0)

    monkeypatch.setattr(DRDH, "_freeze", note)
    fitted(lab)
    assert len(kept) == 1
    assert set(torch.cat(seen).tolist()) == set((~kept[0]).nonzero().squeeze(1).tolist())
    assert int(kept[0].sum()) == 13
    assert torch.equal(coded[0], ~kept[0])


def test_bits_that_are_off_are_plus_one_everywhere_also_after_loading(lab, digits, tmp_path):
    method = fitted(lab)
    mask = torch.tensor([1.0, 0, 1, 1, 1, 0, 1, 1])
    method.memory_ = {"mask": mask}
    codes = method.encode(digits.query.pooled)
    assert (codes[:, mask == 0] == 1).all()
    assert len(np.unique(codes[:, mask == 1], axis=0)) > 1
    method.save(tmp_path / "drdh.pt")
    np.testing.assert_array_equal(load(tmp_path / "drdh.pt").encode(digits.query.pooled), codes)


def test_only_the_mask_is_left_and_the_agent_plays_last(lab):
    method = fitted(lab, epochs=6)
    assert set(method.memory_) == {"mask"}
    assert method.memory_["mask"].sum() >= 6
    assert ["gain" in epoch for epoch in method.history_] == [False] * 5 + [True]


def test_a_validation_part_is_refused():
    with pytest.raises(ValueError, match=r"validation=0\.1 must be 0"):
        DRDH(validation=0.1)
