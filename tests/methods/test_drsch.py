"""DRSCH: hinge and Laplacian against loops and matrices, slope, significance of bits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create


class Outputs(SimpleNamespace):
    """A network with bit weights w that returns the outputs z it was given."""

    def __call__(self, x):
        return self.z

    def get_parameter(self, name):
        return getattr(self, name)


def terms(z, labels, w=None, beta=1.0, name="drsch", **params):
    method = create(name, bits=z.shape[1], **params)
    w = torch.ones(z.shape[1]) if w is None else w
    method.network_ = Outputs(z=z, w=w)
    method.memory_ = {"beta": torch.tensor(beta)}
    y = torch.as_tensor(labels, dtype=torch.float32)
    return method.loss(Batch(torch.zeros(len(z), 1), y, torch.arange(len(z))))


@pytest.mark.parametrize(("bits", "beta"), [(12, 1.0), (24, 1.7)])
def test_terms_equal_loops_over_triplets_and_the_trace(bits, beta):
    rng = np.random.default_rng(bits)
    z = rng.standard_normal((8, bits)).astype(np.float32)
    w = rng.uniform(0.5, 1.5, bits).astype(np.float32)
    labels = (rng.random((8, 4)) < 0.4).astype(np.uint8)
    alike = [[bool((a & b).any()) for b in labels] for a in labels]

    r = np.array([[float(v) * math.tanh(beta * u) for u, v in zip(row, w, strict=True)]
                  for row in z.astype(float)])  # fmt: skip
    hinges = [
        max(0.0, bits / 2 + sum((r[q] - r[p]) ** 2) - sum((r[q] - r[k]) ** 2))
        for q in range(8) for p in range(8) for k in range(8)
        if p != q and alike[q][p] and not alike[q][k]
    ]  # fmt: skip
    A = np.where(alike, 1.0, 0.001)
    trace = np.trace(r.T @ (np.diag(A.sum(1)) - A) @ r)
    assert len(hinges) > 20

    got = terms(torch.from_numpy(z), labels, torch.from_numpy(w), beta, lam=0.3)
    assert got["ranking"].item() == pytest.approx(np.mean(hinges), rel=1e-5)
    assert got["laplacian"].item() == pytest.approx(0.3 * trace / 64, rel=1e-5)


def test_laplacian_still_pulls_when_all_triplets_are_in_order():
    # Two classes at opposite corners, 1.9 and 2 from the origin along every bit.
    z = torch.tensor([[1.9] * 12, [2.0] * 12, [-2.0] * 12]).requires_grad_()
    got = terms(z, [[1, 0], [1, 0], [0, 1]])
    assert got["ranking"].item() == 0
    sum(got.values()).backward()
    assert (z.grad[0] < 0).all()
    assert (z.grad[1] > 0).all()


def test_slope_grows_by_equal_factors():
    method = create("drsch", epochs=5, last_slope=16.0)
    method.memory_ = {}
    slopes = []
    for epoch in range(5):
        method.start_epoch(epoch, None)
        slopes.append(method.memory_["beta"].item())
    assert slopes == pytest.approx([1, 2, 4, 8, 16])


def test_a_scalable_code_keeps_the_bits_of_the_largest_weights(lab, digits):
    method = lab.smoke_fit("drsch/bit_scalable").method
    x = digits.query.pooled
    with torch.no_grad():
        z = method.network_(torch.from_numpy(x))
    w = method.network_.w.detach().abs()
    assert z.shape == (150, 64)
    assert w.std() > 0.01
    order = sorted(range(64), key=lambda k: -w[k].item())
    np.testing.assert_array_equal(method.encode(x), sign(z[:, order[:32]]).numpy())

    def mean_ap(bits):
        q, b = (
            sign(method.network_(torch.from_numpy(p.pooled)))[:, bits].numpy().astype(int)
            for p in (digits.query, digits.database)
        )
        return lab.mean_ap(-(q @ b.T), lab.relevance())

    assert mean_ap(order[:8]) > mean_ap(order[-8:])


def test_training_orders_most_triplets(lab):
    history = lab.smoke_fit("drsch").method.history_
    assert history[-1]["ranking"] < history[0]["ranking"] / 4
