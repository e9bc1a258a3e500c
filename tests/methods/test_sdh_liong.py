"""SDH (Liong): scatters against explicit pairs, the gradient, and what labels do to codes."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.methods.shallow.sdh_liong import SDH, Pairs

from .test_dh_liong import WEIGHTS, check_gradient

RANDOM = np.random.default_rng(1)
H = RANDOM.standard_normal((7, 3))
ONE = np.eye(3, dtype=np.uint8)[[0, 1, 0, 2, 1, 0, 2]]
MANY = RANDOM.integers(0, 2, (7, 3)).astype(np.uint8)
MANY[2] = 0

every_labelling = pytest.mark.parametrize("y", [ONE, MANY], ids=["one_label", "many_labels"])


def method_for(y):
    method = SDH(bits=3, alpha=0.6, **WEIGHTS)
    method._pairs = Pairs(y)
    return method


@every_labelling
def test_scatters_are_those_of_explicit_pairs(y):
    parts, _ = method_for(y).spread(H)
    within, between = [], []
    for i in range(7):
        for j in range(7):
            if i != j:
                distance = sum((a - b) ** 2 for a, b in zip(H[i], H[j], strict=True))
                (within if any(y[i] & y[j]) else between).append(distance)
    assert parts["within"] == pytest.approx(-0.6 / 2 * sum(within) / len(within))
    assert parts["between"] == pytest.approx(0.6 / 2 * sum(between) / len(between))
    centred = H - H.mean(0)
    assert parts["balance"] == pytest.approx(sum(v * v for row in centred for v in row) / 14)


@every_labelling
def test_the_gradient_is_that_of_the_objective(y):
    check_gradient(method_for(y))


def test_a_single_class_has_no_scatter_between_classes():
    parts, slope = method_for(np.ones((7, 1), np.uint8)).spread(H)
    assert parts["between"] == 0
    assert np.isfinite(slope).all()


def test_classes_gather_and_part_and_the_objective_never_rises(lab):
    method = lab.smoke_fit("sdh_liong").method
    values = [sum(terms.values()) for terms in method.history_]
    assert (np.diff(values) <= 1e-6 * np.abs(values[:-1])).all()
    first, last = method.history_[0], method.history_[-1]
    # Signs differ because both scatters are part of a reward.
    assert first["between"] / first["within"] > -2
    assert last["between"] / last["within"] < -3


def test_labels_help(lab):
    relevance = lab.relevance()
    with_labels, without = (
        lab.mean_ap(lab.distances(lab.smoke_fit(name).method), relevance)
        for name in ("sdh_liong", "dh_liong")
    )
    assert with_labels > without + 0.02
