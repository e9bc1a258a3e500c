"""Search by detection [126]: windows, detection with suppression, and one-to-one matching."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.search_by_detection import detect, windows
from cbir_lite.methods.registry import create


def rectangles(h, w):
    for t in range(h):
        for b in range(t + 1, h + 1):
            for left in range(w):
                for right in range(left + 1, w + 1):
                    yield {(r, c) for r in range(t, b) for c in range(left, right)}


def places(mask, w):
    return {(int(p) // w, int(p) % w) for p in mask.nonzero()}


def test_every_rectangle_once():
    masks = windows(3, 4)
    assert masks.shape == (6 * 10, 12)
    found = {frozenset(places(m, 4)) for m in masks}
    assert found == {frozenset(r) for r in rectangles(3, 4)}
    assert (masks[-1] == 1).all()


def test_objects_are_the_best_windows_that_do_not_overlap():
    maps = torch.rand(5, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    maps[:, :2, :2] += 1
    masks = windows(4, 4)
    found = detect(maps, masks, 3, 0.4)
    for m, rows in zip(maps.double().sum(3), found, strict=True):
        left, chosen = list(rectangles(4, 4)), []
        for _ in range(3):
            best = max(left, key=lambda r: sum(float(m[p] - m.mean()) for p in r))
            chosen.append(best)
            left = [r for r in left if len(r & best) / len(r | best) <= 0.4]
        assert [places(masks[k], 4) for k in rows] == chosen


def test_where_no_window_is_left_the_best_is_repeated():
    found = detect(torch.rand(3, 1, 2, 4), windows(1, 2), 4, 0.0)
    assert found[:, 2].tolist() == found[:, 0].tolist()
    assert found[:, 3].tolist() == found[:, 0].tolist()


def fit(digits, **params):
    method = create("search_by_detection", **{"bits": 8, **params})
    return method.fit(Split(digits.train.maps[:200], supervision="unsupervised"))


def test_features_are_means_over_image_and_windows(digits):
    method = fit(digits)
    maps = torch.from_numpy(digits.query.maps[:3])
    masks = windows(4, 4)
    rows = detect(maps, masks, 3, 0.5)
    found = method.features(maps)
    for i in range(3):
        inside = [[divmod(p, 4) for p in range(16)], *(places(masks[k], 4) for k in rows[i])]
        for k, region in enumerate(inside):
            mean = np.mean([digits.query.maps[i][p] for p in region], 0)
            np.testing.assert_allclose(found[i, k], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("regions", [0, 2, 3])
def test_matching_is_the_best_assignment(digits, regions):
    method = fit(digits, regions=regions)
    q, b = method.embed(digits.query.maps[:5]), method.embed(digits.database.maps[:6])
    d = method.distance(q, b)
    for i in range(5):
        for j in range(6):
            cost = 1 - q[i].reshape(regions + 1, 8) @ b[j].reshape(regions + 1, 8).T
            r, c = linear_sum_assignment(cost)
            assert d[i, j] == pytest.approx(cost[r, c].mean(), abs=1e-5)


def test_too_many_regions_are_refused():
    with pytest.raises(ValueError, match="regions=6"):
        create("search_by_detection", regions=6)
