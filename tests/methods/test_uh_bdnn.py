"""UH-BDNN: objective by a second calculation, both steps lower it, sizes, start, codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.shallow.uh_bdnn import UHBDNN, decoding_error, first_weights, hidden_layer

X = np.random.default_rng(0).random((40, 9)).astype(np.float32)


def problem(bits=4):
    rng = np.random.default_rng(1)
    inputs = torch.from_numpy(X)
    theta = [torch.from_numpy(t) for t in map(np.asarray, first_weights(inputs, (7, 6, bits)))]
    theta = [t + 0.1 * torch.from_numpy(rng.standard_normal(t.shape)).float() for t in theta]
    return inputs, theta, np.where(rng.standard_normal((40, bits)) > 0, 1.0, -1.0)


def naive_hidden(theta, row):
    a = list(map(float, row))
    for w, c, squash in zip(theta[0:6:2], theta[1:6:2], (True, True, False), strict=True):
        z = [sum(a[i] * float(w[i, j]) for i in range(len(a))) + float(c[j]) for j in range(len(c))]
        a = [1 / (1 + math.exp(-v)) for v in z] if squash else z
    return a


def test_the_decoding_error_and_its_slope_are_those_of_all_rows():
    inputs, theta, B = problem()
    codes = torch.from_numpy(B).float()
    W, c = (t.clone().requires_grad_() for t in theta[6:])
    whole = (inputs - (codes @ W + c)).square().sum()
    found = decoding_error(inputs, codes)(W, c)
    assert torch.allclose(found, whole, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(v, (W, c)) for v in (found, whole)), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_terms_are_those_of_explicit_sums():
    inputs, theta, B = problem()
    method = UHBDNN(bits=4, lambda1=0.3, lambda2=0.7, lambda3=0.2, lambda4=0.11)
    terms = {
        k: float(v) for k, v in method.terms(theta, inputs, torch.from_numpy(B).float()).items()
    }
    H = [naive_hidden(theta, row) for row in X]
    W, c = (t.double().numpy() for t in theta[6:])
    m = len(X)
    error = sum(
        (X[i, j] - sum(B[i, k] * W[k, j] for k in range(4)) - c[j]) ** 2
        for i in range(m)
        for j in range(9)
    )
    apart = 0.0
    for k in range(4):
        for j in range(4):
            apart += (sum(h[k] * h[j] for h in H) / m - (k == j)) ** 2
    assert terms["reconstruction"] == pytest.approx(error / (2 * m), rel=1e-4)
    size = sum(float(v) ** 2 for w in theta[::2] for v in w.ravel())
    assert terms["weights"] == pytest.approx(0.15 * size, rel=1e-4)
    away = sum((H[i][k] - B[i, k]) ** 2 for i in range(m) for k in range(4))
    assert terms["binary"] == pytest.approx(0.35 * away / m, rel=1e-4)
    assert terms["independence"] == pytest.approx(0.1 * apart, rel=1e-4)
    balance = sum(sum(h[k] for h in H) ** 2 for k in range(4))
    assert terms["balance"] == pytest.approx(0.055 * balance / m, rel=1e-4)


def test_codes_step_ends_where_no_bit_wants_to_flip():
    inputs, theta, B = problem()
    method = UHBDNN(bits=4, lambda2=0.7)

    def value(codes):
        return sum(method.terms(theta, inputs, torch.from_numpy(codes).float()).values()).item()

    found = method.codes_step(theta, inputs, B)
    assert value(found) < value(B)
    assert set(np.unique(found)) == {-1, 1}
    for i in range(0, 40, 7):
        for k in range(4):
            flipped = found.copy()
            flipped[i, k] *= -1
            assert value(flipped) >= value(found) - 1e-6


def test_neither_step_raises_the_objective(lab):
    method = lab.smoke_fit("uh_bdnn").method
    assert len(method.history_) == method.rounds + 1
    for step in method.history_:
        assert step["after"] <= step["before"]
    for earlier, later in zip(method.history_, method.history_[1:], strict=False):
        assert later["before"] <= earlier["after"] + 1e-5


def test_hidden_layers_have_the_published_sizes():
    sizes = {bits: UHBDNN(bits=bits).hidden for bits in (8, 16, 24, 32)}
    assert sizes == {8: (90, 20), 16: (90, 30), 24: (100, 40), 32: (120, 50)}


def test_the_start_is_the_leading_directions_of_each_layer():
    inputs = torch.from_numpy(X)
    W1, c1, W2, _, _, _, W4, c4 = first_weights(inputs, (7, 6, 4))
    _, vectors = np.linalg.eigh((X.T @ X).astype(np.float64))
    assert np.abs(np.abs((vectors[:, ::-1][:, :7] * W1.numpy()).sum(0)) - 1).max() < 1e-3
    a = torch.sigmoid(inputs @ W1)
    projected = (a @ W2).square().sum(0)
    assert (projected[:-1] >= projected[1:] - 1e-5).all()
    assert torch.equal(W4, torch.eye(4, 9))
    assert not c1.any()
    assert not c4.any()


def test_hidden_layer_agrees_with_binary_independent_codes_after_training(lab):
    method = lab.smoke_fit("uh_bdnn").method
    split = lab.make_split(method)
    H = method.embed(split.x).astype(np.float64)
    start = first_weights(torch.from_numpy(method._inputs(split.x)), (64, 50, 32))
    H0 = hidden_layer(start, torch.from_numpy(method._inputs(split.x))).double().numpy()

    def distance(h):
        return np.square(h.T @ h / len(h) - np.eye(32)).sum()

    assert distance(H) < 0.1 * distance(H0)
    assert np.square(np.abs(H) - 1).mean() < 0.5 * np.square(np.abs(H0) - 1).mean()


def test_equal_rows_and_too_many_bits_are_refused():
    with pytest.raises(ValueError, match="nothing to hash"):
        UHBDNN(bits=4).fit(Split(np.ones((6, 9), np.float32), supervision="unsupervised"))
    with pytest.raises(ValueError, match="bits=12 exceeds the 9 dimensions"):
        UHBDNN(bits=12).fit(Split(X, supervision="unsupervised"))
