"""AGAH: every term against explicit loops; attention, label codes and critics do their part."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import TrainingData
from cbir_lite.methods.gan.agah import code_map, gradient_penalty
from tests.methods.few_pairs import few_pairs

RANDOM = np.random.default_rng(2)
X, T, Y, BATCH = few_pairs(RANDOM)


def fitted(**params):
    size = {"bits": 4, "epochs": 1, "width": 8, "dropout": 0.0, "features": 6}
    method = registry.create("agah", **{**size, **params})
    method.fit(Split(X, Y, other=T))
    method.start_epoch(0, TrainingData(BATCH.x, BATCH.y, other=BATCH.other))
    return method


def numbers(t) -> np.ndarray:
    return t.detach().double().numpy()


def test_terms_of_the_towers():
    method = fitted(gamma=0.5, eta=2.0, alpha=3.0, mu=0.25, margin=0.4, anchors=3)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    f = [numbers(v) for v in method.unit_features(BATCH)]
    h = [method.outputs(X).double().numpy(), method.other_outputs(T).double().numpy()]
    M = numbers(method.memory_["M"])
    triplet = 0.0
    for a, b in (h, h[::-1]):
        d = [[1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q) for q in b] for p in a]
        relevant = (Y.astype(int) @ Y.T) > 0
        gaps = [
            max(0.0, 0.4 + d[i][p] - d[i][n])
            for i in range(3)
            for p in range(7)
            for n in range(7)
            if relevant[i, p] and not relevant[i, n]
        ]
        triplet += sum(gaps) / len(gaps)
    assert found["triplet"] == pytest.approx(triplet, rel=1e-4)
    labels = sum(
        (z[i] @ M[c] / 4 - (1 if Y[i, c] else -1)) ** 2
        for z in h for i in range(7) for c in range(3)
    ) / 21  # fmt: skip
    assert found["labels"] == pytest.approx(0.5 * labels, rel=1e-4)
    quantization = np.mean([(v - (1 if v >= 0 else -1)) ** 2 for z in h for v in z.ravel()])
    assert found["quantization"] == pytest.approx(2 * quantization, rel=1e-4)
    even = np.mean([1 / (1 + math.exp(abs(r).sum() / 2 / np.linalg.norm(r))) for z in h for r in z])
    assert found["even"] == pytest.approx(3 * even, rel=1e-4)
    critics = [method.network_.get_submodule(k) for k in ("other_critic", "image_critic")]
    with torch.no_grad():
        taken = sum(c(torch.from_numpy(v).float()).mean() for c, v in zip(critics, f, strict=True))
    assert found["adversary"] == pytest.approx(-0.25 * float(taken), rel=1e-4)


def test_attention_mixes_in_the_labels_that_a_feature_resembles():
    method = fitted(own=0.6)
    tower = method.towers(method.network_)[0]
    f, labels = numbers(method.unit_features(BATCH)[0]), numbers(tower.feature_map)
    for i in range(7):
        mask = [1 / (1 + math.exp(-5 * float(f[i] @ c))) for c in labels]
        seen = sum(m * c for m, c in zip(mask, labels, strict=True)) / sum(mask)
        found = numbers(tower.attended(torch.from_numpy(f[i : i + 1]).float()))[0]
        np.testing.assert_allclose(found, 0.6 * f[i] + 0.4 * seen, rtol=1e-4, atol=1e-6)


def test_the_feature_of_a_label_is_the_direction_of_the_mean_over_its_items():
    method = fitted()
    tower = method.towers(method.network_)[1]
    f = [numbers(v) for v in method.unit_features(BATCH)]
    for c in range(3):
        mean = sum(v[i] for v in f for i in range(7) if Y[i, c])
        np.testing.assert_allclose(numbers(tower.feature_map)[c], mean / np.linalg.norm(mean), 1e-4)


def test_no_sweep_over_the_codes_of_labels_raises_their_error():
    codes = torch.from_numpy(np.sign(RANDOM.standard_normal((30, 8)))).float()
    y = torch.from_numpy(np.eye(5)[RANDOM.integers(0, 5, 30)]).float()
    target, M = 8 * (2 * y - 1), torch.ones(5, 8)
    errors = []
    for _ in range(5):
        errors.append(float((codes @ M.T - target).square().sum()))
        M = code_map(codes, target, M)
        assert set(M.unique().tolist()) <= {-1.0, 1.0}
    assert all(b <= a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_the_penalty_of_a_linear_critic_is_known():
    critic = torch.nn.Linear(3, 1, bias=False)
    critic.weight.data = torch.tensor([[0.0, 3.0, 4.0]])
    penalty = gradient_penalty(critic, torch.rand(6, 3), torch.rand(6, 3))
    assert penalty.item() == pytest.approx(16)


def test_critics_rank_their_own_modality_higher():
    torch.manual_seed(0)
    method = fitted()
    places = 3 * torch.eye(6)[[0, 5]]
    f = [torch.nn.functional.normalize(torch.rand(60, 6) + p, dim=1) for p in places]
    critics = [p for n, p in method.network_.named_parameters() if "critic" in n]
    optimiser = torch.optim.Adam(critics, lr=0.01)
    first = method.criticism(f).item()
    for _ in range(60):
        optimiser.zero_grad()
        method.criticism(f).backward()
        optimiser.step()
    assert method.criticism(f).item() < first - 0.5
    for name, own, rest in (("image_critic", *f), ("other_critic", *f[::-1])):
        critic = method.network_.get_submodule(name)
        assert critic(own).mean() > critic(rest).mean() + 0.3
