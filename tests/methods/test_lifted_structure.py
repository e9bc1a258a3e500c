"""Lifted structure loss: against loops over pairs, its margin and its nearest negatives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.lifted_structure import LiftedStructure
from cbir_lite.methods.deep import Batch


def lifted(f, labels, **params):
    method = LiftedStructure(bits=f.shape[1], **params)
    method.network_ = lambda x: f
    y = torch.as_tensor(labels, dtype=torch.float32)
    (term,) = method.loss(Batch(torch.zeros(len(f), 1), y, torch.arange(len(f)))).values()
    return term


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_it_equals_the_loop_over_matching_pairs(alpha):
    rng = np.random.default_rng(1)
    f = 0.7 * rng.standard_normal((9, 6))
    labels = (rng.random((9, 4)) < 0.35).astype(np.uint8)

    def D(a, b):
        return math.dist(f[a], f[b])

    def alike(a, b):
        return bool((labels[a] & labels[b]).any())

    P = [(i, j) for i, j in itertools.combinations(range(9), 2) if alike(i, j)]
    total = 0.0
    for i, j in P:
        negatives = sum(math.exp(alpha - D(a, k)) for a in (i, j) for k in range(9)
                        if not alike(a, k))  # fmt: skip
        total += max(0.0, math.log(negatives) + D(i, j)) ** 2
    # A row without labels is no member of a pair and everybody's negative, itself included.
    assert len(P) > 5
    got = lifted(torch.from_numpy(f).float(), labels, alpha=alpha)
    assert got.item() == pytest.approx(total / (2 * len(P)), rel=1e-5)


def test_the_pair_is_pulled_and_its_nearest_negative_pushed_most():
    f = torch.tensor([[0.0, 0], [1, 0], [0, 1], [0, 9]]).requires_grad_()
    lifted(f, np.eye(3, dtype=np.uint8)[[0, 0, 1, 2]]).backward()
    step = -f.grad
    assert step[0] @ torch.tensor([1.0, 0]) > 0
    assert step[1] @ torch.tensor([-1.0, 0]) > 0
    assert step[2, 1] > 0
    assert step[2].norm() > 100 * step[3].norm()


def test_pairs_nearer_than_all_negatives_by_the_margin_cost_nothing():
    near = torch.tensor([[0.0, 0], [0, 0], [20, 0], [20, 0]]).requires_grad_()
    got = lifted(near, np.eye(2, dtype=np.uint8)[[0, 0, 1, 1]])
    got.backward()
    assert got.item() == 0
    assert torch.isfinite(near.grad).all()


def test_a_batch_of_one_class_has_no_negatives_and_a_finite_loss():
    f = torch.randn(4, 3, requires_grad=True)
    got = lifted(f, np.ones((4, 1), np.uint8))
    got.backward()
    assert got.item() == 0
    assert torch.isfinite(f.grad).all()


def test_classes_of_new_images_are_nearer_than_in_pixels(lab):
    fit = lab.smoke_fit("lifted_structure")
    assert fit.method.history_[-1]["lifted"] < fit.method.history_[0]["lifted"] / 2
    learned = lab.mean_ap(lab.distances(fit.method), lab.relevance())
    digits = lab.load()
    x, b = digits.query.pooled, digits.database.pooled
    raw = (x**2).sum(1)[:, None] + (b**2).sum(1) - 2 * x @ b.T
    assert learned > lab.mean_ap(raw, lab.relevance()) + 0.1
