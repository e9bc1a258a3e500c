"""SADH: graph, Lagrangian and its slope by dense sums; balanced codes that joined images share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._pseudo import directions, k_means
from cbir_lite.methods.cnn.sadh import SADH, admm, anchor_graph, lagrangian
from cbir_lite.methods.deep import Batch

RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.standard_normal((12, 3))).float()
C = torch.from_numpy(RNG.standard_normal((5, 3))).float()


def test_each_row_joins_its_nearest_anchors_with_gaussian_weights():
    Z = anchor_graph(X, C, 2).double().numpy()
    d = [[float((x - c).square().sum()) for c in C] for x in X]
    sigma = np.mean([math.sqrt(sorted(row)[1]) for row in d])
    for i, row in enumerate(d):
        order = sorted(range(5), key=row.__getitem__)[:2]
        weights = {k: math.exp(-row[k] / sigma**2) for k in order}
        for k in range(5):
            expected = weights.get(k, 0.0) / sum(weights.values())
            assert Z[i, k] == pytest.approx(expected, abs=1e-5)


def problem(n=12, K=4):
    Z = anchor_graph(X, C, 2).double().numpy()
    return Z, RNG.standard_normal((n, K)), RNG.standard_normal((n, K))


def test_lagrangian_is_that_of_the_dense_graph():
    Z, B, linear = problem()
    A = Z @ np.diag(1 / np.maximum(Z.sum(0), 1e-12)) @ Z.T
    assert np.allclose(A.sum(1), 1)
    smooth = 0.0
    for i in range(12):
        for j in range(12):
            smooth += 0.5 * A[i, j] * sum((B[i] - B[j]) ** 2)
    balance = sum(sum(B[:, k]) ** 2 for k in range(4))
    apart = sum((B[:, a] @ B[:, b] - 12 * (a == b)) ** 2 for a in range(4) for b in range(4))
    expected = smooth + (linear * B).sum() + 0.35 * (B**2).sum() + 0.1 * balance + 0.075 * apart
    value, slope = lagrangian(B, csr_matrix(Z), linear, 0.7, (0.2, 0.3))
    assert value == pytest.approx(expected, rel=1e-6)
    for i, k in ((0, 0), (5, 3), (11, 1)):
        moved = B.copy()
        moved[i, k] += 1e-6
        other = lagrangian(moved, csr_matrix(Z), linear, 0.7, (0.2, 0.3))[0]
        assert slope[i, k] == pytest.approx((other - value) / 1e-6, rel=1e-3, abs=1e-3)


def test_codes_are_binary_balanced_and_smooth_over_the_graph(digits):
    u = directions(torch.from_numpy(digits.train.pooled))
    centres = k_means(u, 50, torch.Generator().manual_seed(0))
    Z = csr_matrix(anchor_graph(u, centres, 2).double().numpy())
    start = sign(np.random.default_rng(0).standard_normal((500, 16))).astype(np.float64)
    B, values = admm(Z, start, (1e-2, 1e-2, 0.1, 0.1))
    assert set(np.unique(B)) == {-1, 1}
    assert values[-1] < values[0]
    assert np.abs(B.mean(0)).mean() < 0.15
    correlation = np.abs(B.T @ B / 500 - np.eye(16)).mean()
    assert correlation < 0.15

    def roughness(codes):
        return lagrangian(codes, Z, np.zeros_like(codes), 0.0, (0.0, 0.0))[0]

    assert roughness(B) < 0.6 * roughness(start)
    loose, _ = admm(Z, start, (1e-2, 1e-2, 1e-9, 1e-9))
    assert np.abs(loose.mean(0)).mean() > np.abs(B.mean(0)).mean()


def test_codes_and_graph_change_with_each_round_and_the_graph_follows_the_network(lab):
    seen = []

    class Watched(SADH):
        def start_epoch(self, epoch, data):
            super().start_epoch(epoch, data)
            seen.append(self.memory_["B"].clone())

        def graph(self, epoch, data):
            Z = super().graph(epoch, data)
            self.graphs.append(Z)
            return Z

    method = Watched(bits=16, epochs=6, width=16)
    method.graphs = []
    method.fit(lab.make_split(method, 128))
    assert len(method.graphs) == 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[4], seen[5])
    method.graphs.clear()
    split = lab.make_split(method, 128)
    data = method._tensors(split.x, None, split)
    before = method.graph(2, data)
    with torch.no_grad():
        method.network_.trunk[2].weight.copy_(torch.randn_like(method.network_.trunk[2].weight))
    assert not torch.equal(method.graph(2, data), before)
    assert torch.equal(method.graph(0, data), method.graph(0, data))


def test_loss_is_the_squared_distance_from_the_codes(lab):
    method = lab.create("sadh", lab.SHORT, bits=12)
    split = lab.make_split(method, 40)
    method.fit(split)
    index = torch.tensor([3, 0, 17])
    h = np.tanh(method.embed(split.x[index]).astype(np.float64))
    B = method.memory_["B"]
    errors = [(h[a, k] - float(B[i, k])) ** 2 for a, i in enumerate(index) for k in range(12)]
    value = method.loss(Batch(torch.from_numpy(split.x)[index], None, index))["fit"]
    assert value.item() == pytest.approx(np.mean(errors), rel=1e-5)
