"""UADH: similarities with explicit sets, terms with explicit loops, the game over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.uadh import UADH, neighbourhoods, similar


def naive_similarity(x: np.ndarray, K: int, voters: list[int]) -> np.ndarray:
    """S in {-1, 1} from sets of neighbours among the voters, row by row."""
    n = len(x)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 2)
    order = [sorted(voters, key=lambda j: -cosine[i, j]) for i in range(n)]
    sets = [set(o[: K + 1]) for o in order]
    S = -np.ones((n, n))
    for i in range(n):

        def shares(j, i=i):
            return (-len(sets[i] & sets[j]), j)

        last = sorted(map(shares, voters))[K]
        far = cosine[i, order[i][K + 1]]
        for j in range(n):
            near = cosine[i, j] > (cosine[i, order[i][K]] + far) / 2
            if near or shares(j) <= last:
                S[i, j] = S[j, i] = 1
    return S


def fitted(lab, **params):
    scale = {"epochs": 2, "batch_size": 64, "width": 24, "dropout": 0.0, "near": 0.05}
    method = UADH(seed=0, **{"bits": 6, **scale, **params})
    return method.fit(lab.make_split(method, 100))


@pytest.mark.parametrize("v", [50, 20])
def test_similar_rows_are_those_of_explicit_neighbour_sets(v, monkeypatch):
    monkeypatch.setattr("cbir_lite.methods.gan.uadh._VOTERS", v)
    x = torch.rand(50, 5, generator=torch.Generator().manual_seed(3))
    voters = [i * 50 // v for i in range(v)]
    S = naive_similarity(x.numpy(), 4, voters)
    known = neighbourhoods(x, 4 / v)
    np.testing.assert_array_equal(similar(x, torch.arange(50), known).numpy(), S)
    some = torch.tensor([30, 2, 49, 7, 8])
    np.testing.assert_array_equal(similar(x[some], some, known).numpy(), S[some][:, some])
    monkeypatch.setattr("cbir_lite.methods.gan.uadh._BLOCK", 7)
    again = neighbourhoods(x, 4 / v)
    for name, values in known.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-6)
    assert 50 * 5 < (S == 1).sum() < 50 * 30


def test_every_term_of_both_players_is_that_of_explicit_sums(lab, digits, monkeypatch):
    method, n, K = fitted(lab, lambda_A=0.3, eta=0.7), 6, 6
    index = np.array([3, 50, 9, 77, 20, 21])
    batch = Batch(torch.from_numpy(digits.train.pooled[index]), None, torch.from_numpy(index))
    drawn = torch.tensor(np.random.default_rng(1).integers(0, 2, (n, K)))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape: drawn)
    net = method.network_.train()
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        terms |= {k: float(v) for k, v in method.answer(batch).items()}
        net.double()
        x, h = net.flat(batch.x.double()), torch.tanh(net(batch.x.double()))
        b = 2.0 * drawn.double() - 1
        real = torch.sigmoid(net.discriminator(x, h)).numpy()
        fake = torch.sigmoid(net.discriminator(net.generator(b), b)).numpy()
    S = naive_similarity(digits.train.pooled[:100], 5, list(range(100)))[np.ix_(index, index)]
    h = h.numpy()
    pairs = [(i, j) for i in range(n) for j in range(n)]
    similar = [(sum(h[i, k] * h[j, k] for k in range(K)) / K - S[i, j]) ** 2 for i, j in pairs]
    rounding = [(h[i, k] - (1 if h[i, k] >= 0 else -1)) ** 2 for i in range(n) for k in range(K)]
    expected = {
        "similarity": sum(similar) / n**2,
        "quantization": 0.7 * sum(rounding) / (n * K),
        "adversarial": -0.3 * sum(math.log(fake[i]) + math.log(1 - real[i]) for i in range(n)) / n,
        "discriminator": -sum(math.log(real[i]) + math.log(1 - fake[i]) for i in range(n)) / n,
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_each_player_owns_its_networks(lab):
    method = fitted(lab)
    first, second = method.optimisers()
    names = ("encoder", "generator", "discriminator")
    parts = {k: {id(p) for p in getattr(method.network_, k).parameters()} for k in names}

    def owned(optimiser):
        return {id(p) for group in optimiser.param_groups for p in group["params"]}

    assert owned(first) == parts["encoder"] | parts["generator"]
    assert owned(second) == parts["discriminator"]


def test_the_discriminator_learns_which_code_belongs_to_an_input(lab, digits):
    method = fitted(lab, bits=16, width=64)
    batch = Batch(torch.from_numpy(digits.train.pooled[:80]), None, torch.arange(80))
    net = method.network_.train()
    method.loss(batch)
    x, h, *_ = method._pairs
    # Same inputs and same codes on both sides, paired wrongly on one: only pairs can be told.
    method._pairs = x, h, x, h.roll(1, 0)
    second = method.optimisers()[1]
    losses = []
    for _ in range(300):
        told = method.answer(batch)["discriminator"]
        losses.append(told.item())
        method._descend(told, second)
    # 2 log 2 is the loss of a discriminator that cannot tell.
    assert losses[0] > 1.8 * math.log(2)
    assert losses[-1] < math.log(2)
    assert net.discriminator(x, h).mean() > net.discriminator(x, h.roll(1, 0)).mean()


def test_the_game_makes_codes_of_images_spread_more_as_random_codes_do(lab, digits):
    def correlation(weight):
        method = lab.create("uadh", lab.SMOKE, bits=32, lambda_A=weight)
        b = method.fit(lab.make_split(method)).encode(digits.train.pooled).astype(float)
        return np.abs(np.corrcoef(b.T)[~np.eye(32, dtype=bool)]).mean()

    assert correlation(0.5) < correlation(0.0)


def test_validation_uses_the_neighbours_among_the_held_out_rows(digits, lab):
    method = fitted(lab, validation=0.3)
    assert all(math.isfinite(epoch["validation"]) for epoch in method.history_)
