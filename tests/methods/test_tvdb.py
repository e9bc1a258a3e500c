"""TVDB: regions, the reading of words, the discrete step and the terms of the networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cross_modal.tvdb import TextTower, regions
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(4)
X = RANDOM.standard_normal((8, 3, 4, 5)).astype(np.float32)
T = (RANDOM.random((8, 6)) < 0.4).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[[0, 1, 2, 0, 1, 2, 0, 1]]


def fitted(**params):
    size = {"bits": 6, "epochs": 1, "layer": 6, "dropout": 0.0}
    return registry.create("tvdb", **{**size, **params}).fit(Split(X, Y, other=T))


def test_regions_are_the_whole_and_four_parts_by_falling_activation():
    found = regions(X)
    assert found.shape == (8, 5, 9)
    for i in range(8):
        np.testing.assert_allclose(found[i, 0, :5], X[i].reshape(-1, 5).mean(0), atol=1e-6)
        np.testing.assert_array_equal(found[i, 0, 5:], [0, 1, 0, 1])
        norms = np.linalg.norm(found[i, 1:, :5], axis=1)
        assert (np.diff(norms) <= 1e-6).all()
        for region in found[i, 1:]:
            top, bottom, left, right = np.round(region[5:] * [3, 3, 4, 4]).astype(int)
            part = X[i, top:bottom, left:right].reshape(-1, 5)
            np.testing.assert_allclose(region[:5], part.mean(0), atol=1e-6)
        assert len(np.unique(found[i, 1:, 5:], axis=0)) == 4


def test_the_order_of_regions_matters():
    method = fitted()
    tower = method.network_.get_submodule("image")
    x = torch.from_numpy(regions(X))
    with torch.no_grad():
        assert not torch.allclose(tower(x), tower(x.flip(1)), atol=1e-4)


def test_words_are_read_by_filters_over_neighbours():
    torch.manual_seed(0)
    tower = TextTower(6, 3, 4, 0.0).eval()
    e = tower.embedding.weight.detach().double().numpy()
    words = torch.tensor([[0.0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        found = tower(words).double().numpy()
        head = tower.hash_layer.double()
    for row, listed in enumerate(([1, 3, 4], [], [0])):
        pooled = []
        for convolution in tower.convolutions:
            w, b = (p.detach().double().numpy() for p in convolution.parameters())
            span = w.shape[2]
            text = [e[j] for j in listed] + [np.zeros(3)] * span
            for f in range(3):
                responses = [
                    max(0.0, b[f] + sum(w[f, :, s] @ text[i + s] for s in range(span)))
                    for i in range(len(listed))
                ]
                pooled.append(max(responses, default=0.0))
        with torch.no_grad():
            expected = head(torch.tensor(pooled, dtype=torch.float64)).tanh().numpy()
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_the_discrete_step_lowers_its_objective():
    method = fitted(mu=2.0)
    x, t = (torch.from_numpy(RANDOM.uniform(-1, 1, (8, 6)).astype(np.float32)) for _ in range(2))
    s = torch.from_numpy((Y.astype(int) @ Y.T > 0).astype(np.float32))
    B, near = method.codes(x, t, s).numpy(), (x + t).numpy() / 2
    before = np.where(near >= 0, 1, -1)

    def error(b) -> float:
        total = 2 * sum((b[i, k] - near[i, k]) ** 2 for i in range(8) for k in range(6))
        for i in range(8):
            for j in range(8):
                total += (float(before[j] @ b[i]) - 6 * (2 * float(s[i, j]) - 1)) ** 2
        return total

    assert set(np.unique(B)) <= {-1, 1}
    assert error(B) < error(before)


def test_both_networks_are_pulled_to_the_codes_of_the_batch():
    method = fitted()
    batch = Batch(
        torch.from_numpy(regions(X)), torch.from_numpy(Y).float(), torch.arange(8),
        other=torch.from_numpy(T),
    )  # fmt: skip
    found = {k: v.item() for k, v in method.loss(batch).items()}
    x, t = method.outputs(X), method.other_outputs(T)
    B = method.codes(x, t, batch.similarity)
    for name, z in (("image", x), ("text", t)):
        naive = np.mean(
            [(float(z[i, k]) - float(B[i, k])) ** 2 for i in range(8) for k in range(6)]
        )
        assert found[name] == pytest.approx(naive, rel=1e-4)


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match="maps"):
        registry.create("tvdb").fit(Split(X[:, 0, 0], Y, other=T))
