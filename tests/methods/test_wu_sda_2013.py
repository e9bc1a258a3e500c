"""Online multimodal similarity: triplets, hinge, passive-aggressive steps and weights by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.autoencoder.wu_sda_2013 import passive_aggressive, triplets
from cbir_lite.methods.deep import Batch


def test_triplets_have_a_positive_and_a_negative():
    labels = torch.eye(4)[[0, 0, 1, 1, 1, 2]]
    labels[1, 3] = 1
    torch.manual_seed(0)
    a, p, n = triplets(labels, 7)
    # Row 5 is alone in its class.
    assert sorted(set(a.tolist())) == [0, 1, 2, 3, 4]
    assert len(a) == 5 * 7
    for i, j, k in zip(a.tolist(), p.tolist(), n.tolist(), strict=True):
        assert i != j
        assert (labels[i] * labels[j]).sum() > 0
        assert (labels[i] * labels[k]).sum() == 0
    assert len(triplets(torch.ones(5, 1), 3)[0]) == 0


def naive_step(W, h, a, p, n, C):
    """Mean over the losing triplets of the smallest change of W that ends their loss."""
    total, losses = np.zeros_like(W), []
    for i, j, k in zip(a, p, n, strict=True):
        loss = max(0.0, 1 - h[i] @ W @ h[j] + h[i] @ W @ h[k])
        V = np.outer(h[i], h[j] - h[k])
        losses.append(loss)
        total += min(C, loss / (V**2).sum()) * V
    return total / max(1, sum(v > 0 for v in losses)), losses


@pytest.mark.parametrize("C", [0.05, 100.0])
def test_passive_aggressive_step_is_that_of_explicit_triplets(C):
    rng = np.random.default_rng(0)
    W, h = rng.standard_normal((4, 4)), rng.standard_normal((9, 4))
    a, p, n = rng.integers(9, size=(3, 20))
    n = np.where(n == p, (n + 1) % 9, n)
    expected, losses = naive_step(W, h, a, p, n, C)
    indices = [torch.from_numpy(v) for v in (a, p, n)]
    step, loss = passive_aggressive(torch.from_numpy(W), torch.from_numpy(h), *indices, C)
    np.testing.assert_allclose(step, expected, atol=1e-12)
    np.testing.assert_allclose(loss, losses, atol=1e-12)


def test_one_triplet_is_right_after_its_step_and_a_right_one_changes_nothing():
    rng = np.random.default_rng(1)
    W, h = torch.eye(3, dtype=torch.float64), torch.from_numpy(rng.standard_normal((3, 3)))
    one = [torch.tensor([i]) for i in range(3)]
    step, before = passive_aggressive(W, h, *one, 1e9)
    assert before.item() > 0
    again, after = passive_aggressive(W + step, h, *one, 1e9)
    assert after.item() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(again, 0, atol=1e-12)


@pytest.fixture
def short(lab):
    method = lab.create("wu_sda_2013", lab.SHORT, bits=16)
    return method.fit(lab.make_split(method, 128))


def test_hinge_of_each_modality_is_that_of_explicit_triplets(short, digits):
    index = torch.arange(9)
    x, y = (torch.from_numpy(v[:9].copy()) for v in (digits.train.pooled, digits.train.y))
    y = torch.eye(3)[index % 3]
    with torch.no_grad():
        terms = short.loss(Batch(x, y, index))
        h = short.network_(x).double().numpy()
    W = short.network_.similarity.double().numpy()
    rows = [t.tolist() for t in short._triplets]
    ends = [0, 6, 11, 16]
    assert short.network_.sizes == [6, 5, 5]
    for m in range(3):
        part = slice(ends[m], ends[m + 1])
        total = sum(
            max(0.0, 1 - h[i, part] @ W[part, part] @ (h[j, part] - h[k, part]))
            for i, j, k in zip(*rows, strict=True)
        )
        assert float(terms[f"hinge {m + 1}"]) == pytest.approx(total / len(rows[0]), rel=1e-4)


def test_ranking_is_by_the_weighted_sum_of_bilinear_similarities(short, digits):
    net = short.network_
    q, b = short.embed(digits.query.pooled[:5]), short.embed(digits.database.pooled[:7])
    theta, W = net.theta.numpy(), net.similarity.numpy()
    found = short.distance(q, b)
    for i in range(5):
        for j in range(7):
            S, start = 0.0, 0
            for m, k in enumerate(net.sizes):
                end = start + k
                S += theta[m] * q[i, start:end] @ W[start:end, start:end] @ b[j, start:end]
                start = end
            assert found[i, j] == pytest.approx(-S, abs=1e-4)


def test_a_modality_of_noise_loses_its_weight(lab):
    method = lab.create("wu_sda_2013", lab.SMOKE, bits=24, pretraining=2)
    split = lab.make_split(method)
    # Three thirds of the picture; the middle one is replaced.
    noise = np.random.default_rng(0).random((len(split.x), 21))
    split.x[:, 22:43] = noise
    theta = method.fit(split).network_.theta
    assert theta.sum().item() == pytest.approx(1, abs=1e-4)
    assert theta.argmin() == 1
    assert theta[1] < 0.9 * min(theta[0], theta[2])


def test_pretraining_rebuilds_better_and_similarities_move_from_the_identity(lab):
    method = lab.smoke_fit("wu_sda_2013").method
    first, last = method.memory_["pretraining"].unbind(-1)
    assert first.shape == (3, 2)
    assert (last < first).all()
    W = method.network_.similarity
    assert (W - torch.eye(32)).abs().max() > 0.05
    # Nothing links different modalities.
    assert (W[:11, 11:] == 0).all()
    hinge = [sum(h.values()) for h in method.history_]
    assert hinge[-1] < 0.7 * hinge[0]
