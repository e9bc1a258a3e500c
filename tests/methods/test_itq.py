"""ITQ: rotations, the falling loss, and the Procrustes step against a search over angles."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.methods.shallow.itq import quantization, rotate


def naive_loss(V, R):
    total = 0.0
    for row in V:
        z = [sum(row[i] * R[i, k] for i in range(len(row))) for k in range(R.shape[1])]
        total += sum(((1.0 if v >= 0 else -1.0) - v) ** 2 for v in z)
    return total / len(V)


def test_loss_is_the_squared_distance_to_the_own_corner():
    rng = np.random.default_rng(0)
    V, R = rng.standard_normal((9, 4)), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert quantization(V, R) == pytest.approx(naive_loss(V, R), rel=1e-12)


def test_rotation_step_is_the_best_rotation_of_the_plane_for_fixed_codes():
    V = np.random.default_rng(1).standard_normal((50, 2)) * [2.0, 0.7]
    start = np.eye(2)
    B = np.where(V @ start >= 0, 1.0, -1.0)

    def loss(R):
        return ((B - V @ R) ** 2).sum()

    found = loss(rotate(V, start))
    for angle in np.linspace(0, 2 * np.pi, 721):
        c, s = np.cos(angle), np.sin(angle)
        assert found <= loss(np.array([[c, -s], [s, c]])) + 1e-9
        assert found <= loss(np.array([[c, s], [s, -c]])) + 1e-9


def test_loss_never_rises_and_falls_clearly(lab):
    history = [h["quantization"] for h in lab.smoke_fit("itq").method.history_]
    assert len(history) == 51
    assert (np.diff(history) <= 1e-9).all()
    assert history[-1] < 0.98 * history[0]


def test_projection_keeps_distances_between_principal_components(lab, digits):
    method, plain = (lab.smoke_fit(n).method for n in ("itq", "pca_sign"))
    a, b = method.embed(digits.query.pooled), plain.embed(digits.query.pooled)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1), rtol=1e-4)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-3)


def test_it_ranks_better_than_pca_signs_and_random_projections(lab):
    itq, pca = (
        lab.mean_ap(lab.distances(lab.smoke_fit(n).method), lab.relevance())
        for n in ("itq", "pca_sign")
    )
    assert itq > pca + 0.1
    assert itq > lab.lsh_map() + 0.05
