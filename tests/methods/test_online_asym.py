"""Online asymmetric similarity: the passive-aggressive rule, the stream and what is kept of W."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cross_modal.online_asym import passive_aggressive

RANDOM = np.random.default_rng(6)
Y = np.eye(4, dtype=np.uint8)[np.arange(80) % 4]
X = (Y @ RANDOM.standard_normal((4, 12)) + 0.3 * RANDOM.standard_normal((80, 12))).astype("f4")
T = ((Y @ RANDOM.random((4, 9)) + 0.3 * RANDOM.random((80, 9))) > 0.7).astype("f4")


def test_the_rule_is_passive_or_makes_the_smallest_change_that_helps():
    W = RANDOM.standard_normal((3, 4))
    a, good, bad = RANDOM.standard_normal(3), RANDOM.standard_normal(4), RANDOM.standard_normal(4)
    gap = sum(a[i] * W[i, j] * (good[j] - bad[j]) for i in range(3) for j in range(4))
    before = W.copy()
    hinge = passive_aggressive(W, a, good, bad, 1e9)
    assert hinge == pytest.approx(max(0, 1 - gap))
    # The constraint holds with equality now, and the change is along its gradient: the shortest.
    assert a @ W @ (good - bad) == pytest.approx(max(1, gap))
    change, gradient = W - before, np.outer(a, good - bad)
    expected = gradient * hinge / (gradient**2).sum()
    np.testing.assert_allclose(change, expected, atol=1e-12)
    again = W.copy()
    assert passive_aggressive(W, a, good, bad, 1e9) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(W, again, atol=1e-9)


def test_a_step_is_cut_and_works_on_the_transposed_matrix():
    W = np.zeros((2, 3))
    passive_aggressive(W.T, np.array([1.0, 0, 0]), np.array([1.0, 0]), np.array([0, 1.0]), 0.1)
    np.testing.assert_allclose(W, [[0.1, 0, 0], [-0.1, 0, 0]])


def test_fewer_constraints_are_violated_as_the_stream_goes_on():
    method = registry.create("online_asym", bits=4, epochs=40).fit(Split(X, Y, other=T))
    assert method.hinges_[-1] < 0.5 * method.hinges_[0]


def test_with_enough_dimensions_descriptors_reproduce_the_similarity():
    method = registry.create("online_asym", bits=9, epochs=6)
    method.fit(Split(X, Y, other=T))
    x = (X - X.mean(0)) @ method.V_
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    t = T / np.maximum(np.linalg.norm(T, axis=1, keepdims=True), 1e-12)
    W, _ = method._stream(x.astype(float), t.astype(float), Y)
    found = method.distance(method.embed(X), method.encode_other(T))
    np.testing.assert_allclose(found, -(x @ W @ t.T), atol=1e-3)


def test_few_dimensions_keep_the_largest_part_and_texts_find_their_pictures():
    method = registry.create("online_asym", bits=3, epochs=40).fit(Split(X, Y, other=T))
    assert method.embed(X).shape == (80, 3)
    nearest = method.distance(method.encode_other(T), method.embed(X)).argmin(1)
    assert np.mean([Y[i] @ Y[j] for i, j in enumerate(nearest)]) > 0.6
