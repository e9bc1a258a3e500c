"""WDHT: word vectors, vectors of pictures and every term against explicit loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cnn._tags import item_vectors, rarity, word_vectors
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = (RANDOM.random((8, 6)) < 0.4).astype(np.uint8)
Y[:, 0] |= ~Y.any(1)


def test_inner_products_of_word_vectors_are_their_mutual_information():
    y = torch.from_numpy(Y).float()
    counts = (Y.T.astype(int) @ Y).astype(float)
    total = counts.sum()
    expected = np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            if counts[a, b]:
                shared = counts[a, b] * total / counts[a].sum() / counts[b].sum()
                expected[a, b] = max(0.0, math.log(shared))
    vectors = word_vectors(y, 300).double().numpy()
    # The factorisation keeps the size of every eigenvalue: squares agree exactly.
    np.testing.assert_allclose(
        np.linalg.eigvalsh(vectors @ vectors.T),
        np.sort(np.abs(np.linalg.eigvalsh(expected))),
        atol=1e-5,
    )


def test_words_of_one_topic_have_similar_vectors_and_lonely_words_their_own():
    y = np.zeros((60, 7), np.float32)
    for i in range(60):
        topic = i % 2 * 3
        y[i, RANDOM.choice(np.arange(topic, topic + 3), 2, replace=False)] = 1
    y[:5] = 0
    y[:5, 6] = 1
    v = torch.nn.functional.normalize(word_vectors(torch.from_numpy(y), 3), dim=1).numpy()
    cosine = v @ v.T
    assert min(cosine[0, 1], cosine[3, 4]) > 0.9
    assert max(cosine[0, 3], cosine[0, 6]) < 0.3
    one_each = word_vectors(torch.eye(4), 4)
    cosine = torch.nn.functional.normalize(one_each, dim=1)
    np.testing.assert_allclose((cosine @ cosine.T).numpy(), np.eye(4), atol=1e-5)


def test_a_picture_is_the_mean_of_its_words_and_rare_ones_count_more():
    y = torch.from_numpy(Y).float()
    v, idf = torch.from_numpy(RANDOM.standard_normal((6, 3))).float(), rarity(y)
    found = item_vectors(y, v, idf).numpy()
    for i in range(8):
        mean = sum(
            (math.log(8 / max(1, Y[:, w].sum())) + 1) * v[w].numpy() for w in np.flatnonzero(Y[i])
        )
        np.testing.assert_allclose(found[i], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
    assert not item_vectors(torch.zeros(1, 6), v, idf).any()


def test_terms():
    method = registry.create(
        "wdht", bits=4, epochs=1, width=8, dropout=0.0, margin=0.3, lam_hinge=0.5,
        lam_quantization=2.0,
    )  # fmt: skip
    method.fit(Split(X, Y, "weakly-supervised"))
    y = torch.from_numpy(Y).float()
    found = {k: v.item() for k, v in method.loss(Batch(torch.from_numpy(X), y, None)).items()}
    h = np.tanh(method.outputs(X).double().numpy())
    w = item_vectors(y, method.memory_["words"], method.memory_["rarity"]).double().numpy()
    with torch.no_grad():
        f = method.network_.semantic(torch.from_numpy(h).float()).double().numpy()
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    pairs = np.mean([(h[i] @ h[j] / 4 - w[i] @ w[j]) ** 2 for i in range(8) for j in range(8)])
    hinges = [max(0, 0.3 - f[i] @ w[i] + f[i] @ w[j]) for i in range(8) for j in range(8) if i != j]
    assert found["pairs"] == pytest.approx(pairs, rel=1e-4)
    assert found["ranking"] == pytest.approx(0.5 * np.mean(hinges), rel=1e-4)
    assert found["quantization"] == pytest.approx(2 * ((np.abs(h) - 1) ** 2).mean(), rel=1e-4)
