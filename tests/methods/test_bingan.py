"""BinGAN: both regularisers and both players against explicit loops; what they do to codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.bingan import BinGAN, off_diagonal_mean


def fitted(lab, **params):
    scale = {"epochs": 2, "batch_size": 64, "width": 24, "dropout": 0.0}
    method = BinGAN(seed=0, **{"bits": 6, **scale, **params})
    return method.fit(lab.make_split(method, 128))


def some_batch(digits, n: int = 7) -> Batch:
    return Batch(torch.from_numpy(digits.train.pooled[:n]), None, torch.arange(n))


def naive_regularisers(f: np.ndarray, g: np.ndarray, gamma: float, beta: float):
    """Distance matching, balance and correlation by loops over pairs, without weights."""
    n, K, M = len(f), f.shape[1], g.shape[1]
    s = [[f[i, k] / (abs(f[i, k]) + gamma) for k in range(K)] for i in range(n)]
    h = [[1 if g[i, m] >= 0 else -1 for m in range(M)] for i in range(n)]
    matching = correlation = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            low = sum(s[i][k] * s[j][k] for k in range(K)) / K
            high = sum(h[i][m] * h[j][m] for m in range(M)) / M
            matching += abs(high - low)
            correlation += math.exp(-abs(high) / beta) * abs(low)
    balance = sum((sum(s[i][k] for i in range(n)) / n) ** 2 for k in range(K)) / K
    return matching / (n * (n - 1)), balance, correlation / (n * (n - 1))


def test_regularisers_are_those_of_explicit_pairs():
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    g = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    method = BinGAN(bits=5, lambda_DMR=3.0, lambda_BRE=2.0, gamma=0.2, beta=1.5)
    terms = method.regularisers(f, g)
    matching, balance, correlation = naive_regularisers(f.numpy(), g.numpy(), 0.2, 1.5)
    expected = {"matching": 3 * matching, "balance": 2 * balance, "correlation": 2 * correlation}
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected, rel=1e-6)


def test_codes_that_agree_as_the_wide_layer_does_cost_nothing_to_match():
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, 1, 1, 1], [-1, -1, 1, 1]])
    wide = torch.cat([signs, signs, signs], 1)
    method = BinGAN(bits=4, gamma=1e-9)
    assert float(method.regularisers(1e3 * signs, wide)["matching"]) == pytest.approx(0, abs=1e-6)
    wrong = method.regularisers(1e3 * signs, wide.flip(0)[[1, 0, 2, 3]])
    assert float(wrong["matching"]) > 0.5


def test_the_wide_layer_is_a_target_and_gets_no_gradient_from_it():
    f = torch.randn(4, 3, requires_grad=True)
    g = torch.randn(4, 6, requires_grad=True)
    sum(BinGAN(bits=3).regularisers(f, g).values()).backward()
    assert g.grad is None
    assert (f.grad != 0).any()


def test_mean_over_pairs_leaves_the_diagonal_out():
    m = torch.tensor([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]])
    assert float(off_diagonal_mean(m)) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6)


def test_adversarial_and_feature_terms_are_those_of_explicit_sums(lab, digits, monkeypatch):
    method, batch = fitted(lab), some_batch(digits)
    noise = torch.rand(7, method.noise, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "rand", lambda *shape: noise)
    net = method.network_.train()
    with torch.no_grad():
        adversarial = float(method.loss(batch)["adversarial"])
        feature = float(method.answer(batch)["feature"])
        net.double()
        f = net(batch.x.double()).numpy()
        f_fake = net.low(net.high(net.generator(noise.double()))).numpy()
    w, c = (p.detach().numpy() for p in (net.logit.weight[0], net.logit.bias))
    D, D_fake = (1 / (1 + np.exp(-(v @ w + c))) for v in (f, f_fake))
    expected = -0.5 * sum(math.log(D[i]) + math.log(1 - D_fake[i]) for i in range(7)) / 7
    assert adversarial == pytest.approx(expected, rel=1e-4)
    gaps = [sum(f[i, k] - f_fake[i, k] for i in range(7)) / 7 for k in range(6)]
    assert feature == pytest.approx(sum(v * v for v in gaps) / 6, rel=1e-4)


def test_each_player_moves_its_own_networks_and_the_discriminator_learns(lab, digits):
    method, batch = fitted(lab), some_batch(digits, 60)
    net = method.network_.train()
    first, second = method.optimisers()
    names = ("high", "low", "logit", "generator")
    parts = {k: {id(p) for p in getattr(net, k).parameters()} for k in names}

    def owned(optimiser):
        return {id(p) for group in optimiser.param_groups for p in group["params"]}

    assert owned(first) == parts["high"] | parts["low"] | parts["logit"]
    assert owned(second) == parts["generator"]
    before = [p.clone() for p in net.generator.parameters()]
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(300):
            term = method.loss(batch)["adversarial"]
            losses.append(term.item())
            method._descend(term, first)
    assert all((p == q).all() for p, q in zip(net.generator.parameters(), before, strict=True))
    # log 2 is the loss of a discriminator that cannot tell.
    assert losses[-1] < 0.5 * math.log(2) < losses[0]


def test_without_matching_pairs_agree_less_as_they_do_in_the_wide_layer(lab, digits):
    def agreement(**params):
        method = fitted(lab, bits=16, width=128, epochs=20, **params)
        net, x = method.network_.eval(), torch.from_numpy(digits.query.pooled)
        with torch.no_grad():
            g = net.high(net.flat(x))
            h, b = torch.where(g >= 0, 1.0, -1.0), torch.where(net.low(g) >= 0, 1.0, -1.0)
        apart = ~np.eye(150, dtype=bool)
        high, low = ((v @ v.T).numpy()[apart] for v in (h, b))
        return np.corrcoef(high, low)[0, 1], float(b.mean(0).abs().mean())

    with_both, balanced = agreement()
    without, unbalanced = agreement(lambda_DMR=0.0, lambda_BRE=0.0)
    assert with_both > without + 0.1
    assert balanced < unbalanced
