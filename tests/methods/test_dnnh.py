"""DNNH: the ranking loss against loops over triplets, the threshold, one slice for each bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import DivideAndEncode
from cbir_lite.methods.triplet.dnnh import DNNH, piecewise_threshold


def ranking(z, labels, **params):
    method = DNNH(bits=z.shape[1], **params)
    method.network_ = lambda x: z
    y = torch.as_tensor(labels, dtype=torch.float32)
    (term,) = method.loss(Batch(torch.zeros(len(z), 1), y, torch.arange(len(z)))).values()
    return term


def naive(z, labels, margin, epsilon):
    h = [[1 / (1 + math.exp(-float(v))) for v in row] for row in z]
    g = [[v if abs(v - 0.5) <= epsilon else float(v > 0.5) for v in row] for row in h]
    n, losses = len(z), []
    for q in range(n):
        for p in range(n):
            for k in range(n):
                positive, negative = (labels[q] & labels[p]).any(), (labels[q] & labels[k]).any()
                if p != q and positive and not negative:
                    near = sum((a - b) ** 2 for a, b in zip(g[q], g[p], strict=True))
                    far = sum((a - b) ** 2 for a, b in zip(g[q], g[k], strict=True))
                    losses.append(max(0.0, margin + near - far))
    assert len(losses) > 20
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("bits", "epsilon"), [(12, 0.4), (24, 0.2), (24, 0.5)])
def test_ranking_equals_loops_over_triplets(bits, epsilon):
    rng = np.random.default_rng(bits)
    z = (2 * rng.standard_normal((8, bits))).astype(np.float32)
    labels = (rng.random((8, 4)) < 0.4).astype(np.uint8)
    expected = naive(z, labels, bits / 4, epsilon)
    got = ranking(torch.from_numpy(z), labels, epsilon=epsilon)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_threshold_decides_clear_outputs_and_passes_the_others():
    h = torch.tensor([0.0, 0.09, 0.11, 0.5, 0.89, 0.91, 1.0], requires_grad=True)
    g = piecewise_threshold(h, 0.4)
    np.testing.assert_allclose(g.detach(), [0, 0, 0.11, 0.5, 0.89, 1, 1], rtol=1e-6)
    g.sum().backward()
    np.testing.assert_array_equal(h.grad, [0, 0, 1, 1, 1, 0, 0])


def test_undecided_outputs_of_all_three_images_get_gradients():
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ranking(z, np.array([[1, 0], [1, 0], [0, 1]], np.uint8)).backward()
    assert (z.grad.abs().sum(1) > 0).all()


def test_each_bit_reads_its_own_slice_of_the_hidden_layer():
    x = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    network = DivideAndEncode(x, width=50, bits=12)
    hidden = torch.randn(4, 12 * 5, requires_grad=True)  # 50 / 12 rounded up
    z = network.encode(hidden)
    for bit in range(12):
        (gradient,) = torch.autograd.grad(z[:, bit].sum(), hidden, retain_graph=True)
        read = gradient.abs().sum(0).reshape(12, 5) > 0
        assert read[bit].all()
        assert not read[torch.arange(12) != bit].any()
    np.testing.assert_allclose(
        z[1, 3].item(),
        (hidden[1, 15:20] @ network.weight[3] + network.bias[3]).item(),
        rtol=1e-4,
    )


def test_training_orders_most_triplets_by_the_margin(lab):
    history = lab.smoke_fit("dnnh").method.history_
    assert history[-1]["ranking"] < 0.7 * history[0]["ranking"]
