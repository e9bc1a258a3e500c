"""Off-the-shelf features: windows, chain of steps and ranking by hand; an object that moves."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.cnn_off_the_shelf import windows
from cbir_lite.methods.registry import create


def test_windows_cover_the_image_and_overlap():
    assert windows(7, 7, 1) == [(slice(0, 7), slice(0, 7))]
    found = windows(7, 7, 3)
    assert len(found) == 1 + 4 + 9
    assert {(s.start, s.stop) for s, _ in found[1:5]} == {(0, 5), (2, 7)}
    assert {(s.start, s.stop) for _, s in found[5:]} == {(0, 4), (2, 6), (3, 7)}
    for level in (found[1:5], found[5:]):
        seen = np.zeros((7, 7))
        for r, c in level:
            seen[r, c] += 1
        assert seen.min() >= 1
        assert seen.max() >= 2
    assert len(windows(1, 1, 3)) == 14


@pytest.mark.parametrize("whiten", [False, True])
def test_descriptor_is_that_of_the_steps_done_one_by_one(digits, whiten):
    x, q = digits.train.maps[:200].astype(float), digits.query.maps[:6].astype(float)
    method = create("cnn_off_the_shelf", bits=7, whiten=whiten)
    method.fit(Split(digits.train.maps[:200], supervision="unsupervised"))

    def unit_parts(maps):
        rows = [maps]
        rows += [maps[a : a + 3, b : b + 3] for a in (0, 1) for b in (0, 1)]
        rows = [r.mean((0, 1)) for r in rows]
        return [r / np.sqrt((r**2).sum()) for r in rows]

    rows = np.array([p for maps in x for p in unit_parts(maps)])
    mean = rows.mean(0)
    _, s, Vt = np.linalg.svd(rows - mean, full_matrices=False)
    scale = s[:7] / np.sqrt(len(rows)) if whiten else np.ones(7)
    expected = []
    for maps in q:
        for part in unit_parts(maps):
            g = Vt[:7] @ (part - mean) / scale
            expected.append(g / np.sqrt((g**2).sum()))
    found = method.embed(digits.query.maps[:6])
    assert found.shape == (6, 35)
    # Each component's direction may point either way.
    signs = np.sign((found.reshape(-1, 7) * expected).sum(0))
    np.testing.assert_allclose(found.reshape(-1, 7) * signs, expected, atol=1e-4)


def test_distance_is_the_mean_over_parts_of_the_nearest_part(lab):
    method = lab.smoke_fit("cnn_off_the_shelf").method
    q, b = (side[:5].astype(float) for side in lab.sides(method))
    found = method.distance(q.astype(np.float32), b.astype(np.float32))
    for i in range(5):
        for j in range(5):
            parts = q[i].reshape(5, 32), b[j].reshape(5, 32)
            nearest = [min(np.linalg.norm(p - r) for r in parts[1]) for p in parts[0]]
            assert found[i, j] == pytest.approx(np.mean(nearest), abs=1e-3)


def test_a_small_object_in_clutter_is_found_better_than_by_the_whole_image():
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=300)
    objects = np.eye(4, 12)[kind]
    clutter = 4 * rng.random((300, 1, 1, 12)) * (np.arange(12) > 3)
    x = (clutter + rng.random((300, 4, 4, 12))).astype(np.float32)
    for image, thing, corner in zip(x, objects, rng.integers(4, size=300), strict=True):
        r, c = 2 * (corner // 2), 2 * (corner % 2)
        image[r : r + 2, c : c + 2] = thing
    # Each query is one of the four objects and nothing else.
    queries = np.broadcast_to(np.eye(4, 12)[:, None, None], (4, 4, 4, 12)).astype(np.float32)
    found = {}
    for name in ("cnn_off_the_shelf", "cnn_off_the_shelf/whole"):
        method = create(name, bits=12).fit(Split(x, supervision="unsupervised"))
        first = method.distance(method.embed(queries), method.embed(x)).argsort(1)[:, :50]
        found[name] = (kind[first] == np.arange(4)[:, None]).mean()
    assert found["cnn_off_the_shelf"] > found["cnn_off_the_shelf/whole"] + 0.05


def test_what_cannot_be_cut_into_parts_is_refused(digits):
    with pytest.raises(ValueError, match="reads maps"):
        create("cnn_off_the_shelf").fit(Split(digits.train.pooled, supervision="unsupervised"))
    with pytest.raises(ValueError, match="levels=0"):
        create("cnn_off_the_shelf", levels=0)
