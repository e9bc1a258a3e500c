"""Siamese binary codes: pairs and every term against explicit loops; the margin and the corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create
from cbir_lite.methods.siamese.siamese_binary_144 import balanced_pairs


def test_each_row_meets_one_partner_of_either_kind():
    labels = torch.eye(3)[[0, 0, 1, 1, 1, 2]]
    labels[1, 1] = 1
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        i, j = balanced_pairs(labels)
        same = [bool((labels[a] * labels[b]).sum()) for a, b in zip(i, j, strict=True)]
        # Row 5 is alone in its class.
        assert [a for a, s in zip(i.tolist(), same, strict=True) if s] == [0, 1, 2, 3, 4]
        assert [a for a, s in zip(i.tolist(), same, strict=True) if not s] == [0, 1, 2, 3, 4, 5]
        assert (i != j).all()
        seen |= set(zip(i.tolist(), j.tolist(), strict=True))
    assert {(2, 1), (2, 3), (2, 4), (5, 0), (5, 4)} <= seen
    i, j = balanced_pairs(torch.ones(3, 1))
    assert len(i) == len(j) == 3


def test_every_term_is_that_of_explicit_pairs():
    method = create("siamese_binary_144", bits=5, alpha=0.3)
    rng = np.random.default_rng(0)
    u, y = rng.standard_normal((8, 5)), np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]
    u[:3] *= 3
    method.network_ = torch.nn.Identity()
    batch = Batch(torch.from_numpy(u), torch.from_numpy(y).float(), torch.arange(8))
    torch.manual_seed(3)
    terms = {k: float(v) for k, v in method.loss(batch).items()}
    torch.manual_seed(3)
    i, j = (v.tolist() for v in balanced_pairs(batch.labels))
    similar, dissimilar = [], []
    for a, b in zip(i, j, strict=True):
        distance = math.sqrt(sum((u[a, k] - u[b, k]) ** 2 for k in range(5)))
        if (y[a] * y[b]).sum():
            similar.append(0.5 * distance**2)
        else:
            dissimilar.append(0.5 * max(0.0, math.sqrt(10) - distance) ** 2)
    assert 0.0 in dissimilar
    assert max(dissimilar) > 0
    expected = {
        "similar": np.mean(similar),
        "dissimilar": np.mean(dissimilar),
        "quantization": 0.3 * ((np.abs(u) - 1) ** 2).sum() / 8,
    }
    assert terms == pytest.approx(expected, rel=1e-5)


def test_equal_outputs_of_a_dissimilar_pair_still_have_a_finite_gradient():
    method = create("siamese_binary_144", bits=4)
    method.network_ = torch.nn.Identity()
    u = torch.zeros(4, 4, requires_grad=True)
    terms = method.loss(Batch(u, torch.eye(2)[[0, 0, 1, 1]], torch.arange(4)))
    sum(terms.values()).backward()
    assert torch.isfinite(u.grad).all()


def test_the_margin_is_the_distance_of_codes_that_differ_in_half_their_bits():
    for bits in (12, 64):
        a, b = np.ones(bits), np.ones(bits)
        b[: bits // 2] = -1
        assert create("siamese_binary_144", bits=bits).m == pytest.approx(np.linalg.norm(a - b))


def test_outputs_are_drawn_to_the_corners_and_classes_apart(lab, digits):
    method = lab.smoke_fit("siamese_binary_144").method
    u = method.embed(digits.train.pooled)
    free = lab.create("siamese_binary_144", lab.SMOKE, bits=32, alpha=0.0)
    v = free.fit(lab.make_split(free)).embed(digits.train.pooled)
    assert np.square(np.abs(u) - 1).mean() < 0.8 * np.square(np.abs(v) - 1).mean()
    same = digits.train.y @ digits.train.y.T > 0
    distance = np.linalg.norm(u[:, None] - u, axis=2)
    assert distance[same].mean() < 0.4 * distance[~same].mean()
    assert distance[~same].mean() > 0.6 * method.m
