"""Deep and hand-crafted features in one embedding: both losses, the fusion unit, and its use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dfe_handcrafted_kan import DeepHandcraftedEmbedding

PARTS = (6, 3, 4)
SMALL = {"bits": 5, "epochs": 2, "batch_size": 16, "width": 12}


def data(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, sum(PARTS))).astype(np.float32)
    return x, rng.integers(0, 3, n)


def fitted() -> tuple[DeepHandcraftedEmbedding, np.ndarray, np.ndarray]:
    x, y = data()
    return DeepHandcraftedEmbedding(**SMALL).fit(Split(x, y, parts=PARTS)), x, y


def naive_embedding(method: DeepHandcraftedEmbedding, x: np.ndarray) -> np.ndarray:
    """e of each row, from the weights, a part after the other."""
    state = {k: v.double().numpy() for k, v in method.network_.state_dict().items()}
    out = []
    for row in x.astype(np.float64):
        z = (row - state["standardise.mean"]) / state["standardise.scale"]
        joined: list[float] = []
        first = 0
        for p, d in enumerate(PARTS):
            weight, bias = (state[f"branches.{p}.1.{k}"] for k in ("weight", "bias"))
            for w, b in zip(weight, bias, strict=True):
                joined.append(max(0.0, b + sum(w[k] * z[first + k] for k in range(d))))
            first += d
        out.append(state["embedding.1.weight"] @ np.array(joined) + state["embedding.1.bias"])
    return np.array(out)


def test_the_fusion_unit_joins_a_layer_of_each_part() -> None:
    method, x, _ = fitted()
    e = naive_embedding(method, x[:7])
    expected = e / np.linalg.norm(e, axis=1, keepdims=True)
    np.testing.assert_allclose(method.embed(x[:7]), expected, atol=1e-5)


def test_both_losses_over_explicit_rows_and_triplets() -> None:
    method, x, y = fitted()
    rows = np.arange(8)
    hot = np.eye(3)[y[rows]]
    e = naive_embedding(method, x[rows])
    v, c = (method.network_.classifier.get_parameter(k).detach().double().numpy()
            for k in ("weight", "bias"))  # fmt: skip
    entropy = 0.0
    for i in rows:
        logits = v @ e[i] + c
        entropy -= logits[y[i]] - np.log(np.exp(logits).sum())
    f = e / np.linalg.norm(e, axis=1, keepdims=True)
    hinges = []
    for a in rows:
        for p in rows:
            for n in rows:
                if a != p and y[a] == y[p] and y[a] != y[n]:
                    near, far = ((f[a] - f[q]) @ (f[a] - f[q]) for q in (p, n))
                    hinges.append(max(0.0, method.margin + near - far))
    method.network_.eval()
    batch = method._tensors(x[rows], hot.astype(np.uint8), Split(x[rows], hot)).batch(
        torch.arange(8)
    )
    terms = {k: float(t.detach()) for k, t in method.loss(batch).items()}
    assert terms["classification"] == pytest.approx(entropy / 8, rel=1e-4)
    assert terms["ranking"] == pytest.approx(np.mean(hinges), rel=1e-4)
    assert any(h > 0 for h in hinges)


def test_what_neither_part_knows_alone_both_know_together() -> None:
    rng = np.random.default_rng(1)
    deep, craft = rng.integers(0, 2, (2, 300))
    x = rng.normal(size=(300, 9)).astype(np.float32)
    x[:, 0] += 6 * deep
    x[:, 5] += 6 * craft
    y = 2 * deep + craft
    params = {"bits": 8, "epochs": 60, "batch_size": 50, "width": 32}

    def accuracy(x: np.ndarray, parts: tuple[int, ...]) -> float:
        method = DeepHandcraftedEmbedding(**params).fit(Split(x[:200], y[:200], parts=parts))
        f = method.embed(x)
        nearest = method.distance(f[200:], f[:200]).argmin(1)
        return float((y[:200][nearest] == y[200:]).mean())

    assert accuracy(x, (5, 4)) > 0.95
    assert accuracy(x[:, :5].copy(), (5,)) < 0.7
    assert accuracy(x[:, 5:].copy(), (4,)) < 0.7
