"""HRNH: the recurrence over levels, each loss term, clipped gradients, and a short training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.recurrent.hrnh import HRNH

PARTS = (2, 3, 5)


def fitted() -> tuple[HRNH, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 10)).astype(np.float32)
    y = rng.integers(0, 3, 30)
    method = HRNH(bits=6, epochs=2, batch_size=10, width=8)
    return method.fit(Split(x, y, parts=PARTS)), x, y


def logistic(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def naive_codes(method: HRNH, x: np.ndarray, order: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """u of each row: gates of the cell written out, level after level."""
    s = {k: v.double().numpy() for k, v in method.network_.state_dict().items()}
    size = s["cell.weight_hh"].shape[1]
    starts = np.cumsum([0, *PARTS])
    out = []
    for row in x.astype(np.float64):
        z = (row - s["standardise.mean"]) / s["standardise.scale"]
        h = np.zeros(size)
        for level in order:
            piece = z[starts[level] : starts[level + 1]]
            weight, bias = s[f"levels.{level}.0.weight"], s[f"levels.{level}.0.bias"]
            a = np.maximum(0, weight @ piece + bias)
            given = s["cell.weight_ih"] @ a + s["cell.bias_ih"]
            kept = s["cell.weight_hh"] @ h + s["cell.bias_hh"]
            reset = logistic(given[:size] + kept[:size])
            update = logistic(given[size : 2 * size] + kept[size : 2 * size])
            new = np.tanh(given[2 * size :] + reset * kept[2 * size :])
            h = (1 - update) * new + update * h
        out.append(np.tanh(s["hash_layer.weight"] @ h + s["hash_layer.bias"]))
    return np.array(out)


def test_the_cell_reads_the_levels_from_low_to_high() -> None:
    method, x, _ = fitted()
    np.testing.assert_allclose(method.embed(x[:8]), naive_codes(method, x[:8]), atol=1e-5)
    backwards = naive_codes(method, x[:8], (2, 1, 0))
    assert np.abs(method.embed(x[:8]) - backwards).max() > 0.01


def test_codes_of_levels_are_read_off_the_state_after_each() -> None:
    method, x, _ = fitted()
    codes = method.encode_levels(x[:8])
    assert codes.shape == (8, 3, 6)
    np.testing.assert_array_equal(codes[:, -1], method.encode(x[:8]))
    only_lowest = np.where(naive_codes(method, x[:8], (0,)) >= 0, 1, -1)
    np.testing.assert_array_equal(codes[:, 0], only_lowest)
    changed = x[:8].copy()
    changed[:, 5:] += 3  # the highest level
    np.testing.assert_array_equal(method.encode_levels(changed)[:, :2], codes[:, :2])
    with pytest.raises(ValueError, match="fitted on inputs"):
        method.encode_levels(x[:, :9])


def test_every_level_reaches_the_code() -> None:
    method, x, _ = fitted()
    before = method.embed(x[:5])
    for column in (0, 2, 5):
        changed = x[:5].copy()
        changed[:, column] += 1
        assert np.abs(method.embed(changed) - before).max() > 1e-4


def test_loss_terms_over_explicit_pairs_and_bits() -> None:
    method, x, y = fitted()
    rows = np.arange(7)
    u = naive_codes(method, x[rows])
    pairs = []
    for i in rows:
        for j in range(i + 1, 7):
            theta = 0.5 * sum(u[i] * u[j])
            pairs.append(np.log(1 + np.exp(theta)) - float(y[i] == y[j]) * theta)
    away = [(u[i, k] - (1 if u[i, k] >= 0 else -1)) ** 2 for i in rows for k in range(6)]
    means = [np.mean([u[i, k] for i in rows]) ** 2 for k in range(6)]
    method.network_.eval()
    hot = np.eye(3, dtype=np.uint8)[y[rows]]
    batch = method._tensors(x[rows], hot, Split(x[rows], hot)).batch(torch.arange(7))
    terms = {k: float(t.detach()) for k, t in method.loss(batch).items()}
    assert terms["similarity"] == pytest.approx(np.mean(pairs), rel=1e-4)
    assert terms["quantization"] == pytest.approx(method.lam * np.mean(away), rel=1e-4)
    assert terms["balance"] == pytest.approx(method.mu * np.mean(means), rel=1e-4)


def test_long_gradients_are_shortened_and_short_ones_left() -> None:
    def step(scale: float) -> torch.Tensor:
        p = torch.nn.Parameter(torch.zeros(4))
        direction = torch.tensor([3.0, 4.0, 0.0, 0.0]) / 5
        HRNH._descend(scale * (p @ direction), torch.optim.SGD([p], lr=1.0))
        return p.detach()

    assert step(1000.0).norm() == pytest.approx(1.0, rel=1e-4)
    assert step(0.25).norm() == pytest.approx(0.25, rel=1e-4)


def test_ten_epochs_are_enough_to_leave_random_projections_behind(lab) -> None:
    method = lab.create("hrnh", {"epochs": 10, "batch_size": 64, "width": 128}, bits=32)
    method.fit(lab.make_split(method))
    assert lab.mean_ap(lab.distances(method), lab.relevance()) > lab.lsh_map() + 0.1
