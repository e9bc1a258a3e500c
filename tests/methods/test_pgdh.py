"""PGDH: rewards and policy gradient against explicit loops; the reward rises; no relaxation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.reinforcement.pgdh import PGDH, pair_weights, rewards


def some_labels() -> torch.Tensor:
    return torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1.0]])


def similarity(y: torch.Tensor) -> torch.Tensor:
    return (y @ y.T > 0).float()


def test_rewards_are_the_weighted_errors_of_explicit_pairs():
    y, K = some_labels().numpy(), 8
    b = np.random.default_rng(0).choice([-1.0, 1.0], (3, len(y), K))
    pairs = list(itertools.permutations(range(len(y)), 2))
    similar = {(i, j): bool((y[i] * y[j]).sum() > 0) for i, j in pairs}
    beta = sum(not v for v in similar.values()) / len(pairs)
    expected = np.zeros((3, len(y)))
    for t in range(3):
        for i, j in pairs:
            inner = sum(b[t, i, k] * b[t, j, k] for k in range(K)) / K
            if similar[i, j]:
                expected[t, i] -= beta * (inner - 1) ** 2
            else:
                expected[t, i] -= (1 - beta) * (inner + 1) ** 2
    s = similarity(some_labels())
    actual = rewards(torch.from_numpy(b), s.double()) * (len(y) - 1)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_similar_and_dissimilar_pairs_weigh_the_same_and_an_image_not_with_itself():
    s = similarity(some_labels())
    w = pair_weights(s)
    assert w.diagonal().abs().sum() == 0
    similar = float((w * s).sum())
    assert similar == pytest.approx(float((w * (1 - s)).sum()))
    assert similar > 0


def test_a_perfect_code_earns_nothing_less_and_an_ignorant_one_does():
    y = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1.0]])
    perfect = torch.tensor([[1.0, 1], [1, 1], [-1, -1], [-1, -1]])
    assert rewards(perfect[None], similarity(y)).abs().max() == 0
    assert rewards(torch.ones(1, 4, 2), similarity(y)).max() < -0.5


def test_surrogate_has_the_gradient_of_log_likelihoods_times_advantages():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = 2.0 * torch.randint(0, 2, (5, 4, 3), generator=generator) - 1
    r = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    PGDH(T=5).surrogate(logits, b, r).backward()
    for i, k in itertools.product(range(4), range(3)):
        p = 1 / (1 + math.exp(-float(logits[i, k].detach())))
        gradient = 0.0
        for t in range(5):
            advantage = float(r[t, i]) - sum(float(r[u, i]) for u in range(5)) / 5
            # d log pi / d logit: 1 - p where the bit is +1, -p where it is -1.
            gradient -= advantage * ((1 - p) if b[t, i, k] > 0 else -p)
        assert float(logits.grad[i, k]) == pytest.approx(gradient / (5 * 4), abs=1e-12)


def test_the_estimate_points_along_the_exact_gradient_of_the_expected_reward():
    y = torch.tensor([[1, 0], [1, 0], [0, 1.0]])
    s = similarity(y).double()
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.4], [0.2, 0.1]], dtype=torch.float64)
    exact = logits.clone().requires_grad_()
    p = torch.sigmoid(exact)
    value = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product([-1.0, 1.0], repeat=6):
        b = torch.tensor(bits, dtype=torch.float64).reshape(3, 2)
        value = value + torch.where(b > 0, p, 1 - p).prod() * rewards(b[None], s).sum()
    value.backward()
    method = PGDH(T=500_000)
    estimate = logits.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        b = method.draw(estimate)
    method.surrogate(estimate, b, rewards(b, s)).backward()
    # Weights are symmetric: an image's draw moves the others' rewards as much as its own.
    np.testing.assert_allclose(-2 * 3 * estimate.grad, exact.grad, atol=0.004)
    assert exact.grad.abs().median() > 0.02


def test_draws_are_binary_follow_the_probabilities_and_carry_no_gradient():
    logits = torch.tensor([[-2.0, 0.0, 1.0]], requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        b = PGDH(T=20_000).draw(logits)
    assert set(b.unique().tolist()) == {-1.0, 1.0}
    assert not b.requires_grad
    share = (b > 0).float().mean((0, 1))
    np.testing.assert_allclose(share, torch.sigmoid(logits.detach())[0], atol=0.02)


def test_the_logged_reward_rises_and_the_code_is_the_most_probable_one(lab, digits):
    method = lab.smoke_fit("pgdh").method
    reward = [epoch["reward"] for epoch in method.history_]
    assert np.mean(reward[-3:]) > 0.8 * np.mean(reward[:3])
    assert max(reward) <= 0
    p = torch.sigmoid(torch.from_numpy(method.embed(digits.query.pooled))).numpy()
    np.testing.assert_array_equal(method.encode(digits.query.pooled), np.where(p >= 0.5, 1, -1))


def test_validation_counts_the_reward_of_the_mode(lab, digits):
    method = lab.smoke_fit("pgdh").method
    x = torch.from_numpy(digits.query.pooled[:40])
    y = torch.from_numpy(digits.query.y[:40].astype(np.float32))
    terms = method.loss(Batch(x, y, torch.arange(40)))
    codes = torch.from_numpy(method.encode(digits.query.pooled[:40])).float()
    assert float(terms["policy"]) == pytest.approx(
        -float(rewards(codes[None], similarity(y)).mean())
    )


@pytest.mark.parametrize("T", [1, 0, 2.5])
def test_too_few_draws_are_refused(T):
    with pytest.raises(ValueError, match="T="):
        registry.create("pgdh", T=T)
