"""Aggregation systems without training: the chain of steps by hand, and what each is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn.co_weighting import element_value_weights
from cbir_lite.methods.cnn.spatial_channel_contrib import (
    channel_contribution,
    spatial_contribution,
)
from cbir_lite.methods.registry import create

POOLED = (
    "scda", "pwa_xu", "bow_local_conv", "vlad_cnn_ng", "cooccurrence_forcen",
    "bilinear_cnn_retrieval", "selective_masks_hoang", "rvd_aggregation",
    "spatial_channel_contrib", "replicator", "co_weighting",
)  # fmt: skip


def fit(name, digits, rows=200, **params):
    method = create(name, **{"bits": 8, **params})
    return method.fit(Split(digits.train.maps[:rows], supervision="unsupervised"))


def unit(rows):
    norms = np.sqrt((rows**2).sum(-1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1)


def axes(rows, k, power):
    """Principal components by the covariance, in double precision."""
    rows = np.asarray(rows, float)
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    return mean, vectors[:, ::-1][:, :k] / values[::-1][:k] ** (power / 2)


def same_up_to_signs(found, expected, atol=2e-3):
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=atol)


@pytest.mark.parametrize("name", POOLED)
def test_aggregate_unit_length_axes_unit_length(name, digits):
    method = fit(name, digits)
    x = digits.train.maps[:200]
    vectors = unit(method.aggregate(torch.from_numpy(x)).numpy().astype(float))
    mean, projection = axes(vectors, 8, method.whiten)
    q = unit(method.aggregate(torch.from_numpy(digits.query.maps[:9])).numpy().astype(float))
    same_up_to_signs(method.embed(digits.query.maps[:9]), unit((q - mean) @ projection))


def test_distance_is_one_minus_the_cosine(digits):
    method = fit("scda", digits)
    q, b = method.embed(digits.query.maps[:4]), method.embed(digits.database.maps[:5])
    for i in range(4):
        for j in range(5):
            cosine = q[i] @ b[j] / np.linalg.norm(q[i]) / np.linalg.norm(b[j])
            assert method.distance(q, b)[i, j] == pytest.approx(1 - cosine, abs=1e-5)


def test_rmac_whitens_regions_before_it_adds_them(digits):
    method = fit("rmac", digits)

    def parts(maps):
        found = [maps[t : t + s, a : a + s].max((0, 1)) for t, a, s in A.regions(4, 4)]
        return unit(np.array(found, float))

    mean, P = axes(np.concatenate([parts(m) for m in digits.train.maps[:200]]), 8, 1)
    whitened = np.array([unit((parts(m) - mean) @ P).sum(0) for m in digits.query.maps[:9]])
    same_up_to_signs(method.embed(digits.query.maps[:9]), unit(whitened))


def test_detectors_are_the_channels_that_vary_most(digits):
    method = fit("pwa_xu", digits, parts=5)
    variance = digits.train.maps[:200].sum((1, 2)).var(0)
    assert set(method.detectors_) == set(np.argsort(variance)[-5:])


def test_bags_are_counts_of_the_assignment_map(digits):
    method = fit("bow_local_conv", digits, words=20)
    words = method.assignment(digits.query.maps[:6])
    assert words.shape == (6, 4, 4)
    bags = method.aggregate(torch.from_numpy(digits.query.maps[:6])).numpy()
    for row, bag in zip(words, bags, strict=True):
        assert bag.tolist() == np.bincount(row.ravel(), minlength=20).tolist()


def test_patches_are_maxima_and_the_best_match_counts(digits):
    method = create("razavian_baseline", bits=8)
    method.fit(Split(digits.train.maps[:100], supervision="unsupervised"))
    x = digits.query.maps[:3]
    parts = method.parts(x)
    assert parts.shape == (3, 14, 64)
    np.testing.assert_array_equal(parts[:, 0], x.max((1, 2)))
    np.testing.assert_array_equal(parts[:, 1], x[:, :3, :3].max((1, 2)))
    f = method.embed(x)
    d = method.distance(f, f)
    a, b = f[0].reshape(14, 8).astype(float), f[1].reshape(14, 8).astype(float)
    nearest = [min(np.linalg.norm(p - r) for r in b) for p in a]
    assert d[0, 1] == pytest.approx(np.mean(nearest), abs=1e-3)


def test_masked_places_do_not_matter(digits):
    for mask, keep in (("max", A.max_mask), ("sum", A.sum_mask)):
        method = fit("selective_masks_hoang", digits, mask=mask, rows=100)
        maps = torch.from_numpy(digits.query.maps[:20])
        embedded, kept = method.embedded(maps)
        np.testing.assert_array_equal(kept, keep(maps).flatten(1))
        vectors = method.axes("embedding")(embedded)
        weight = A.democratic(vectors, kept)
        assert (weight[~kept] == 0).all()
        naive = np.zeros(vectors.shape[2])
        for p in range(16):
            naive += float(weight[3, p]) * vectors[3, p].numpy()
        found = method.aggregate(maps)[3].numpy()
        np.testing.assert_allclose(found, np.sign(naive) * np.sqrt(np.abs(naive)), atol=1e-3)
    with pytest.raises(ValueError, match="mask='sift': use one of max, sum"):
        create("selective_masks_hoang", mask="sift")


def test_the_rotation_loses_less_and_keeps_angles(digits):
    method = fit("selective_binary_hoang", digits)
    losses = [h["quantization"] for h in method.history_]
    assert losses[-1] < losses[0]
    assert (np.diff(losses) < 1e-9).all()
    np.testing.assert_allclose(method.rotation_ @ method.rotation_.T, np.eye(8), atol=1e-5)
    z = method.embed(digits.query.maps[:9])
    np.testing.assert_array_equal(method.encode(digits.query.maps[:9]), np.where(z >= 0, 1, -1))


def test_residuals_are_white_within_their_words():
    rng = np.random.default_rng(2)
    # Two bundles of directions, each stretched its own way.
    centre = np.repeat([[9, 0, 0, 0, 0], [0, 9, 0, 0, 0]], 1600, 0)
    spread = np.repeat([[1, 1, 2, 1, 0.5], [1, 1, 0.5, 2, 1]], 1600, 0)
    x = rng.permutation(centre + spread * rng.standard_normal((3200, 5)))
    x = x.reshape(200, 4, 4, 5).astype(np.float32)
    method = create("rvd_aggregation", bits=8, words=2, local=4)
    method.fit(Split(x, supervision="unsupervised"))
    places = method.reduced(torch.from_numpy(x)).flatten(0, 2)
    member = torch.cdist(places, method.book.words).argmin(1)
    for k in range(2):
        residual = (places[member == k] - method.book.words[k]) @ torch.from_numpy(
            method.rotations_[k]
        )
        moment = (residual.T @ residual / len(residual)).numpy()
        np.testing.assert_allclose(moment, np.eye(4), atol=0.15)


def test_contributions_of_places_and_channels(digits):
    # Without equal sums, so that it is clear which channels are strong.
    tilt = np.linspace(0.9, 1.1, 64, dtype=np.float32)
    maps = torch.from_numpy(digits.query.maps[:5] * tilt)
    where, what = spatial_contribution(maps, 0.25), channel_contribution(maps)
    for m, s, c in zip(maps.numpy().astype(float), where, what, strict=True):
        sums, fires = m.sum((0, 1)), (m > 0).mean((0, 1))
        strong = np.argsort(sums)[-16:]
        stack = m[..., strong].sum(2)
        np.testing.assert_allclose(s, stack / stack.max(), atol=1e-5)
        for k in range(64):
            expected = 0.0
            if fires[k]:
                expected = np.log(fires.sum() / fires[k]) + np.log(sums.sum() / sums[k])
            assert c[k].item() == pytest.approx(expected, abs=1e-4)


def test_co_weights_follow_the_object_and_rare_channels(digits):
    method = fit("co_weighting", digits, rows=60)
    maps = torch.from_numpy(digits.query.maps[:5])
    for i, m in enumerate(maps.numpy().astype(float)):
        total = m.sum(2)
        mask = total >= np.median(total)
        mass = (total * mask).sum()
        top = sum(r * (total * mask)[r].sum() for r in range(4)) / mass
        left = sum(c * (total * mask)[:, c].sum() for c in range(4)) / mass
        pooled = np.zeros(64)
        for r in range(4):
            for c in range(4):
                far = ((r - top) ** 2 + (c - left) ** 2) / (4 / 3) ** 2
                pooled += mask[r, c] * np.exp(-0.5 * far) * m[r, c]
        sums = m.sum((0, 1))
        weight = np.array([np.log(sums.sum() / s) if s > 0 else 0 for s in sums])
        np.testing.assert_allclose(element_value_weights(maps)[i], weight, atol=1e-4)
        np.testing.assert_allclose(method.aggregate(maps)[i], pooled * weight, rtol=1e-3, atol=1e-3)


def test_other_inputs_are_refused(digits):
    method = fit("scda", digits, rows=60)
    with pytest.raises(ValueError, match=r"reads maps \(n, h, w, d\) and got \(5, 64\)"):
        method.embed(digits.query.pooled[:5])
    with pytest.raises(ValueError, match="fitted on maps of 64 channels and got 63"):
        method.embed(digits.query.maps[:5, ..., :-1])
