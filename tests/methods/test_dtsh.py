"""DTSH: triplet likelihood and quantization, against loops over explicit triplets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.dtsh import DTSH


class Given(torch.nn.Module):
    """A network that returns the outputs it was given."""

    def __init__(self, u):
        super().__init__()
        self.u = torch.nn.Parameter(torch.as_tensor(u, dtype=torch.float32))

    def forward(self, x):
        return self.u


def terms(u, labels, **params):
    method = DTSH(bits=u.shape[1], **params)
    method.network_ = Given(u)
    y = torch.as_tensor(labels, dtype=torch.float32)
    return method, method.loss(Batch(torch.zeros(len(u), 1), y, torch.arange(len(u))))


def triplets(labels):
    shares = [[bool(np.any(a & b)) for b in labels] for a in labels]
    n = len(labels)
    return [
        (q, p, k)
        for q in range(n) for p in range(n) for k in range(n)
        if p != q and shares[q][p] and not shares[q][k]
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [12, 32])
def test_terms_equal_loops_over_triplets(bits):
    rng = np.random.default_rng(bits)
    u = rng.standard_normal((9, bits)).astype(np.float32)
    labels = (rng.random((9, 4)) < 0.4).astype(np.uint8)
    found = triplets(labels)
    assert len(found) > 20

    likelihood = 0.0
    for q, p, k in found:
        qp = 0.5 * sum(float(a) * float(b) for a, b in zip(u[q], u[p], strict=True))
        qk = 0.5 * sum(float(a) * float(b) for a, b in zip(u[q], u[k], strict=True))
        order = qp - qk - bits / 2
        likelihood -= order - math.log1p(math.exp(order))
    pull = sum((abs(float(v)) - 1) ** 2 for v in u.ravel())

    _, got = terms(u, labels, lam=0.25)
    assert got["likelihood"].item() == pytest.approx(likelihood / len(found), rel=1e-5)
    assert got["quantization"].item() == pytest.approx(0.25 * pull / 9, rel=1e-5)


def test_a_code_pair_at_the_margin_costs_log_two():
    # q = p gives 1/2 q.p = bits / 2 = alpha; a negative at right angles leaves exactly the margin.
    u = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, -1, -1]], np.float32)
    _, got = terms(u, np.array([[1, 0], [1, 0], [0, 1]], np.uint8))
    assert got["likelihood"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert got["quantization"].item() == 0


def test_query_positive_and_negative_all_get_gradients():
    rng = np.random.default_rng(0)
    method, got = terms(rng.standard_normal((3, 8)), np.array([[1, 0], [1, 0], [0, 1]], np.uint8))
    got["likelihood"].backward()
    assert (method.network_.u.grad.abs().sum(1) > 0).all()


def test_a_batch_of_one_class_has_no_triplets_and_a_finite_loss():
    method, got = terms(np.ones((4, 8)) * 0.5, np.ones((4, 1), np.uint8))
    assert got["likelihood"].item() == 0
    sum(got.values()).backward()
    assert torch.isfinite(method.network_.u.grad).all()


def test_memory_of_the_largest_batch_stays_below_the_cube():
    """The triplet table of 128 rows in 10 classes has fewer than 128 x 128 x 128 / 8 floats."""
    y = np.eye(10, dtype=np.uint8)[np.arange(128) % 10]
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    with Watch():
        terms(np.ones((128, 16)), y)
    assert 128 * 128 < max(sizes) < 128**3 / 8


def test_training_orders_triplets_better_than_random_projections(lab):
    fit = lab.smoke_fit("dtsh")
    history = fit.method.history_
    assert history[-1]["likelihood"] < history[0]["likelihood"] / 2
    assert fit.without_gradient == []
    assert lab.mean_ap(lab.distances(fit.method), lab.relevance()) > lab.lsh_map()
