"""GAH: attended gradients against loops over pairs and bits, and what the attention learns from."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.attention.gah import GAH, scale_gradients
from cbir_lite.methods.deep import Batch

BITS = 8


def make(rows=10, bits=BITS, **params):
    """An unfitted system with its networks, a batch of random rows, codes and labels."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    labels = (rng.random((rows, 4)) < 0.4).astype(np.float32)
    params = {"width": 7, "attention_width": 5, "pairs": 3, "dropout": 0.0, **params}
    method = GAH(bits=bits, **params)
    torch.manual_seed(0)
    method.network_ = method.build(x, 4)
    method.beta_ = 1.3
    batch = Batch(torch.from_numpy(x), torch.from_numpy(labels), torch.arange(rows))
    return method, batch, rng.uniform(-1, 1, (rows, bits)), labels


def pieces(rows, pairs):
    """Rows of the two halves of every piece."""
    found = []
    for start in range(0, rows, 2 * pairs):
        piece = list(range(start, min(start + 2 * pairs, rows)))
        half = -(-len(piece) // 2)
        found.append((piece[:half], piece[half:]))
    return found


def softplus(v):
    return math.log1p(math.exp(v))


def told(g):
    """The two inputs by which the attention network is told a gradient."""
    if abs(g) > math.exp(-10):
        return math.log(abs(g)) / 10, math.copysign(1.0, g) if g else 0.0
    return -1.0, math.exp(10) * g


def test_likelihood_equals_a_loop_over_the_pairs_of_pieces():
    method, _, c, labels = make(rows=11)
    total, pairs = 0.0, 0
    for first, second in pieces(11, 3):
        for i in first:
            for j in second:
                theta = 0.2 * float(c[i] @ c[j])
                total += softplus(theta) - theta * bool((labels[i] * labels[j]).any())
                pairs += 1
    assert pairs == 9 + 6
    got = method.likelihood(torch.from_numpy(c), torch.from_numpy(labels))
    assert got.item() == pytest.approx(total / pairs, rel=1e-6)


def test_attended_gradient_equals_a_loop_over_pairs_and_bits():
    method, _, c, labels = make()
    net = method.network_.attention
    w_in, bias, w_out = (
        v.detach().double().numpy() for v in (net.fc_in.weight, net.fc_in.bias, net.fc_out.weight)
    )

    def score(bit, g, all_g):
        hidden = w_in @ np.array([bit, *told(g), *told(all_g)]) + bias
        return float(w_out[0] @ np.maximum(hidden, 0))

    cut = pieces(10, 3)
    count = sum(len(a) * len(b) for a, b in cut)
    expected = np.zeros_like(c)
    for first, second in cut:
        slope = {}
        for i in first:
            for j in second:
                theta = 0.2 * float(c[i] @ c[j])
                s = bool((labels[i] * labels[j]).any())
                slope[i, j] = 0.2 / count * (1 / (1 + math.exp(-theta)) - s)
        for k in range(BITS):
            all_of = {i: sum(slope[i, j] * c[j, k] for j in second) for i in first}
            all_of |= {j: sum(slope[i, j] * c[i, k] for i in first) for j in second}
            for i in first:
                for j in second:
                    g_i, g_j = slope[i, j] * c[j, k], slope[i, j] * c[i, k]
                    e_i = math.exp(score(c[i, k], g_i, all_of[i]))
                    e_j = math.exp(score(c[j, k], g_j, all_of[j]))
                    expected[i, k] += 2 * g_i * e_i / (e_i + e_j)
                    expected[j, k] += 2 * g_j * e_j / (e_i + e_j)
    got = method.attended(torch.from_numpy(c).float(), torch.from_numpy(labels))
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=2e-4, atol=1e-9)


def test_even_attention_leaves_the_gradient_of_the_likelihood():
    method, _, c, labels = make()
    torch.nn.init.zeros_(method.network_.attention.fc_out.weight)
    codes = torch.tensor(c, dtype=torch.float32, requires_grad=True)
    y = torch.from_numpy(labels)
    (plain,) = torch.autograd.grad(method.likelihood(codes, y), codes)
    torch.testing.assert_close(method.attended(codes.detach(), y), plain, rtol=1e-5, atol=1e-9)


def test_gradients_of_any_size_are_told_by_moderate_numbers():
    g = torch.tensor([1e-9, -1e-9, 0.0, 1e-3, -1e3, math.exp(-10) * 0.999])
    a, b = scale_gradients(g)
    expected = np.array([told(float(v)) for v in g])
    np.testing.assert_allclose(a.numpy(), expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(b.numpy(), expected[:, 1], rtol=1e-5)
    assert a.abs().max() <= 1
    assert b.abs().max() <= 1


def step(method, batch):
    """One training step of a copy; returns the copy, with the attention's gradient in place."""
    method = copy.deepcopy(method)
    method._optimisers = method.optimisers()
    torch.manual_seed(5)
    method.training_step(batch)
    return method


def test_attention_descends_the_loss_after_the_step_it_shaped():
    """Its gradient against finite differences through the whole step of the hash network."""
    method, batch, _, _ = make(lr=50.0, dropout=0.3)
    method.network_.double()
    for p in method.network_.attention.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    batch = Batch(batch.x.double(), batch.y.double(), batch.index)

    def after(change):
        moved = copy.deepcopy(method)
        moved.network_.attention.fc_in.weight.data += change
        moved = step(moved, batch)
        torch.manual_seed(5)
        return moved.likelihood(moved.codes(moved.network_(batch.x)), batch.labels).item()

    got = step(method, batch).network_.attention.fc_in.weight.grad
    largest = int(got.abs().argmax())
    direction = torch.zeros(got.numel(), dtype=torch.float64)
    direction[largest] = 1e-5
    direction = direction.view_as(got)
    numeric = (after(direction) - after(-direction)) / 2e-5
    assert abs(numeric) > 1e-8
    assert float(got.flatten()[largest]) == pytest.approx(numeric, rel=1e-3)


def test_a_trained_attention_makes_a_better_step_than_an_even_one():
    """From one state, on the batch it learned on: its step lowers the loss more."""
    method, batch, _, _ = make(rows=12, lr=20.0, attention_lr=0.05, pairs=6)
    method._optimisers = method.optimisers()
    start = copy.deepcopy(method.network_.hash.state_dict())
    for _ in range(40):
        method.network_.hash.load_state_dict(start)
        method._optimisers[0] = method.optimisers()[0]
        learned = method.training_step(batch)["after the step"]
    even = copy.deepcopy(method)
    torch.nn.init.zeros_(even.network_.attention.fc_out.weight)
    even.network_.hash.load_state_dict(start)
    even._optimisers = even.optimisers()
    values = even.training_step(batch)
    assert learned < values["after the step"] < values["likelihood"]


def test_training_moves_both_networks_and_beats_random_projections(lab):
    fit = lab.smoke_fit("gah")
    assert fit.without_gradient == []
    history = fit.method.history_
    assert history[-1]["likelihood"] < history[0]["likelihood"] - 0.1
    assert lab.mean_ap(lab.distances(fit.method), lab.relevance()) > lab.lsh_map() + 0.1
