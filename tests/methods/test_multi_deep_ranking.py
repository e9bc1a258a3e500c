"""WMDRH: losses of the tables against loops, weights of bits and tables, weighted distances."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.multi_deep_ranking import (
    WMDRH,
    bit_weights,
    mean_average_precision,
    weighted_hamming,
)
from cbir_lite.methods.deep import Batch


class Network:
    """Returns the outputs it was given; the classifiers are fixed matrices."""

    def __init__(self, z, matrices):
        self.z = torch.from_numpy(z).float()
        self.classifiers = [partial(torch.matmul, other=torch.tensor(W).float()) for W in matrices]

    def __call__(self, x):
        return self.z


def test_terms_equal_loops_over_tables_and_pairs():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((7, 12))
    matrices = [rng.standard_normal((4, 3)) for _ in range(3)]
    labels = (rng.random((7, 3)) < 0.5).astype(np.uint8)
    labels[0] = 1, 0, 0
    method = WMDRH(bits=12, tables=3)
    method.network_ = Network(z, matrices)
    y = torch.from_numpy(labels).float()
    got = method.loss(Batch(torch.zeros(7, 1), y, torch.arange(7)))

    near = far = surprise = 0.0
    for t, W in enumerate(matrices):
        h = np.tanh(z[:, 4 * t : 4 * t + 4])
        similar, dissimilar = [], []
        for i in range(7):
            for j in range(7):
                d = (4 - sum(a * b for a, b in zip(h[i], h[j], strict=True))) / 2
                if not (labels[i] & labels[j]).any():
                    dissimilar.append((max(0.0, 2 - d) / 2) ** 2)
                elif i != j:
                    similar.append((d / 4) ** 2)
            scores = [math.exp(v) for v in h[i] @ W]
            for c in np.flatnonzero(labels[i]):
                surprise -= math.log(scores[c] / sum(scores)) / labels[i].sum() / 7
        near += np.mean(similar)
        far += np.mean(dissimilar)
    assert got["similar"].item() == pytest.approx(near, rel=1e-5)
    assert got["dissimilar"].item() == pytest.approx(far, rel=1e-5)
    assert got["classification"].item() == pytest.approx(surprise, rel=1e-5)


def test_worse_pairs_are_penalised_more_than_in_proportion():
    def cost(product, similar):
        method = WMDRH(bits=12, tables=1)
        z = np.stack([np.full(12, 9.0), np.full(12, 9.0)])
        z[1, : (12 - product) // 2] *= -1
        method.network_ = Network(z, [np.zeros((12, 2))])
        y = torch.tensor([[1.0, 0], [1, 0] if similar else [0, 1]])
        terms = method.loss(Batch(torch.zeros(2, 1), y, torch.arange(2)))
        return terms["similar" if similar else "dissimilar"].item()

    # Distances 2 and 4 of 12 bits; a dissimilar pair is far enough at 6.
    assert cost(4, True) == pytest.approx(4 * cost(8, True), rel=1e-4)
    assert cost(0, False) == pytest.approx(0, abs=1e-6)
    assert 2 * cost(6, False) < cost(12, False)


def test_bits_weigh_by_entropy_and_difference():
    rng = np.random.default_rng(1)
    fair, rare = rng.choice([-1, 1], 4000), np.where(rng.random(4000) < 0.02, 1, -1)
    other = rng.choice([-1, 1], 4000)
    w = bit_weights(np.stack([fair, fair, other, rare, np.ones(4000, int)], 1))
    assert w.mean() == pytest.approx(1)
    assert w[2] > w[0] + 0.3  # one of a kind
    assert w[0] == pytest.approx(w[1], rel=1e-6)  # copies of each other
    assert 0 < w[3] < 0.4 * w[2]  # nearly constant
    assert w[4] == pytest.approx(0, abs=1e-6)  # constant
    p, half = 0.25, np.array([1, -1, -1, -1] * 10)
    pair = np.stack([half, np.tile([1, 1, -1, -1], 10)], 1)
    correlation = abs(np.corrcoef(pair.T)[0, 1])
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    raw = np.array([entropy, 1.0]) * (1 - correlation)
    np.testing.assert_allclose(bit_weights(pair), 2 * raw / raw.sum(), rtol=1e-6)


def test_weighted_distance_sums_the_weights_of_differing_bits():
    rng = np.random.default_rng(2)
    q, b = (rng.choice(np.array([-1, 1], np.int8), (n, 12)) for n in (4, 6))
    w = rng.random(12)
    expected = [[sum(w[k] for k in range(12) if r[k] != c[k]) for c in b] for r in q]
    np.testing.assert_allclose(weighted_hamming(q, b, w), expected, atol=1e-5)
    np.testing.assert_allclose(weighted_hamming(q, b, np.ones(12)), (12 - q.astype(int) @ b.T) / 2)


def test_mean_average_precision_by_hand():
    d = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [1, 2, 3, 4]], np.float32)
    relevant = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    assert mean_average_precision(d, relevant) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)


def test_a_table_of_noise_weighs_less_than_a_table_that_learned(lab):
    method = lab.smoke_fit("multi_deep_ranking").method
    split = lab.make_split(method)
    codes = method.encode(split.x)
    noise = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (len(codes), 16))
    spoiled = lab.create("multi_deep_ranking", {**lab.SMOKE, "epochs": 1}, bits=32)
    spoiled.encode = lambda x: np.concatenate([codes[:, :16], noise], 1)
    spoiled.fit(split)
    assert spoiled.weights_[:16].mean() > 3 * spoiled.weights_[16:].mean()


def test_tables_must_divide_the_bits():
    with pytest.raises(ValueError, match="bits=16 must be a multiple of tables=3"):
        WMDRH(bits=16, tables=3)
