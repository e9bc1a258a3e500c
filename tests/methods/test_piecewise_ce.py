"""Piecewise cross entropy: the two pieces, their joint, and how it treats certain images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.piecewise_ce import PiecewiseCE, piecewise_cross_entropy
from cbir_lite.methods.deep import Batch


def naive(p, tau):
    if p <= tau:
        return -math.log(p)
    return -math.log(tau) - (p - tau) / tau + (p - tau) ** 2 / (2 * tau * (1 - tau))


class Network:
    """Returns the descriptors it was given; its classifier is a fixed matrix."""

    def __init__(self, f, W):
        self.f, self.W = f, W

    def __call__(self, x):
        return self.f

    def classifier(self, f):
        return f @ self.W


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.8])
def test_loss_equals_the_loop_over_images(tau):
    rng = np.random.default_rng(0)
    f, W = rng.standard_normal((8, 6)), rng.standard_normal((6, 4))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    labels = np.eye(4)[rng.integers(4, size=8)]
    labels[0, :2] = 1
    method = PiecewiseCE(bits=6, tau=tau, scale=3.0)
    method.network_ = Network(torch.from_numpy(f).float(), torch.from_numpy(W).float())
    y = torch.from_numpy(labels).float()
    got = method.loss(Batch(torch.zeros(8, 1), y, torch.arange(8)))["classification"].item()
    losses = []
    for row, label in zip(3 * f @ W, labels, strict=True):
        e = [math.exp(v) for v in row]
        losses.append(naive(sum(v for v, c in zip(e, label, strict=True) if c) / sum(e), tau))
    assert got == pytest.approx(np.mean(losses), rel=1e-5)


def test_pieces_meet_in_value_and_slope_and_end_flat():
    tau = 0.6
    p = torch.tensor([0.2, tau - 1e-4, tau + 1e-4, 1.0], dtype=torch.float64, requires_grad=True)
    loss = piecewise_cross_entropy(p, tau)
    loss.sum().backward()
    assert loss[1].item() == pytest.approx(loss[2].item(), abs=1e-3)
    slopes = p.grad.tolist()
    assert slopes[0] == pytest.approx(-1 / 0.2)
    assert slopes[1] == pytest.approx(slopes[2], abs=1e-2)
    assert slopes[2] == pytest.approx(-1 / tau, abs=1e-2)
    assert slopes[3] == pytest.approx(0, abs=1e-9)
    assert (loss[:-1] > loss[1:]).all()


def test_certain_images_are_pushed_less_than_by_cross_entropy():
    p = torch.linspace(0.55, 0.99, 20, requires_grad=True)
    (mine,) = torch.autograd.grad(piecewise_cross_entropy(p, 0.5).sum(), p)
    (plain,) = torch.autograd.grad(-p.log().sum(), p)
    assert (mine.abs() < plain.abs()).all()
    assert (mine < 0).all()


def test_training_leaves_training_images_less_certain(lab):
    certainty = {}
    for tau in (0.3, 0.999):
        method = lab.create("piecewise_ce", lab.SMOKE, bits=32, tau=tau)
        split = lab.make_split(method)
        method.fit(split)
        f = torch.from_numpy(method.embed(split.x))
        with torch.no_grad():
            p = method.network_.classifier(method.scale * f).softmax(1).numpy()
        certainty[tau] = (p * split.labels).sum(1).mean()
    assert certainty[0.3] < certainty[0.999]
