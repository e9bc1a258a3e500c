"""SGH: the graph, the factor of the tags and the codes, each step against its objective."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cnn._tags import nearest_rows
from cbir_lite.methods.cnn.sgh import adaptive_graph, graph_product
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(8)
X = RANDOM.standard_normal((12, 5)).astype(np.float32)
Y = (RANDOM.random((12, 7)) < 0.4).astype(np.uint8)
Y[:, 0] |= ~Y.any(1)


def fitted(**params):
    size = {"bits": 6, "epochs": 2, "width": 8, "dropout": 0.0, "neighbours": 4}
    return registry.create("sgh", **{**size, **params}).fit(Split(X, Y, "weakly-supervised"))


def dense(weights, index) -> np.ndarray:
    S = np.zeros((len(index), len(index)))
    for i in range(len(index)):
        for w, j in zip(weights[i].tolist(), index[i].tolist(), strict=True):
            S[i, j] += w / 2
            S[j, i] += w / 2
    return S


def test_nearest_rows_are_found_in_blocks_without_the_row_itself():
    d, index = nearest_rows(torch.from_numpy(X), 3, block=5)
    full = ((X[:, None] - X[None]) ** 2).sum(2)
    np.fill_diagonal(full, np.inf)
    np.testing.assert_array_equal(index, np.argsort(full, 1)[:, :3])
    np.testing.assert_allclose(d, np.sort(full, 1)[:, :3], rtol=1e-3)
    assert nearest_rows(torch.from_numpy(X), 50)[1].shape == (12, 11)


def test_weights_of_the_graph_solve_their_problem():
    d = np.sort(RANDOM.random(6))
    w = adaptive_graph(torch.from_numpy(d)[None])[0].numpy()
    assert w.sum() == pytest.approx(1)
    assert w[-1] == 0
    # Optimal for sum(w d) + gamma sum(w^2) on the simplex with the gamma that this choice implies.
    gamma = 0.5 * (d[-1] - d).sum()

    def cost(v) -> float:
        return v @ d + gamma * v @ v

    for _ in range(200):
        other = RANDOM.dirichlet(np.ones(6))
        assert cost(w) <= cost(other) + 1e-12


def test_the_graph_product_is_that_of_the_dense_graph():
    method = fitted()
    index = method.memory_["index"]
    weights = adaptive_graph(method.memory_["distance"])
    b = RANDOM.standard_normal((12, 3))
    S = dense(weights, index)
    expected = (np.diag(S.sum(1)) + S) @ b
    found = graph_product(weights, index, torch.from_numpy(b).float())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_neither_the_factor_nor_the_codes_raise_the_objective():
    method = fitted(alpha=0.7, beta=0.3, ridge=0.5)
    T, index = method.memory_["T"].double().numpy(), method.memory_["index"]
    weights = adaptive_graph(method.memory_["distance"])
    S = dense(weights, index)
    h = np.tanh(RANDOM.standard_normal((12, 6)))

    def objective(B, V) -> float:
        B, V = B.double().numpy(), V.double().numpy()
        graph = sum(S[i, j] * ((B[i] - B[j]) ** 2).sum() for i in range(12) for j in range(12)) / 2
        total = ((T - B @ V) ** 2).sum() + 0.5 * (V**2).sum()
        return total + 0.7 * graph + 0.3 * ((B - h) ** 2).sum()

    B = torch.from_numpy(np.sign(RANDOM.standard_normal((12, 6)))).float()
    V = torch.from_numpy(RANDOM.standard_normal((6, 7))).float()
    values = [objective(B, V)]
    for _ in range(5):
        V = method.tag_factor(B)
        values.append(objective(B, V))
        B = method.code_step(B, V, weights, torch.from_numpy(h).float())
        values.append(objective(B, V))
    assert all(b <= a + 1e-4 for a, b in itertools.pairwise(values))
    assert values[-1] < values[1]


def test_the_network_learns_the_codes_of_its_rows():
    method = fitted()
    index = torch.tensor([3, 0, 7])
    batch = Batch(torch.from_numpy(X)[index], None, index)
    h = np.tanh(method.outputs(X).double().numpy())
    B = method.memory_["B"].numpy()
    naive = np.mean([(h[i, k] - B[i, k]) ** 2 for i in (3, 0, 7) for k in range(6)])
    assert method.loss(batch)["codes"].item() == pytest.approx(naive, rel=1e-4)
