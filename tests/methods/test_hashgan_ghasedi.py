"""HashGAN (Ghasedi): every term against explicit loops; independent, balanced bits; adversaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.hashgan_ghasedi import HashGANGhasedi, entropy


def H(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def fitted(lab, **params):
    scale = {"epochs": 2, "batch_size": 64, "width": 24, "dropout": 0.0}
    method = HashGANGhasedi(bits=6, seed=0, **{**scale, **params})
    return method.fit(lab.make_split(method, 128))


def some_batch(lab, n: int = 7) -> Batch:
    split = lab.make_split(HashGANGhasedi(), 64)
    x, views = torch.from_numpy(split.x[:n]), torch.from_numpy(split.views[:n].copy())
    return Batch(x, None, torch.arange(n), views)


def test_every_term_of_both_players_is_that_of_explicit_sums(lab, monkeypatch):
    method = fitted(lab)
    batch, n, K = some_batch(lab), 7, 6
    which = torch.tensor([0, 3, 1, 2, 2, 0, 1])
    b = torch.tensor(np.random.default_rng(1).integers(0, 2, (n, K))).float()
    noise = torch.rand(n, method.noise, generator=torch.Generator().manual_seed(1))
    drawn = {(n, K): b.long(), (n,): which}
    monkeypatch.setattr(torch, "randint", lambda low, high, shape: drawn[tuple(shape)])
    monkeypatch.setattr(torch, "rand", lambda *shape: noise)
    net = method.network_.train()
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        terms |= {k: float(v) for k, v in method.answer(batch).items()}
        net.double()
        fake = net.generator(torch.cat([noise, b], 1).double())
        seen = batch.views[torch.arange(n), which]
        f, f_seen = (net.trunk(net.flat(x).double()).numpy() for x in (batch.x, seen))
        f_fake = net.trunk(fake).numpy()
    W, c = (p.detach().numpy() for p in (net.encode.weight, net.encode.bias))
    w, d = (p.detach().numpy() for p in (net.logit.weight[0], net.logit.bias))
    D, D_fake = sigmoid(f @ w + d), sigmoid(f_fake @ w + d)
    t, t_seen, t_fake = (sigmoid(v @ W.T + c) for v in (f, f_seen, f_fake))
    cells = [(i, k) for i in range(n) for k in range(K)]
    gram = [
        (sum(W[k, m] * W[j, m] for m in range(24)) - (k == j)) ** 2
        for k in range(K)
        for j in range(K)
    ]
    read = sum((t_fake[i, k] - float(b[i, k])) ** 2 for i, k in cells) / n
    expected = {
        "adversarial": -np.mean(np.log(D)) - np.mean(np.log(1 - D_fake)),
        "certain": sum(H(t[i, k]) for i, k in cells) / n,
        "uniform": -sum(H(sum(t[i, k] for i in range(n)) / n) for k in range(K)),
        "consistent": sum((t[i, k] - t_seen[i, k]) ** 2 for i, k in cells) / n,
        "independent": sum(gram),
        "collaborative": read,
        "matching": np.mean((f.mean(0) - f_fake.mean(0)) ** 2),
        "readable": read,
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_entropy_is_finite_at_certainty_and_largest_in_the_middle():
    t = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    assert entropy(t).tolist() == pytest.approx([0, math.log(2)], abs=1e-4)


def test_the_hashing_terms_wait_for_the_warm_epochs(lab):
    method = fitted(lab, epochs=4, warm=0.5)
    kinds = [set(epoch) for epoch in method.history_]
    assert kinds[0] == kinds[1] == {"adversarial", "matching"}
    assert kinds[2] == kinds[3] > {"uniform", "independent", "collaborative", "readable"}


def test_each_player_moves_its_own_networks_only(lab):
    method = fitted(lab)
    net, batch = method.network_.train(), some_batch(lab)
    names = ("trunk", "logit", "encode", "generator")

    def state():
        return {k: [p.clone() for p in getattr(net, k).parameters()] for k in names}

    def moved(a, b):
        return {k for k in names if any((p != q).any() for p, q in zip(a[k], b[k], strict=True))}

    first, second = method.optimisers()
    before = state()
    method._descend(sum(method.loss(batch).values()), first)
    between = state()
    method._descend(sum(method.answer(batch).values()), second)
    assert moved(before, between) == {"trunk", "logit", "encode"}
    assert moved(between, state()) == {"generator"}


def test_the_discriminator_learns_against_a_generator_that_stands_still(lab):
    method = fitted(lab)
    batch, optimiser = some_batch(lab, 60), method.optimisers()[0]
    method.hashing_ = False
    method.network_.train()
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(400):
            term = method.loss(batch)["adversarial"]
            losses.append(term.item())
            method._descend(term, optimiser)
    # 2 log 2 is the loss of a discriminator that cannot tell.
    assert losses[0] > math.log(2)
    assert losses[-1] < 0.5 * math.log(2)


def test_bits_are_balanced_their_directions_orthonormal_and_drawn_codes_readable(lab, digits):
    method = lab.smoke_fit("hashgan_ghasedi").method
    t = sigmoid(method.embed(digits.train.pooled))
    assert np.abs(t.mean(0) - 0.5).mean() < 0.1
    assert np.abs(t - 0.5).mean() > 0.15
    W = method.network_.encode.weight.detach().numpy()
    np.testing.assert_allclose(W @ W.T, np.eye(32), atol=0.15)
    # Half a bit each is what guessing costs on average, in squares a quarter.
    assert method.history_[-1]["readable"] < 0.95 * 32 / 4
