"""HashGAN (Cao): terms of all three networks with explicit loops; critic, generator, stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.hashgan_cao import HashGANCao, cosine_cross_entropy


def fitted(lab, **params):
    scale = {"epochs": 2, "batch_size": 64, "width": 24, "dropout": 0.0, "noise": 8}
    method = HashGANCao(seed=0, **{"bits": 6, **scale, **params})
    return method.fit(lab.make_split(method, 128))


def some_batch(digits, n: int = 7) -> Batch:
    y = torch.from_numpy(digits.train.y[:n].astype(np.float32))
    return Batch(torch.from_numpy(digits.train.pooled[:n]), y, torch.arange(n))


def naive_cross_entropy(u: np.ndarray, v: np.ndarray, y: np.ndarray, alpha: float) -> float:
    """By loops over pairs; similar ones weigh (all pairs) / (similar pairs)."""
    n, total = len(u), 0.0
    similar = [(i, j) for i in range(n) for j in range(n) if (y[i] * y[j]).sum() > 0]
    for i in range(n):
        for j in range(n):
            cosine = u[i] @ v[j] / math.sqrt(u[i] @ u[i]) / math.sqrt(v[j] @ v[j])
            s = (i, j) in similar
            w = n * n / len(similar) if s else 1.0
            total += w * (math.log1p(math.exp(alpha * cosine)) - s * alpha * cosine)
    return total / (n * n)


def test_cross_entropy_is_that_of_explicit_pairs(digits):
    generator = np.random.default_rng(0)
    u, v = generator.standard_normal((7, 5)), generator.standard_normal((7, 5))
    batch = some_batch(digits)
    s = batch.similarity.double()
    actual = cosine_cross_entropy(torch.from_numpy(u), torch.from_numpy(v), s, 3.0)
    expected = naive_cross_entropy(u, v, batch.y.numpy(), 3.0)
    assert float(actual) == pytest.approx(expected)


def test_terms_of_all_three_networks_are_those_of_explicit_sums(lab, digits, monkeypatch):
    method, batch, n = fitted(lab, alpha=4.0, lambda_G=2.0, lambda_Q=0.3), some_batch(digits), 7
    generator = torch.Generator().manual_seed(1)
    noise, at = torch.randn(n, 8, generator=generator), torch.rand(n, 1, generator=generator)
    monkeypatch.setattr(torch, "randn", lambda *shape: noise)
    monkeypatch.setattr(torch, "rand", lambda *shape: at)
    net = method.network_.train()
    terms = {**method.judge(batch), **method.answer(batch), **method.loss(batch)}
    terms = {k: v.item() for k, v in terms.items()}
    net.double()
    y = batch.y.numpy()
    with torch.no_grad():
        x = net.flat(batch.x.double())
        fake = net.generator(torch.cat([noise, batch.y], 1).double())
        (score, e), (fake_score, fake_e) = net.critic(x), net.critic(fake)
        h, h_fake = net.hash(x).numpy(), net.hash(fake).numpy()
    # The public code squashes both by tanh.
    assert e.abs().max() < 1
    assert abs(h).max() < 1
    slopes = []
    for i in range(n):
        between = (x[i] + at[i].double() * (fake[i] - x[i])).requires_grad_()
        net.critic(between[None])[0].sum().backward()
        slopes.append((math.sqrt(sum(float(g) ** 2 for g in between.grad)) - 1) ** 2)
    e, fake_e = e.numpy(), fake_e.numpy()
    certain = [1 - abs(h[i]).sum() / math.sqrt(6) / math.sqrt(h[i] @ h[i]) for i in range(n)]
    expected = {
        "wasserstein": float(fake_score.mean() - score.mean()),
        "penalty": 10 * np.mean(slopes),
        "embedded": naive_cross_entropy(e, e, y, 4.0),
        "embedded fakes": naive_cross_entropy(e, fake_e, y, 4.0),
        "generator": -float(fake_score.mean()),
        "conditional": 2 * naive_cross_entropy(e, fake_e, y, 4.0),
        "real": naive_cross_entropy(h, h, y, 4.0),
        "generated": naive_cross_entropy(h, h_fake, y, 4.0),
        "quantization": 0.3 * np.mean(certain),
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_generated_codes_cannot_move_real_ones(lab, digits):
    method, batch = fitted(lab), some_batch(digits)
    h = method.network_(batch.x)
    assert not method.pairs(h, torch.randn(7, 6), batch.similarity).requires_grad


def test_the_players_come_first_and_the_hash_network_learns_from_a_fixed_generator(lab):
    method = fitted(lab, epochs=8, first=0.25)
    kinds = [set(epoch) for epoch in method.history_]
    assert all("wasserstein" in kind and "real" not in kind for kind in kinds[:2])
    assert all(kind == {"real", "generated", "quantization"} for kind in kinds[2:])
    before = [p.clone() for p in method.network_.generator.parameters()]
    method._playing = False
    method._optimisers = method.optimisers()
    method.training_step(Batch(torch.rand(20, 64), torch.eye(10).repeat(2, 1), torch.arange(20)))
    after = method.network_.generator.parameters()
    assert all((p == q).all() for p, q in zip(after, before, strict=True))


def test_the_critic_learns_against_a_generator_that_stands_still(lab, digits):
    method, batch = fitted(lab), some_batch(digits, 100)
    critic = method.optimisers()[2]
    distances = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(200):
            terms = method.judge(batch)
            distances.append(-terms["wasserstein"].item())
            method._descend(sum(terms.values()), critic)
    assert distances[-1] > max(1.0, 2 * distances[0])
    # A critic of slope 1 gives no more than the distance of the two sets allows.
    assert terms["penalty"].item() < 10


def test_the_generator_draws_what_it_is_told(lab, digits):
    method = HashGANCao(
        seed=0, bits=16, epochs=40, first=1.0, batch_size=64, width=128, noise=32, dropout=0.0
    )
    net, part = method.fit(lab.make_split(method)).network_.eval(), digits.train
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = torch.eye(10).repeat(20, 1)
        fake = method.draw(y).numpy()
        real = net.flat(torch.from_numpy(part.pooled)).numpy()
    means = np.stack([real[part.y[:, c] > 0].mean(0) for c in range(10)])
    nearest = ((fake[:, None] - means[None]) ** 2).sum(2).argmin(1)
    assert (nearest == y.argmax(1).numpy()).mean() > 0.8
