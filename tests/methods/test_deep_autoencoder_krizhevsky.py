"""Deep autoencoder: contrastive divergence and rounding against explicit sums; pretraining."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder._boltzmann import Boltzmann, Layer
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, dtype=float)))


def machine(gaussian: bool, mask: np.ndarray) -> Boltzmann:
    rng = np.random.default_rng(0)
    m = Boltzmann(torch.from_numpy(mask), gaussian)
    m.W = torch.from_numpy(rng.standard_normal(mask.shape)) * m.mask
    m.a, m.c = (torch.from_numpy(rng.standard_normal(n)) for n in mask.shape)
    return m


@pytest.mark.parametrize("gaussian", [True, False])
def test_contrastive_divergence_is_that_of_explicit_units(gaussian):
    rng = np.random.default_rng(1)
    mask = np.ones((5, 3))
    mask[0, 1] = mask[4, 2] = 0
    m = machine(gaussian, mask)
    W, a, c = m.W.numpy(), m.a.numpy(), m.c.numpy()
    v, h = rng.random((6, 5)), rng.integers(2, size=(6, 3)).astype(float)
    dW, da, dc = np.zeros((5, 3)), np.zeros(5), np.zeros(3)
    for row, state in zip(v, h, strict=True):
        back = [sum(W[i, j] * state[j] for j in range(3)) + a[i] for i in range(5)]
        back = np.array(back) if gaussian else sigmoid(back)
        p = sigmoid([sum(W[i, j] * row[i] for i in range(5)) + c[j] for j in range(3)])
        p1 = sigmoid([sum(W[i, j] * back[i] for i in range(5)) + c[j] for j in range(3)])
        for i in range(5):
            for j in range(3):
                dW[i, j] += mask[i, j] * (row[i] * p[j] - back[i] * p1[j]) / 6
        da += (row - back) / 6
        dc += (p - p1) / 6
    found = m.gradients(torch.from_numpy(v), torch.from_numpy(h))
    for g, expected in zip(found, (dW, da, dc), strict=True):
        np.testing.assert_allclose(g.numpy(), expected, atol=1e-12)


def test_steps_keep_missing_connections_missing():
    torch.manual_seed(0)
    mask = torch.ones(8, 4)
    mask[:3, 0] = 0
    m = Boltzmann(mask, gaussian=True)
    v = torch.randn(50, 8)
    for _ in range(20):
        m.step(v, 0.05, 1e-3)
    assert (m.W[:3, 0] == 0).all()
    assert (m.W[3:, 0] != 0).all()


def test_the_loss_is_the_squared_error_of_the_rounded_code(digits):
    x = digits.train.pooled[:64]
    method = create(
        "deep_autoencoder_krizhevsky", bits=12, epochs=1, width=16, batch_size=32, rbm_updates=20
    )
    method.fit(Split(x, supervision="unsupervised"))
    net = method.network_
    index = [3, 9, 20, 31, 40, 7]
    batch = Batch(torch.from_numpy(x[index]), None, torch.tensor(index))
    found = float(method.loss(batch)["reconstruction"].detach())
    target = net.standardise(batch.x).numpy()
    total = 0.0
    for row in target:
        h = row.astype(float)
        for i, layer in enumerate(net.encoder):
            h = sigmoid(h @ layer.W.detach().numpy() + layer.bias.detach().numpy())
            if i == len(net.encoder) - 1:
                h = np.where(h >= 0.5, 1.0, 0.0)
        for i, layer in enumerate(net.decoder):
            h = h @ layer.W.detach().numpy() + layer.bias.detach().numpy()
            h = sigmoid(h) if i < len(net.decoder) - 1 else h
        total += ((h - row) ** 2).sum()
    assert found == pytest.approx(total / (6 * 64), rel=1e-4)


def test_a_layer_ignores_weights_of_missing_connections():
    layer = Layer(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    with torch.no_grad():
        layer.W.fill_(2.0)
    out = layer(torch.tensor([[1.0, 10.0]]))
    assert out.tolist() == [[22.0, 20.0]]
    out.sum().backward()
    assert layer.W.grad[0, 1] == 0


def test_pretraining_teaches_every_layer_and_gives_a_better_start(lab):
    smoke = lab.smoke_fit("deep_autoencoder_krizhevsky").method
    before, after = smoke.memory_["pretraining"].T
    assert (after < 0.5 * before).all()
    history = [h["reconstruction"] for h in smoke.history_]
    assert history[-1] < 0.95 * history[0]
    cold = lab.create("deep_autoencoder_krizhevsky", lab.SMOKE, rbm_updates=0)
    cold.fit(lab.make_split(cold))
    assert history[0] < 0.8 * cold.history_[0]["reconstruction"]


def test_the_unrolled_decoder_mirrors_the_encoder(lab):
    method = lab.create("deep_autoencoder_krizhevsky", {**lab.SHORT, "epochs": 0})
    method.fit(lab.make_split(method, 128))
    net = method.network_
    for layer, mirror in zip(net.encoder, reversed(net.decoder), strict=True):
        torch.testing.assert_close(layer.W.T, mirror.W)
