"""Stacked adversarial network: both stages, critics that see the sketch, the siamese metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.sketch import _shared as shared
from tests.methods.eight_pairs import BATCH, CLASS, T, X, Y


def fitted(**params):
    settings = {"bits": 4, "width": 16, "epochs": 1, "dropout": 0.0, "noise": 2, **params}
    return registry.create("stacked_adversarial_sbir", **settings).fit(Split(X, Y, other=T))


def test_terms_over_explicit_rows_and_pairs():
    method = fitted(lam=2.0, margin=1.1)
    with torch.no_grad():
        v = method.generate(BATCH)
        found = {k: t.item() for k, t in method._terms(BATCH, v).items()}
        found["critics"] = method.critic_loss(v).item()
        h = {k: method.network_.get_submodule("image.1")(v[k]).numpy() for k in ("x", "refined")}
    terms = dict.fromkeys(found, 0.0)
    for k, stage, name in ((1, "coarse", "first stage"), (2, "refined", "second stage")):
        critic = method.network_.get_submodule(f"critic_{k}")
        for i in range(8):
            real, made = (
                critic(torch.cat([v[kind][i], v["s"][i]])[None]).item() for kind in ("x", stage)
            )
            terms[name] += (made - 1) ** 2 / 8
            terms["critics"] += ((real - 1) ** 2 + made**2) / 16
    for side in ("refined", "x"):
        near, far = [], []
        for i in range(8):
            for j in range(8):
                d = np.linalg.norm(h[side][i] - h["x"][j])
                (near.append(d**2) if CLASS[i] == CLASS[j] else far.append(max(0, 1.1 - d) ** 2))
        terms["siamese"] += 2 * (np.mean(near) + np.mean(far))
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


def test_contrastive_pairs_have_equal_weight_by_kind():
    squares = torch.tensor([[0.25, 0.09], [4.0, 0.01]])
    s = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    expected = 0.25 + ((1 - 0.3) ** 2 + 0 + (1 - 0.1) ** 2) / 3
    assert shared.contrastive(squares, s, 1.0).item() == pytest.approx(expected)


def test_the_second_stage_adds_to_the_first_and_sees_the_sketch_again():
    method = fitted()
    stacked = method.network_.other
    s, noise = stacked.standardise(BATCH.other), torch.zeros(8, 2)
    with torch.no_grad():
        coarse, refined = stacked.generate(s, noise)
        for p in stacked.second.parameters():
            p.zero_()
        assert torch.equal(stacked.generate(s, noise)[1], coarse)
    assert not torch.allclose(refined, coarse)
    # Retrieval does without noise, so that a sketch has one descriptor.
    np.testing.assert_array_equal(method.embed_other(T), method.embed_other(T))


def test_players_are_disjoint_and_what_is_made_lands_at_its_class():
    method = fitted(epochs=120, lr=5e-3, width=32)
    owned = [{id(p) for g in o.param_groups for p in g["params"]} for o in method.optimisers()]
    assert not owned[0] & owned[1]
    assert owned[0] | owned[1] == {id(p) for p in method.network_.parameters()}
    assert method.history_[-1]["siamese"] < 0.3 * method.history_[0]["siamese"]
    found = method.distance(method.embed_other(T), method.embed(X))
    same = np.equal.outer(CLASS, CLASS)
    assert found[same].max() < found[~same].min()
