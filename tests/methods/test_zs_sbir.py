"""ZS-SBIR: the three losses over explicit triplets, their draw, and the reversed gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.sketch import _shared as shared
from cbir_lite.methods.sketch import zs_sbir
from tests.methods.eight_pairs import BATCH, CLASS, WORDS, T, X, Y


def fitted(words=None):
    new = registry.create("zs_sbir", bits=4, width=16, epochs=1, dropout=0.0, margin=0.6)
    return new.fit(Split(X, Y, other=T, semantics=words))


@pytest.fixture
def method():
    return fitted()


@pytest.mark.parametrize("words", [None, WORDS])
def test_losses_over_explicit_triplets(words):
    method = fitted(words)
    positive, negative = (
        torch.tensor([1, 0, 7, 2, 4, 5, 6, 3]),
        torch.tensor([4, 2, 0, 1, 3, 0, 5, 6]),
    )
    with torch.no_grad():
        found = {k: v.item() for k, v in method.terms(BATCH, positive, negative).items()}
    s, p = method.embed_other(T), method.embed(X)
    e = method.memory_["semantics"].numpy()

    def run(name, v):
        return method.network_.get_submodule(name)(torch.from_numpy(v)[None])[0].detach().numpy()

    def apart(z, c):
        m = run("semantics", z)
        return (1 - m @ e[c] / np.linalg.norm(m) / np.linalg.norm(e[c])) / 2

    def told(z, photo):
        logit = float(run("judge", z))
        return math.log1p(math.exp(-logit if photo else logit))

    terms = dict.fromkeys(found, 0.0)
    for i, c in enumerate(CLASS):
        a, b = p[positive[i]], p[negative[i]]
        gap = 0.6 + np.linalg.norm(s[i] - a) - np.linalg.norm(s[i] - b)
        terms["triplet"] += max(0.0, gap) / 8
        terms["semantics"] += sum(apart(z, c) for z in (s[i], a, b)) / 8
        terms["domain"] += (told(s[i], False) + told(a, True) + told(b, True)) / 24
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("words", [None, WORDS])
def test_class_vectors_are_words_where_there_are_any_and_kept(words, tmp_path):
    method = fitted(words)
    e = method.memory_["semantics"].numpy()
    if words is None:
        y = torch.from_numpy(Y.astype(np.float32))
        expected = shared.class_means(torch.from_numpy(T), y).numpy()
    else:
        expected = np.array([row / np.sqrt(sum(v**2 for v in row)) for row in words])
    np.testing.assert_allclose(e, expected, rtol=1e-5)
    assert method.network_.semantics[3].out_features == e.shape[1]
    method.save(tmp_path / "system.pt")
    loaded = load(tmp_path / "system.pt")
    np.testing.assert_array_equal(loaded.embed_other(T), method.embed_other(T))
    assert torch.equal(loaded.memory_["semantics"], method.memory_["semantics"])


def test_a_reversed_gradient_leaves_the_value_and_turns_the_slope():
    z = torch.tensor([1.0, -2.0], requires_grad=True)
    out = zs_sbir.reversed_gradient(z, 0.5)
    assert torch.allclose(out, z)
    (3 * out).sum().backward()
    assert torch.allclose(z.grad, torch.tensor([-1.5, -1.5]))


def test_positives_share_the_class_and_near_classes_are_drawn_more_often(method):
    torch.manual_seed(0)
    e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    method.memory_["semantics"] = e
    counts = np.zeros(3)
    for _ in range(300):
        positive, negative = method.draw(BATCH)
        assert all(CLASS[i] == CLASS[j] for i, j in enumerate(positive.tolist()))
        assert all(CLASS[i] != CLASS[j] for i, j in enumerate(negative.tolist()))
        counts[CLASS[negative[0]]] += 1
    weights = [math.exp(-((e[0] - e[c]).square().sum().item()) / 0.1) for c in (1, 2)]
    assert counts[1] / counts.sum() == pytest.approx(weights[0] / sum(weights), abs=0.05)
    assert counts[0] == 0


def test_a_draw_follows_its_weights_and_says_where_there_is_nothing():
    torch.manual_seed(0)
    weights = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]).repeat(400, 1)
    drawn = shared.pick(weights)
    assert (drawn[1::2] == -1).all()
    assert (drawn[::2] == 2).float().mean().item() == pytest.approx(0.75, abs=0.08)
    assert (drawn[::2] != 0).all()


def test_one_class_alone_gives_no_triplet(method):
    alone = Batch(BATCH.x[:2], BATCH.y[:2], BATCH.index[:2], other=BATCH.other[:2])
    assert all(v.item() == 0 for v in method.loss(alone).values())


def test_the_towers_play_harder_against_the_judge_as_training_goes_on(method):
    method.epochs, strengths = 30, []
    for epoch in range(30):
        method.start_epoch(epoch, None)
        strengths.append(method.strength_)
    assert strengths[5] == 0
    assert strengths[15] == pytest.approx(0.5)
    assert strengths[25:] == [1.0] * 5


def test_unseen_rows_rank_by_euclidean_distance(method):
    s, p = method.embed_other(T), method.embed(X)
    expected = [[np.sqrt(((a - b) ** 2).sum()) for b in p] for a in s]
    np.testing.assert_allclose(method.distance(s, p), expected, rtol=1e-3)
