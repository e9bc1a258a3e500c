"""SAH [191]: the embedding by hand, and a joint objective that falls and serves the codes."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder.rba import max_pooling
from cbir_lite.methods.registry import create


def fit(digits, rows=300, **params):
    method = create("sah_191", **{"bits": 8, **params})
    return method.fit(Split(digits.train.maps[:rows], supervision="unsupervised"))


def unit(v):
    return v / np.linalg.norm(v)


def test_places_are_embedded_by_their_directions_to_all_words(digits):
    method = fit(digits, words=3, local=5, dimensions=12)
    found = method.embedded(digits.query.maps[:4])
    assert found.shape == (4, 4, 4, 12)
    for r, c in ((0, 0), (1, 2), (3, 3)):
        place = digits.query.maps[2, r, c].astype(float)
        if np.linalg.norm(place) > 0:
            place = unit(place)
        psi = unit((place - method.local_mean_) @ method.local_axes_)
        directions = np.concatenate([unit(psi - word) for word in method.words_])
        expected = unit((directions - method.embedding_mean_) @ method.embedding_axes_)
        np.testing.assert_allclose(found[2, r, c], expected, atol=1e-3)


def test_a_code_is_the_hash_of_the_pooled_embedding(digits):
    method = fit(digits)
    x = digits.query.maps[:6]
    V = method.embedded(x).reshape(6, 16, -1).astype(float)
    z = max_pooling(V, method.mu) @ method.W_ + method.c_
    np.testing.assert_allclose(method.embed(x), z, atol=1e-3)
    np.testing.assert_array_equal(method.encode(x), np.where(method.embed(x) >= 0, 1, -1))


def test_no_round_raises_the_joint_objective(digits):
    method = fit(digits, rounds=6)
    totals = [sum(h.values()) for h in method.history_]
    assert (np.diff(totals) < 1e-6).all()
    # Aggregates that may move are rebuilt better from codes than those of pooling alone.
    assert method.history_[-1]["reconstruction"] < 0.98 * method.history_[0]["reconstruction"]


def test_other_inputs_are_refused(digits):
    method = fit(digits, 120)
    with pytest.raises(ValueError, match="64 channels and got 63"):
        method.embed(digits.query.maps[:5, ..., :-1])
    with pytest.raises(ValueError, match=r"reads maps \(n, h, w, d\) and got \(5, 64\)"):
        method.embed(digits.query.pooled[:5])
