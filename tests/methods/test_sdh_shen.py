"""SDH: every step against a search or a second formula, and an objective that never rises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create
from cbir_lite.methods.shallow.sdh_shen import b_step, w_step


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    B = np.where(rng.standard_normal((30, 5)) >= 0, 1.0, -1.0)
    Y = np.eye(3)[rng.integers(3, size=30)]
    return B, Y, rng.standard_normal((5, 3)), rng.standard_normal((30, 5))


def row_loss(b, y, W, f, nu):
    """|y - W^T b|^2 + nu |b - f|^2, written out."""
    total = 0.0
    for c in range(len(y)):
        total += (y[c] - sum(W[k, c] * b[k] for k in range(len(b)))) ** 2
    return total + nu * sum((b[k] - f[k]) ** 2 for k in range(len(b)))


def test_classifier_step_is_ridge_regression(small):
    B, Y, _, _ = small
    # Ridge as plain least squares: one more row sqrt(lambda) e_k for each weight.
    stacked = np.vstack([B, np.sqrt(0.7) * np.eye(5)])
    expected = np.linalg.lstsq(stacked, np.vstack([Y, np.zeros((5, 3))]), rcond=None)[0]
    np.testing.assert_allclose(w_step(B, Y, 0.7), expected, atol=1e-10)


def test_no_single_bit_of_the_discrete_step_can_be_improved(small):
    B, Y, W, F = small
    found = b_step(B, Y, W, F, nu=0.3, sweeps=100)
    assert set(np.unique(found)) == {-1, 1}
    for i, k in itertools.product(range(30), range(5)):
        flipped = found[i].copy()
        flipped[k] *= -1
        own = row_loss(found[i], Y[i], W, F[i], 0.3)
        assert own <= row_loss(flipped, Y[i], W, F[i], 0.3) + 1e-9
        assert own <= row_loss(B[i], Y[i], W, F[i], 0.3) + 1e-9


def test_discrete_step_is_near_the_best_of_all_codes(small):
    B, Y, W, F = small
    found = b_step(B, Y, W, F, nu=0.3, sweeps=100)
    every = [np.array(c, float) for c in itertools.product([-1, 1], repeat=5)]
    best = [min(row_loss(c, Y[i], W, F[i], 0.3) for c in every) for i in range(30)]
    own = [row_loss(found[i], Y[i], W, F[i], 0.3) for i in range(30)]
    start = [row_loss(B[i], Y[i], W, F[i], 0.3) for i in range(30)]
    assert (np.array(best) <= np.array(own) + 1e-9).all()
    assert sum(own) - sum(best) < 0.2 * (sum(start) - sum(best))


def test_objective_never_rises_in_any_step(digits):
    x, Y = digits.train.pooled[:200], digits.train.y[:200].astype(float)
    method = create("sdh_shen", bits=16, anchors=60)
    method.fit(Split(x, digits.train.y[:200]))
    phi = method._kernel(x).astype(float)
    lam, nu, ridge = method.lam, 0.05, method.ridge
    rng = np.random.default_rng(1)
    B = np.where(rng.standard_normal((200, 16)) >= 0, 1.0, -1.0)
    W, P = rng.standard_normal((16, 10)), rng.standard_normal((61, 16))

    def objective(B, W, P):
        return (
            ((Y - B @ W) ** 2).sum()
            + lam * (W**2).sum()
            + nu * (((B - phi @ P) ** 2).sum() + ridge * (P**2).sum())
        )

    last = objective(B, W, P)
    for _ in range(4):
        B = b_step(B, Y, W, phi @ P, nu, sweeps=10)
        after_b = objective(B, W, P)
        W = w_step(B, Y, lam)
        after_w = objective(B, W, P)
        P = np.linalg.solve(phi.T @ phi + ridge * np.eye(61), phi.T @ B)
        after_p = objective(B, W, P)
        assert last >= after_b - 1e-9 >= after_w - 2e-9 >= after_p - 3e-9
        last = after_p


def test_history_falls_from_round_to_round(lab):
    history = [sum(h.values()) for h in lab.smoke_fit("sdh_shen").method.history_]
    assert len(history) == 6
    assert (np.diff(history) <= 1e-12).all()
    assert history[-1] < 0.2 * history[0]


def test_kernel_is_gaussian_around_training_rows_with_a_width_from_the_data(digits):
    x = digits.train.pooled[:40]
    method = create("sdh_shen", bits=8, anchors=7).fit(Split(x, digits.train.y[:40]))
    anchors = method.anchors_
    assert all((x == a).all(1).any() for a in anchors)
    squared = np.array([[((r - a) ** 2).sum() for a in anchors] for r in x.astype(float)])
    assert method.sigma_**2 == pytest.approx(squared.mean(), rel=1e-5)
    phi = method._kernel(x)
    np.testing.assert_allclose(phi[:, :-1], np.exp(-squared / (2 * squared.mean())), rtol=1e-4)
    assert (phi[:, -1] == 1).all()


def test_small_training_sets_use_all_rows_as_anchors_and_equal_rows_are_refused(digits):
    x, y = digits.train.pooled[:30], digits.train.y[:30]
    assert len(create("sdh_shen", bits=8).fit(Split(x, y)).anchors_) == 30
    with pytest.raises(ValueError, match="all training rows are equal"):
        create("sdh_shen", bits=8).fit(Split(np.ones_like(x), y))


def test_labels_make_it_rank_far_better_than_itq(lab):
    sdh, itq = (
        lab.mean_ap(lab.distances(lab.smoke_fit(n).method), lab.relevance())
        for n in ("sdh_shen", "itq")
    )
    assert sdh > itq + 0.15
