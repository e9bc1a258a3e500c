"""Aggregation against slow loops over images, places and words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.features import aggregation as A

RANDOM = np.random.default_rng(0)
MAPS = np.maximum(RANDOM.standard_normal((4, 5, 5, 6)), 0).astype(np.float32)


def test_means_maxima_and_sums():
    for i, m in enumerate(MAPS):
        places = m.reshape(-1, 6)
        np.testing.assert_allclose(A.mac(MAPS)[i], places.max(0))
        np.testing.assert_allclose(A.spoc(MAPS)[i], places.sum(0), rtol=1e-5)
        powers = [np.mean([max(v, 1e-6) ** 3 for v in c]) ** (1 / 3) for c in places.T]
        np.testing.assert_allclose(A.gem(MAPS)[i], powers, rtol=1e-4)
    np.testing.assert_allclose(A.gem(MAPS, 1.0), A.spoc(MAPS) / 25, atol=2e-6)
    np.testing.assert_allclose(A.gem(MAPS, 60.0), A.mac(MAPS), rtol=0.06)


def test_the_centre_prior_falls_off_from_the_middle():
    one = np.zeros((3, 5, 5, 1), np.float32)
    one[0, 2, 2] = one[1, 2, 3] = one[2, 0, 0] = 1
    weights = A.spoc(one, centred=True)[:, 0].tolist()
    sigma = 5 / 3
    expected = [1, math.exp(-1 / (2 * sigma**2)), math.exp(-8 / (2 * sigma**2))]
    assert weights == pytest.approx(expected)


def test_crow_weighs_places_and_channels():
    for i, m in enumerate(MAPS):
        total = m.sum(2)
        place = np.sqrt(total / np.sqrt((total**2).sum()))
        pooled = np.zeros(6)
        for r in range(5):
            for c in range(5):
                pooled += place[r, c] * m[r, c]
        share = (m > 0).mean((0, 1))
        np.testing.assert_allclose(A.crow(MAPS)[i], pooled * np.log(share.sum() / share), rtol=1e-4)
    silent = MAPS.copy()
    silent[..., 2] = 0
    assert (A.crow(silent)[:, 2] == 0).all()


def test_regions_lie_inside_and_cover_the_picture():
    for h, w in ((7, 7), (4, 9), (9, 4), (3, 3)):
        covered = np.zeros((h, w), bool)
        found = A.regions(h, w)
        for top, left, side in found:
            assert 0 <= top <= h - side
            assert 0 <= left <= w - side
            covered[top : top + side, left : left + side] = True
        assert covered.all()
    assert len(set(A.regions(7, 7))) == len(A.regions(7, 7)) == 1 + 4 + 9


def test_rmac_is_the_sum_of_unit_maxima_of_regions():
    expected = np.zeros((4, 6))
    for top, left, side in A.regions(5, 5):
        for i, m in enumerate(MAPS):
            v = m[top : top + side, left : left + side].reshape(-1, 6).max(0)
            expected[i] += v / np.linalg.norm(v)
    np.testing.assert_allclose(A.rmac(MAPS), expected, rtol=1e-5)


def test_scda_keeps_the_largest_bright_part():
    one = np.full((1, 6, 6, 2), 0.1, np.float32)
    one[0, 0:3, 0:3, 0] = 5
    one[0, 5, 5, 1] = 9  # bright and small: another object
    found = A.scda(one)[0].numpy()
    mean = np.array([5, 0.1]) / np.linalg.norm([5, 0.1])
    np.testing.assert_allclose(found, np.concatenate([mean, mean]), rtol=1e-5)


def test_part_weights_follow_their_channels():
    channels = A.varied_channels(MAPS, 2)
    variance = MAPS.mean((1, 2)).var(0)
    assert set(channels) == set(np.argsort(variance)[-2:])
    found = A.part_weighted(MAPS, channels).numpy().reshape(4, 2, 6)
    for i, m in enumerate(MAPS):
        for j, c in enumerate(channels):
            w = np.sqrt(m[..., c] / np.sqrt((m[..., c] ** 2).sum()))
            np.testing.assert_allclose(found[i, j], (m * w[..., None]).sum((0, 1)), rtol=1e-4)


def test_bilinear_counts_what_occurs_together():
    project = torch.from_numpy(RANDOM.standard_normal((6, 3)).astype(np.float32))
    found = A.bilinear(MAPS, project).numpy().reshape(4, 3, 3)
    for i, m in enumerate(MAPS):
        z = m.reshape(-1, 6) @ project.numpy()
        gram = sum(np.outer(v, v) for v in z) / 25
        np.testing.assert_allclose(found[i], np.sign(gram) * np.sqrt(np.abs(gram)), atol=1e-4)


@pytest.fixture(scope="module")
def book() -> A.Codebook:
    return A.learn_codebook(MAPS, 3)


def test_words_have_shares_and_spreads(book):
    assert book.words.shape == (3, 6)
    assert book.weights.sum().item() == pytest.approx(1)
    assert (book.variances > 0).all()
    with pytest.raises(ValueError, match="too few for 200 words"):
        A.learn_codebook(MAPS, 200)


def test_bags_and_residuals(book):
    words = book.words.numpy()
    bags, residuals = A.bag_of_words(MAPS, book), A.vlad(MAPS, book).numpy().reshape(4, 3, 6)
    for i, m in enumerate(MAPS):
        count, sums = np.zeros(3), np.zeros((3, 6))
        for v in m.reshape(-1, 6):
            k = np.argmin(((words - v) ** 2).sum(1))
            count[k] += 1
            sums[k] += v - words[k]
        sums = np.sign(sums) * np.sqrt(np.abs(sums))
        norm = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        np.testing.assert_allclose(bags[i], count)
        np.testing.assert_allclose(residuals[i], sums / norm, atol=2e-3)
    soft = A.vlad(MAPS, book, sharpness=1e7).numpy().reshape(4, 3, 6)
    np.testing.assert_allclose(soft, residuals, atol=2e-2)


def test_fisher_vectors_are_gradients_of_the_mixture(book):
    words, weights, variances = (v.numpy().astype(float) for v in book)
    found = A.fisher_vector(MAPS, book).numpy()
    m = MAPS[1].reshape(-1, 6).astype(float)
    mean, spread = np.zeros((3, 6)), np.zeros((3, 6))
    for v in m:
        density = np.array(
            [
                weights[k]
                * math.prod(
                    math.exp(-((v[j] - words[k, j]) ** 2) / (2 * variances[k, j]))
                    / math.sqrt(2 * math.pi * variances[k, j])
                    for j in range(6)
                )
                for k in range(3)
            ]
        )
        q = density / density.sum()
        for k in range(3):
            z = (v - words[k]) / np.sqrt(variances[k])
            mean[k] += q[k] * z / (25 * math.sqrt(weights[k]))
            spread[k] += q[k] * (z**2 - 1) / (25 * math.sqrt(2 * weights[k]))
    vector = np.concatenate([mean.ravel(), spread.ravel()])
    np.testing.assert_allclose(
        found[1], np.sign(vector) * np.sqrt(np.abs(vector)), rtol=1e-3, atol=1e-4
    )


def test_whitened_rows_have_equal_variances():
    x = torch.from_numpy(RANDOM.standard_normal((200, 5)) @ RANDOM.standard_normal((5, 5)))
    whitening = A.learn_whitening(x, 4)
    raw = (x - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(np.cov(raw.numpy().T), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(whitening(x).norm(dim=1), 1)
    with pytest.raises(ValueError, match="exceeds the rank 5"):
        A.learn_whitening(x, 6)


def test_an_expanded_query_moves_to_its_neighbours():
    database = A.l2n(torch.tensor([[1.0, 0.2], [1.0, 0.3], [-1.0, 0.0]]))
    query = A.l2n(torch.tensor([[1.0, -0.3]]))
    cosine = (query @ database.T)[0]
    best = cosine.argsort(descending=True)[:2]
    naive = query[0] + sum(cosine[j] ** 2 * database[j] for j in best)
    found = A.expand_queries(query, database, k=2, alpha=2.0)[0]
    np.testing.assert_allclose(found, naive / naive.norm(), rtol=1e-6)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(n, h, w, d\), got \(4, 6\)"):
        A.mac(MAPS[:, 0, 0])


def test_principal_whitening_is_that_of_the_covariance():
    x = torch.from_numpy(RANDOM.standard_normal((60, 5)) @ RANDOM.standard_normal((5, 5)))
    naive = A.learn_whitening(x, 4)(x)
    # Wide rows go by the Gram matrix: empty columns change nothing.
    wide = torch.cat([x, torch.zeros(60, 100)], 1)
    for found in (A.principal_whitening(x, 4)(x), A.principal_whitening(wide, 4)(wide)):
        signs = (found * naive).sum(0).sign()
        np.testing.assert_allclose(found * signs, naive, atol=1e-6)
    plain = A.principal_whitening(x, 3, 0.0)
    np.testing.assert_allclose(plain.projection.T @ plain.projection, np.eye(3), atol=1e-9)
    half = A.principal_whitening(x, 3, 0.5)
    deviation = ((x - plain.mean) @ plain.projection).std(0)
    np.testing.assert_allclose(half.projection, plain.projection / deviation.sqrt(), atol=1e-9)


def test_directions_that_do_not_vary_give_zeros():
    x = torch.from_numpy(RANDOM.standard_normal((6, 9)).astype(np.float32))
    x[:, 4] = 3
    axes = A.principal_whitening(x, 9)
    assert axes.projection.shape == (9, 9)
    assert (axes.projection[:, 5:] == 0).all()
    assert torch.isfinite(axes.projection).all()
    with pytest.raises(ValueError, match="bits=10 exceeds the 9 dimensions"):
        A.principal_whitening(x, 10)


def test_masks_keep_loud_places_and_places_of_maxima():
    for i, m in enumerate(MAPS):
        total = m.sum(2)
        np.testing.assert_array_equal(A.sum_mask(MAPS)[i], total >= np.median(total))
        expected = np.zeros((5, 5), bool)
        for c in range(6):
            expected[np.unravel_index(m[..., c].argmax(), (5, 5))] = True
        np.testing.assert_array_equal(A.max_mask(MAPS)[i], expected)
    assert not A.max_mask(np.zeros_like(MAPS)).any()


def test_cooccurrence_sums_the_other_strong_channels_nearby():
    found = A.cooccurrence(MAPS).numpy()
    for i, m in enumerate(MAPS):
        strong = np.where(m > m.mean(), m, 0)
        for r in range(5):
            for c in range(5):
                near = strong[max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].sum((0, 1))
                for k in range(6):
                    expected = near.sum() - near[k] if strong[r, c, k] > 0 else 0
                    assert found[i, r, c, k] == pytest.approx(expected, abs=1e-4)


def test_the_gaussian_sits_on_the_object():
    one = np.zeros((1, 6, 9, 2), np.float32)
    one[0, 1:3, 5:8, 0] = 2
    mask = torch.from_numpy(one.sum(3) > 0)
    found = A.gaussian_around(one, mask)[0]
    for r in range(6):
        for c in range(9):
            expected = math.exp(-0.5 * (((r - 1.5) / 2) ** 2 + ((c - 6) / 3) ** 2))
            assert found[r, c].item() == pytest.approx(expected, rel=1e-5)


def test_triangulation_gives_unit_directions_to_all_words(book):
    words = book.words.numpy()
    found = A.triangulation(MAPS, book.words).numpy().reshape(4, 25, 3, 6)
    for p, v in enumerate(MAPS[2].reshape(-1, 6)):
        for k in range(3):
            d = (v - words[k]) / np.linalg.norm(v - words[k])
            np.testing.assert_allclose(found[2, p, k], d, atol=1e-5)


def test_democratic_weights_make_equal_parts():
    rows = A.l2n(torch.from_numpy(RANDOM.random((1, 5, 4)).astype(np.float32)))
    rows[0, 1] = rows[0, 0]
    mask = torch.tensor([[True, True, True, True, False]])
    weight = A.democratic(rows, mask, 40)[0]
    assert weight[4] == 0
    total = sum(weight[p] * rows[0, p] for p in range(4))
    parts = [float(weight[p] * rows[0, p] @ total) for p in range(4)]
    assert parts == pytest.approx([parts[0]] * 4, rel=1e-3)
    # What occurs twice weighs half as much each time as it would alone.
    assert weight[0] == pytest.approx(weight[1].item())


def test_robust_directions_count_by_rank(book):
    words = book.words.numpy()
    rotations = RANDOM.standard_normal((3, 6, 6)).astype(np.float32)
    found = A.robust_directions(MAPS, book.words, torch.from_numpy(rotations), (4.0, 1.0)).numpy()
    for i, m in enumerate(MAPS):
        expected = np.zeros((3, 6))
        for v in m.reshape(-1, 6):
            order = np.argsort(((words - v) ** 2).sum(1))
            for rank, weight in zip(order, (4, 1), strict=False):
                d = (v - words[rank]) @ rotations[rank]
                expected[rank] += weight * d / np.linalg.norm(d)
        np.testing.assert_allclose(found[i].reshape(3, 6), expected, atol=1e-3)


def test_the_replicator_raises_mean_fitness_on_the_simplex():
    a = RANDOM.random((2, 7, 7))
    affinity = torch.from_numpy(a + a.transpose(0, 2, 1))
    start = torch.from_numpy(RANDOM.random((2, 7)))
    last = -1.0
    for steps in range(8):
        w = A.replicate(affinity, start, steps)
        np.testing.assert_allclose(w.sum(1), 1)
        assert (w >= 0).all()
        fitness = float(torch.einsum("np,npq,nq->n", w, affinity, w)[1])
        assert fitness >= last
        last = fitness
    w = start[0].numpy() / start[0].numpy().sum()
    naive = np.array([w[i] * (affinity[0].numpy() @ w)[i] for i in range(7)])
    np.testing.assert_allclose(A.replicate(affinity, start, 1)[0], naive / naive.sum())
    still = A.replicate(torch.zeros(2, 7, 7, dtype=torch.float64), start)
    np.testing.assert_allclose(still, start / start.sum(1, keepdim=True))
