"""TBH: graph, convolution and every loss term against explicit loops; graph and judges at work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder._straight_through import binary_units
from cbir_lite.methods.autoencoder.tbh import TBH, code_graph, convolve
from cbir_lite.methods.deep import Batch


def naive_graph(b: np.ndarray, gamma: float) -> np.ndarray:
    n, bits = b.shape
    A = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            differs = sum(b[i, k] != b[j, k] for k in range(bits))
            A[i, j] = (1 - differs / bits) ** gamma
    return A


def naive_convolution(A: np.ndarray, h: np.ndarray) -> np.ndarray:
    n = len(A)
    degree = [sum(A[i]) for i in range(n)]
    mixed = np.zeros_like(h)
    for i in range(n):
        for j in range(n):
            mixed[i] += A[i, j] / math.sqrt(degree[i] * degree[j]) * h[j]
    return mixed


def test_binary_units_are_exact_forward_and_real_backward():
    p = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    b = binary_units(p)
    assert b.tolist() == [0, 1, 1]
    (b * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert p.grad.tolist() == [1, 2, 3]
    assert binary_units(p, torch.tensor([0.1, 0.6, 0.95])).tolist() == [1, 0, 0]


def test_graph_and_convolution_are_those_of_explicit_sums():
    rng = np.random.default_rng(0)
    b, h = rng.integers(2, size=(7, 12)).astype(float), rng.standard_normal((7, 5))
    b[3] = 1 - b[2]
    A = code_graph(torch.from_numpy(b), 1.4)
    np.testing.assert_allclose(A, naive_graph(b, 1.4), atol=1e-12)
    assert A[2, 3] == 0
    mixed = convolve(A, torch.from_numpy(h)).numpy()
    np.testing.assert_allclose(mixed, naive_convolution(A.numpy(), h), atol=1e-12)


def test_every_loss_term_is_that_of_explicit_sums(digits):
    x = digits.train.pooled[:60]
    method = TBH(bits=12, epochs=1, batch_size=30, width=16, latent=10, lam=0.5)
    method.fit(Split(x, supervision="unsupervised"))
    index = np.array([3, 50, 9, 41, 20, 7])
    net = method.network_.eval()
    batch = Batch(torch.from_numpy(x[index]), None, torch.from_numpy(index))
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        torch.manual_seed(5)
        judged = float(method.discriminator_loss(method._fakes))
        torch.manual_seed(5)
        fair, uniform = torch.randint(0, 2, (6, 12)), torch.rand(6, 10)
        target = net.standardise(batch.x).numpy()
        logits, z = (t.numpy() for t in net.bottlenecks(batch.x))
        h = net.graph(torch.from_numpy(z)).double().numpy()
        b = (logits >= 0).astype(float)
        mixed = 1 / (1 + np.exp(-naive_convolution(naive_graph(b, method.gamma), h)))
        rebuilt = net.decoder(torch.from_numpy(mixed).float()).double().numpy()

    def judge(layer, v):
        w, c = layer.weight.detach().double().numpy()[0], layer.bias.item()
        return [1 / (1 + math.exp(-sum(w * row) - c)) for row in np.asarray(v)]

    squares = sum((rebuilt[i, d] - target[i, d]) ** 2 for i in range(6) for d in range(64))
    assert terms["reconstruction"] == pytest.approx(0.5 * squares / 6, rel=1e-4)
    for name, layer, fake in (("b", net.d1, b), ("z", net.d2, mixed)):
        expected = -method.lam * np.mean(np.log(judge(layer, fake)))
        assert terms[f"adversarial {name}"] == pytest.approx(expected, rel=1e-4)
    expected = 0.0
    for layer, real, fake in ((net.d1, fair, b), (net.d2, uniform, mixed)):
        expected -= np.mean(np.log(judge(layer, real)))
        expected -= np.mean(np.log(1 - np.array(judge(layer, fake))))
    assert judged == pytest.approx(expected, rel=1e-4)


def test_each_optimiser_moves_its_own_networks_only(lab):
    method = lab.create("tbh", lab.SHORT, bits=16)
    method.fit(lab.make_split(method, 128))
    net = method.network_
    own, against = (
        {id(p) for g in o.param_groups for p in g["params"]} for o in method.optimisers()
    )
    judges = {id(p) for layer in (net.d1, net.d2) for p in layer.parameters()}
    assert against == judges
    assert own == {id(p) for p in net.parameters()} - judges


def test_discriminators_learn_to_tell_codes_of_one_kind_from_coin_tosses(lab):
    method = lab.create("tbh", lab.SHORT, bits=16)
    method.fit(lab.make_split(method, 128))
    fakes = torch.ones(64, 16), torch.full((64, method.latent), 0.1)
    torch.manual_seed(0)
    before = method.discriminator_loss(fakes).item()
    optimiser = method.optimisers()[1]
    for _ in range(200):
        method._descend(method.discriminator_loss(fakes), optimiser)
    # 4 log 2 is the loss of two judges that cannot tell.
    assert before > 3 * math.log(2)
    assert method.discriminator_loss(fakes).item() < 0.9 * before


def test_rebuilding_improves_and_needs_the_right_codes(lab, digits):
    method = lab.smoke_fit("tbh").method
    history = [h["reconstruction"] for h in method.history_]
    assert history[-1] < 0.9 * history[0]
    net = method.network_
    x = torch.from_numpy(digits.query.pooled[:64])
    with torch.no_grad():
        logits, z = net.bottlenecks(x)
        h, target = net.graph(z), net.standardise(x)
        errors = []
        for b in ((logits >= 0).float(), (logits >= 0).float()[torch.randperm(64)]):
            rebuilt = net.decoder(convolve(code_graph(b, method.gamma), h).sigmoid())
            errors.append(float((rebuilt - target).square().mean()))
    assert errors[0] < 0.95 * errors[1]
