"""TVDB: regions and words as they are read, the discrete steps, the terms of the networks."""

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
        np.testing.assert_array_equal(found[i, 0, 5:], [1, 1, 0.5, 0.5])
        norms = np.linalg.norm(found[i, 1:, :5], axis=1)
        assert (np.diff(norms) <= 1e-6).all()
        for region in found[i, 1:]:
            height, width, down, right = region[5:] * [3, 4, 3, 4]
            top, left = round(down - height / 2), round(right - width / 2)
            part = X[i, top : top + round(height), left : left + round(width)].reshape(-1, 5)
            np.testing.assert_allclose(region[:5], part.mean(0), atol=1e-6)
        assert len(np.unique(found[i, 1:, 5:], axis=0)) == 4


def test_regions_are_read_both_ways_and_their_order_matters():
    method = fitted()
    tower = method.network_.get_submodule("image").eval()
    x = torch.from_numpy(regions(X))
    with torch.no_grad():
        assert not torch.allclose(tower(x), tower(x.flip(1)), atol=1e-4)
        inner = tower.region(x)
        parts = dict(tower.lstm.named_parameters())
        said = np.zeros((8, 12))
        for way, order in (("", range(5)), ("_reverse", range(4, -1, -1))):
            w, u, b, c = (
                parts[f"{name}_l0{way}"].double().numpy()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, memory = np.zeros((8, 6)), np.zeros((8, 6))
            for r in order:
                gates = inner[:, r].double().numpy() @ w.T + b + h @ u.T + c
                i, f, g, o = np.split(gates, 4, 1)
                i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
                memory = f * memory + i * np.tanh(g)
                h = o * np.tanh(memory)
                said[:, slice(6, 12) if way else slice(6)] += h / 5
        expected = tower.hash_layers(torch.from_numpy(np.maximum(said, 0)).float())
        np.testing.assert_allclose(tower(x), expected, atol=1e-4)


def test_words_are_read_by_filters_over_neighbours():
    torch.manual_seed(0)
    tower = TextTower(6, 3, 4, 0.0).eval()
    e = tower.embedding.weight.detach().double().numpy()
    words = torch.tensor([[0.0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        found = tower(words).double().numpy()
        head = tower.hash_layers.double()
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
            expected = head(torch.tensor(pooled, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def objective(B, H, x, t, s, eta) -> float:
    """- tr B'SH + eta (|B - x|^2 + |H - t|^2) by loops, S centred by rows and columns."""
    m, k = B.shape
    share = [sum(float(s[i, j]) for j in range(m)) / m for i in range(m)]
    mean = sum(share) / m
    total = 0.0
    for i in range(m):
        for j in range(m):
            S = float(s[i, j]) - share[i] - share[j] + mean
            total -= S * sum(B[i, b] * H[j, b] for b in range(k))
        for b in range(k):
            total += eta * ((B[i, b] - x[i, b]) ** 2 + (H[i, b] - t[i, b]) ** 2)
    return total


@pytest.mark.parametrize("eta", [0.1, 2.0])
def test_the_discrete_steps_are_exact_in_turn(eta):
    method = fitted(eta=eta)
    x, t = (torch.from_numpy(RANDOM.uniform(-1, 1, (8, 6)).astype(np.float32)) for _ in range(2))
    s = torch.from_numpy((Y.astype(int) @ Y.T > 0).astype(np.float32))
    B, H = (code.numpy() for code in method.codes(x, t, s))
    x, t = x.numpy().astype(float), t.numpy().astype(float)
    assert set(np.unique(B)) == set(np.unique(H)) == {-1, 1}
    first = np.where(t >= t.mean(0), 1, -1)
    for i in range(8):
        for b in range(6):
            # B is the best for the centred signs of the texts, H the best for B.
            other = B.copy()
            other[i, b] *= -1
            assert objective(B, first, x, t, s, eta) <= objective(other, first, x, t, s, eta)
            other = H.copy()
            other[i, b] *= -1
            assert objective(B, H, x, t, s, eta) <= objective(B, other, x, t, s, eta)


def test_outputs_that_are_all_alike_still_get_codes_by_class():
    method = fitted()
    x = torch.from_numpy(0.5 + 0.01 * RANDOM.standard_normal((8, 6)).astype(np.float32))
    s = torch.from_numpy((Y.astype(int) @ Y.T > 0).astype(np.float32))
    B, H = method.codes(x, x + 0.01 * torch.from_numpy(X[:, 0, 0, :1]), s)
    assert len(np.unique(B, axis=0)) > 1
    for i in range(8):
        for j in range(8):
            if s[i, j]:
                assert (B[i] == B[j]).float().mean() >= 0.5
                assert (H[i] == H[j]).float().mean() >= 0.5


def test_both_networks_are_pulled_to_the_codes_of_the_batch():
    method = fitted()
    batch = Batch(
        torch.from_numpy(regions(X)), torch.from_numpy(Y).float(), torch.arange(8),
        other=torch.from_numpy(T),
    )  # fmt: skip
    found = {k: v.item() for k, v in method.loss(batch).items()}
    x, t = method.outputs(X), method.other_outputs(T)
    codes = method.codes(x, t, batch.similarity)
    for name, z, code in (("image", x, codes[0]), ("text", t, codes[1])):
        naive = np.mean(
            [(float(z[i, k]) - float(code[i, k])) ** 2 for i in range(8) for k in range(6)]
        )
        assert found[name] == pytest.approx(naive, rel=1e-4)


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match="maps"):
        registry.create("tvdb").fit(Split(X[:, 0, 0], Y, other=T))
