"""SEM-PCYC: every player's terms against explicit rows, and who moves what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.sketch import _shared as shared
from tests.methods.eight_pairs import BATCH, CLASS, WORDS, T, X, Y


def fitted(words=None, **params):
    settings = {"bits": 4, "width": 16, "epochs": 1, "dropout": 0.0, **params}
    return registry.create("sem_pcyc", **settings).fit(Split(X, Y, other=T, semantics=words))


@pytest.mark.parametrize("words", [None, WORDS])
def test_every_term_over_explicit_rows(words):
    method = fitted(words, lam=3.0, regression=0.5, sparsity=0.7)
    method.network_.double()
    method.memory_["side"] = method.memory_["side"].double()
    batch = Batch(BATCH.x.double(), BATCH.y.double(), BATCH.index, other=BATCH.other.double())
    with torch.no_grad():
        found = {k: v.item() for k, v in method.loss(batch).items()}
        found["critics"] = method.critic_loss(method.generate(batch)).item()
        found["autoencoder"] = method.autoencoder_loss(batch).item()

    def run(name, v):
        out = method.network_.get_submodule(name)(torch.from_numpy(np.asarray(v))[None])
        return out[0].detach().numpy()

    def wrong(name, v, c):
        logits = run(name, v)
        return np.log(np.exp(logits).sum()) - logits[c]

    domains = {k: (v.astype(float) - v.mean(0, dtype=float)) / v.std(0, dtype=float)
               for k, v in (("x", X), ("s", T))}  # fmt: skip
    side = method.memory_["side"].numpy()
    terms = dict.fromkeys(found, 0.0)
    for i, c in enumerate(CLASS):
        a = run("encoder", side[c])
        terms["autoencoder"] += ((run("decoder", a) - side[c]) ** 2).mean() / 8
        codes = {k: run(f"to_semantics_{k}", domains[k][i]) for k in domains}
        for k in domains:
            real, fake = domains[k][i], run(f"to_{k}", a)
            judged = float(run("critic", codes[k])), float(run(f"critic_{k}", fake))
            terms["adversarial"] += sum((v - 1) ** 2 for v in judged) / 8
            there = np.abs(run(f"to_{k}", codes[k]) - real).mean()
            back = np.abs(run(f"to_semantics_{k}", fake) - a).mean()
            terms["cycle"] += 3 * (there + back) / 8
            terms["class"] += (
                3 * (wrong("classify", codes[k], c) + wrong(f"classify_{k}", fake, c)) / 8
            )
            near = ((codes["x"] - codes["s"]) ** 2).mean() + ((fake - real) ** 2).mean()
            terms["regression"] += 0.5 * 3 * near / 8
            semantic = (float(run("critic", a)) - 1) ** 2 + judged[0] ** 2
            domain = (float(run(f"critic_{k}", real)) - 1) ** 2 + judged[1] ** 2
            terms["critics"] += (0.25 * semantic + 0.5 * domain) / 8
    weight = method.network_.get_parameter("encoder.0.weight").detach().numpy()
    terms["autoencoder"] += 0.7 * sum(np.sqrt((column**2).sum()) for column in weight.T) / 8
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_side_information_without_words_is_what_photos_and_sketches_of_a_class_look_like():
    side = fitted().memory_["side"].numpy()
    y = torch.from_numpy(Y.astype(np.float32))
    parts = [shared.class_means(torch.from_numpy(v), y).numpy() for v in (X, T)]
    np.testing.assert_allclose(side, np.concatenate(parts, 1) * np.sqrt(4.5), rtol=1e-5)


def test_side_information_is_the_words_of_a_class_whatever_it_looks_like():
    some = [[v / np.sqrt(sum(w**2 for w in row)) * np.sqrt(6) for v in row] for row in WORDS]
    method = fitted(WORDS)
    np.testing.assert_allclose(method.memory_["side"], some, rtol=1e-5)
    assert (method.memory_["side"].square().mean(1) - 1).abs().max() < 1e-5
    assert method.network_.encoder[0].in_features == method.network_.decoder.out_features == 6
    nothing = np.array([[0, 0], [1, 0], [0, 1]])
    assert not fitted(nothing).memory_["side"][0].any()


@pytest.mark.parametrize("words", [None, WORDS])
def test_saved_and_loaded_with_words_or_without(words, tmp_path):
    method = fitted(words)
    method.save(tmp_path / "system.pt")
    loaded = load(tmp_path / "system.pt")
    np.testing.assert_array_equal(loaded.embed_other(T), method.embed_other(T))
    assert torch.equal(loaded.memory_["side"], method.memory_["side"])
    assert loaded.network_.decoder.out_features == method.network_.decoder.out_features


def test_a_file_from_before_splits_had_words_is_read(tmp_path):
    method = fitted()
    expected = method.embed_other(T)
    del method.semantic_width_
    method.save(tmp_path / "system.pt")
    np.testing.assert_array_equal(load(tmp_path / "system.pt").embed_other(T), expected)


def test_players_own_disjoint_parts_that_cover_the_network():
    method = fitted()
    owned = [{id(p) for g in o.param_groups for p in g["params"]} for o in method.optimisers()]
    assert sum(len(o) for o in owned) == len(set.union(*owned))
    assert set.union(*owned) == {id(p) for p in method.network_.parameters()}


def test_round_trips_close_and_classes_become_readable():
    method = fitted(epochs=150, lr=3e-3, batch_size=8, width=32, bits=8)
    first, last = method.history_[0], method.history_[-1]
    assert last["cycle"] < 0.6 * first["cycle"]
    assert last["class"] < 0.4 * first["class"]
    assert last["autoencoder"] < first["autoencoder"]
    found = method.distance(method.embed_other(T), method.embed(X))
    same = np.equal.outer(CLASS, CLASS)
    assert found[same].mean() < 0.5 * found[~same].mean()
