"""FG-SBIR: second-order energy over explicit pairs, triplets, attention on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry, two_towers
from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 2, 3, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 3, 2, 5)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 2, 2, 0, 1]]
BATCH = Batch(*(torch.from_numpy(v) for v in (X, Y.astype(np.float32))), torch.arange(8),
              other=torch.from_numpy(T))  # fmt: skip


@pytest.fixture
def method():
    new = registry.create("fg_sbir", bits=4, epochs=1, width=8, dropout=0.0, anchors=5, lam=0.5)
    new.fit(Split(X, Y, other=T))
    W = RANDOM.standard_normal((4, 4)).astype(np.float32)
    new.network_.get_parameter("energy").data = torch.from_numpy(W)
    return new


def energy(s, p, W):
    return sum(W[i, j] * (s[i] - p[j]) ** 2 for i in range(4) for j in range(4))


def test_triplets_and_norms_over_explicit_pairs(method):
    W = method.network_.get_parameter("energy").detach().numpy().astype(float)
    s, p = method.embed_other(T).astype(float), method.embed(X).astype(float)
    gaps = [
        max(0.0, 0.3 + energy(s[i], p[a], W) - energy(s[i], p[b], W))
        for i in range(5)
        for a in range(8)
        for b in range(8)
        if (Y[i] == Y[a]).all() and (Y[i] != Y[b]).any()
    ]
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    assert terms["triplet"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    away = W - np.eye(4)
    norms = sum(abs(v) for v in away.ravel()) / 4 + sum(v**2 for v in away.ravel()) ** 0.5
    assert terms["energy"] == pytest.approx(0.5 * norms, rel=1e-4)
    found = method.distance(method.embed_other(T), method.embed(X))
    np.testing.assert_allclose(
        found, [[energy(a, b, W) for b in p] for a in s], rtol=1e-3, atol=1e-5
    )


def test_the_energy_starts_as_the_euclidean_distance(method):
    method.network_.get_parameter("energy").data = torch.eye(4)
    s, p = method.embed_other(T), method.embed(X)
    expected = [[((a - b) ** 2).sum() for b in p] for a in s]
    np.testing.assert_allclose(method.distance(s, p), expected, rtol=1e-3, atol=1e-5)


def linear(layer, v):
    return layer.weight.detach().numpy().astype(float) @ v + layer.bias.detach().numpy()


def test_photos_and_sketches_are_attended_to_position_by_position(method):
    for maps, found in ((X, method.embed(X)), (T, method.embed_other(T))):
        centre, spread = maps.mean((0, 1, 2)), maps.std((0, 1, 2))
        tower = method.network_.image
        for i, rows in enumerate(maps.astype(float)):
            places = [(v - centre) / spread for row in rows for v in row]
            hidden = [np.maximum(linear(tower.score[0], v), 0) for v in places]
            e = [np.exp(linear(tower.score[2], h)[0]) for h in hidden]
            v = sum((w / sum(e) + 1 / len(e)) * p for w, p in zip(e, places, strict=True))
            deep, fine = tower.fusion.coarse, tower.fusion.fine
            coarse = linear(deep[4], np.maximum(linear(deep[1], v), 0))
            z = np.concatenate([coarse, linear(fine[1], v)])
            np.testing.assert_allclose(found[i], z / np.linalg.norm(z), rtol=1e-3, atol=1e-5)


def test_attention_follows_what_the_scores_prefer(method):
    for name, maps in (("image", BATCH.x), ("other", BATCH.other)):
        tower = method.network_.get_submodule(name)
        with torch.no_grad():
            a = tower.mask(maps)
            scores = tower.score(tower.standardise(maps)).flatten(1)
        assert torch.allclose(a.sum(1), torch.ones(8))
        assert (a.argmax(1) == scores.argmax(1)).all()


def test_both_sides_have_the_same_weights_and_statistics_of_their_own(method):
    image, other = method.network_.image, method.network_.other
    for (name, a), b in zip(image.named_parameters(), other.parameters(), strict=True):
        assert a is b, name
    for tower, maps in ((image, X), (other, T)):
        np.testing.assert_allclose(tower.standardise.mean, maps.mean((0, 1, 2)), atol=1e-6)
        np.testing.assert_allclose(tower.standardise.scale, maps.std((0, 1, 2)), rtol=1e-5)


def test_sketch_maps_pass_in_blocks_and_keep_their_type(method, monkeypatch):
    split = Split(X, Y, other=T.astype(np.float16))
    assert method._tensors(split.x, split.labels, split).other.dtype == torch.float16
    whole, sizes = method.embed_other(T), []
    monkeypatch.setattr(two_towers, "MAPS_AT_ONCE", 3)
    handle = method.network_.other.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    np.testing.assert_allclose(method.embed_other(T), whole, atol=1e-6)
    assert sizes == [3, 3, 2]
    handle.remove()
    broken = T.copy()
    broken[4, 1, 0, 2] = np.inf
    with pytest.raises(ValueError, match=r"sketch.*NaN or infinity, first in row 4"):
        method.embed_other(broken)
    with pytest.raises(ValueError, match=r"fitted on sketch \(n, 3, 2, 5\) and got \(8, 5\)"):
        method.embed_other(T.mean((1, 2)))


def test_saved_and_loaded_the_towers_still_share(method, tmp_path):
    method.save(tmp_path / "system.pt")
    loaded = load(tmp_path / "system.pt")
    np.testing.assert_array_equal(loaded.embed_other(T), method.embed_other(T))
    np.testing.assert_array_equal(loaded.embed(X), method.embed(X))
    assert loaded.network_.image.score is loaded.network_.other.score


def test_learning_moves_the_energy_and_orders_training_pairs():
    method = registry.create("fg_sbir", bits=8, epochs=60, width=16, dropout=0.0, lr=5e-3)
    method.fit(Split(X, Y, other=T))
    assert method.history_[-1]["triplet"] < 0.2 * method.history_[0]["triplet"]
    W = method.network_.get_parameter("energy").detach()
    assert (W - torch.eye(8)).abs().max() > 1e-2
    assert (W - torch.eye(8)).abs().max() < 1


def test_other_inputs_than_maps_are_refused():
    pooled = T.mean((1, 2))
    for x, other, shape in (
        (X.reshape(8, 30), T, r"\(8, 30\)"),
        (X, pooled, r"\(8, 5\)"),
        (X, T[..., :4], r"\(8, 3, 2, 4\)"),
    ):
        with pytest.raises(ValueError, match=r"maps \(n, h, w, d\) of photos and.*" + shape):
            registry.create("fg_sbir", bits=4, epochs=1).fit(Split(x, Y, other=other))
