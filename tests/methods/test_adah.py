"""ADAH: masks, terms against explicit triplets, and attention that finds the telling place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.attention.adah import binary_mask, opposed
from tests.methods.few_pairs import few_pairs

RANDOM = np.random.default_rng(3)
X, T, Y, BATCH = few_pairs(RANDOM, (2, 3, 5))


def fitted(**params):
    size = {"bits": 4, "epochs": 1, "width": 8, "dropout": 0.0, "channels": 3}
    return registry.create("adah", **{**size, **params}).fit(Split(X, Y, other=T))


def test_a_mask_is_binary_and_passes_the_gradient_of_a_sigmoid():
    score = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]], requires_grad=True)
    mask = binary_mask(score)
    np.testing.assert_array_equal(mask.detach(), [[0, 0, 1], [0, 0, 0]])
    mask[0, 2].backward()
    soft = 1 / (1 + np.exp(-3.0))
    # The mean of the row moves with each of its scores.
    assert score.grad[0, 2].item() == pytest.approx(soft * (1 - soft) * 2 / 3, rel=1e-5)


def test_the_gradient_of_the_unattended_part_is_turned_round_for_the_mask():
    mask = torch.tensor([[1.0, 0.0]], requires_grad=True)
    both = opposed(mask)
    np.testing.assert_array_equal(both.detach(), [[[1, 0], [0, 1]]])
    (both * torch.tensor([[[2.0, 3.0], [5.0, 7.0]]])).sum().backward()
    # Without turning it would be 2 - 5 and 3 - 7.
    np.testing.assert_array_equal(mask.grad, [[2 + 5, 3 + 7]])


def test_codes_of_a_picture_are_those_of_the_mean_of_its_attended_or_other_places():
    method = fitted()
    tower = method.network_.get_submodule("image")
    masks = method.attention(X)
    assert set(np.unique(masks)) == {0, 1}
    with torch.no_grad():
        attended, rest = tower.codes(BATCH.x)
        for i in range(7):
            for h, wanted in ((attended, 1), (rest, 0)):
                places = [X[i, r, c] for r in range(2) for c in range(3)
                          if masks[i, r, c] == wanted]  # fmt: skip
                mean = torch.from_numpy(np.mean(places, 0))[None]
                again = tower.hash_layer(tower.trunk(mean)).tanh()[0]
                np.testing.assert_allclose(h[i], again, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(method.outputs(X), attended, rtol=1e-4, atol=1e-5)


def test_triplets_of_both_parts_in_both_directions():
    method = fitted(margin=0.7, anchors=3)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    with torch.no_grad():
        sides = (method.network_.get_submodule(k) for k in ("image", "other"))
        codes = [s.codes(v) for s, v in zip(sides, (BATCH.x, BATCH.other), strict=True)]
    relevant = (Y.astype(int) @ Y.T) > 0
    for part, name in enumerate(("attended", "unattended")):
        total = 0.0
        pair = [c[part].double().numpy() for c in codes]
        for a, b in (pair, pair[::-1]):
            d = [[1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q) for q in b] for p in a]
            gaps = [
                max(0.0, 0.7 + d[i][p] - d[i][n])
                for i in range(3)
                for p in range(7)
                for n in range(7)
                if relevant[i, p] and not relevant[i, n]
            ]
            total += sum(gaps) / len(gaps)
        assert found[name] == pytest.approx(total, rel=1e-4)


def test_attention_goes_to_the_place_that_tells_the_classes_apart():
    # Two of nine places show the class, the others show noise in channels of their own.
    y = np.eye(3, dtype=np.uint8)[np.arange(90) % 3]
    x = RANDOM.standard_normal((90, 3, 3, 6)).astype(np.float32)
    x[..., :3] = 0
    for i in range(90):
        for place in RANDOM.choice(9, 2, replace=False):
            x[i, place // 3, place % 3] = [*(3.0 * y[i]), 0, 0, 0]
    words = (y + 0.1 * RANDOM.random((90, 3))).astype(np.float32)
    size = {"epochs": 40, "batch_size": 30, "width": 32, "lr": 5e-3, "dropout": 0.0}
    method = registry.create("adah", bits=8, **size).fit(Split(x, y, other=words))
    masks, telling = method.attention(x), x[..., :3].any(-1)
    assert masks[telling].mean() > masks[~telling].mean() + 0.4
    assert method.history_[-1]["unattended"] > 2 * method.history_[-1]["attended"]


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match="maps"):
        registry.create("adah").fit(Split(X[:, 0, 0], Y, other=T))
