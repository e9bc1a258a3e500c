"""DSRH: affinity and both losses against explicit pairs; classes become unrelated, not opposite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create
from cbir_lite.methods.siamese.dsrh_reconstruction import affinity


def test_affinity_has_degrees_where_images_carry_several_labels():
    y = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]])
    found = affinity(y)
    for i in range(4):
        for j in range(4):
            common = sum(y[i, c] * y[j, c] for c in range(3))
            expected = common / (y[i].sum() * y[j].sum()) ** 0.5
            assert found[i, j] == pytest.approx(expected.item(), abs=1e-6)
    assert 0 < found[0, 1] < 1
    assert found[0, 2] == 0


def test_every_term_is_that_of_explicit_pairs():
    method = create("dsrh_reconstruction", bits=5, lam=0.3)
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((7, 5)), rng.integers(2, size=(7, 3))
    y[:, 0] |= y.sum(1) == 0
    method.network_ = torch.nn.Identity()
    x, labels = torch.from_numpy(z), torch.from_numpy(y).double()
    found = method.loss(Batch(x, labels, torch.arange(7)))
    reconstruction = quantization = 0.0
    for i in range(7):
        for j in range(i + 1, 7):
            u, v = np.tanh(z[i]), np.tanh(z[j])
            s = (y[i] * y[j]).sum() / np.sqrt(y[i].sum() * y[j].sum())
            soft, hard = (u * v).sum() / 5, (np.sign(u) * np.sign(v)).sum() / 5
            reconstruction += (soft - s) ** 2 / 21
            quantization += 0.3 * (soft - hard) ** 2 / 21
    assert float(found["reconstruction"]) == pytest.approx(reconstruction)
    assert float(found["quantization"]) == pytest.approx(quantization)


def test_quantization_is_about_pairs_not_about_points():
    method = create("dsrh_reconstruction", bits=4)
    method.network_ = torch.nn.Identity()
    # Both outputs are far from their codes, their similarity is nearly that of the codes.
    z = torch.atanh(torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5]]))
    terms = method.loss(Batch(z, torch.eye(2), torch.arange(2)))
    assert terms["quantization"].item() == pytest.approx(0, abs=1e-12)


def test_codes_of_different_classes_are_unrelated_and_those_of_one_agree(lab, digits):
    method = lab.smoke_fit("dsrh_reconstruction").method
    b = method.encode(digits.train.pooled).astype(float)
    same = digits.train.y @ digits.train.y.T > 0
    similarity = b @ b.T / method.bits
    assert similarity[same].mean() > 0.75
    assert np.abs(similarity[~same]).mean() < 0.3
    assert abs(similarity[~same].mean()) < 0.2
