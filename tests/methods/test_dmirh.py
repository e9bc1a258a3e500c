"""DMIRH: ranking of levels and every term against loops; bags by hand; nearer by shared labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dmirh import DMIRH, level_ranking
from cbir_lite.methods.deep import Batch
from tests.methods.test_instance_aware_hash import scenes


def naive_ranking(theta, r, margin):
    most = max(1, max(map(max, r)))
    values = []
    for q in range(len(r)):
        for p in range(len(r)):
            for n in range(len(r)):
                if q not in (p, n) and r[q][p] > r[q][n]:
                    asked = margin * (r[q][p] - r[q][n]) / most
                    values.append(max(0.0, asked - theta[q][p] + theta[q][n]))
    return sum(values) / max(1, len(values))


@pytest.mark.parametrize("seed", range(4))
def test_the_ranking_of_levels_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    y = (rng.random((8, 5)) < 0.4).astype(int)
    u = rng.uniform(-1, 1, (8, 6))
    theta, r = u @ u.T / 6, y @ y.T
    got = level_ranking(torch.from_numpy(theta), torch.from_numpy(r).double(), 0.8)
    assert got.item() == pytest.approx(naive_ranking(theta.tolist(), r.tolist(), 0.8))


def test_images_that_are_all_alike_rank_nothing():
    assert level_ranking(torch.ones(3, 3), torch.ones(3, 3), 1.0).item() == 0


def test_terms_equal_loops():
    maps, labels = scenes(7, 1, classes=3)
    method = DMIRH(bits=5, width=16, delta=0.6, alpha=0.2, beta=0.5)
    method.network_ = net = method.build(maps, 3).eval()
    y = torch.from_numpy(labels).float()
    got = {
        k: v.item()
        for k, v in method.loss(Batch(torch.from_numpy(maps), y, torch.arange(7))).items()
    }
    with torch.no_grad():
        bag, scores = net.bag(torch.from_numpy(maps))
        u = net(torch.from_numpy(maps)).double().numpy()
    r = (labels.astype(int) @ labels.T).tolist()
    crossed = [
        -math.log(1 / (1 + math.exp(-s if t else s)))
        for row, own in zip(scores.double().tolist(), labels, strict=True)
        for s, t in zip(row, own, strict=True)
    ]
    expected = {
        "ranking": naive_ranking((u @ u.T).tolist(), r, 0.6),
        "classification": 0.5 * sum(crossed) / len(crossed),
        "quantization": 0.2 * (1 - np.abs(u).sum(1).mean() / math.sqrt(5)),
    }
    assert got == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        f, a = net.instances(torch.from_numpy(maps))
    for i in range(7):
        for c in range(3):
            weights = np.exp(a[i, :, c].numpy()) / np.exp(a[i, :, c].numpy()).sum()
            score = float((weights * a[i, :, c].numpy()).sum())
            by_hand = (weights[:, None] * f[i].numpy()).sum(0) / (1 + math.exp(-score))
            assert scores[i, c].item() == pytest.approx(score, abs=1e-5)
            assert bag[i, c].numpy() == pytest.approx(by_hand, rel=1e-4, abs=1e-6)


def test_labels_alone_teach_the_assignment_and_the_code_teaches_the_features():
    maps, labels = scenes(7, 1, classes=3)
    method = DMIRH(bits=5, width=16)
    method.network_ = net = method.build(maps, 3).train()
    y = torch.from_numpy(labels).float()
    terms = method.loss(Batch(torch.from_numpy(maps), y, torch.arange(7)))
    layer, k = net.instances.layer, net.instances.k
    for name, features, assignment in (
        ("ranking", True, False),
        ("quantization", True, False),
        ("classification", False, True),
    ):
        slopes = torch.autograd.grad(terms[name], [layer.weight, layer.bias], retain_graph=True)
        for slope in slopes:
            assert bool(slope[:k].any()) == features, name
            assert bool(slope[k:].any()) == assignment, name


def test_more_shared_labels_are_nearer():
    maps, labels = scenes(400, 3)
    method = DMIRH(bits=32, width=64, epochs=20, batch_size=64, lr=3e-3).fit(Split(maps, labels))
    query, asked = scenes(80, 4)
    d = (method.encode(query)[:, None] != method.encode(maps)[None]).mean(2)
    r = asked.astype(int) @ labels.T
    both = (asked.sum(1) == 2)[:, None] & (labels.sum(1) == 2)
    means = [d[both & (r == k)].mean() for k in (0, 1, 2)]
    assert means[0] > means[1] + 0.05
    assert means[1] > means[2] + 0.05
