"""Semantic re-ranking: the head of the first list is ordered anew, the rest keeps its place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 4)).astype(np.float32)
CLASS = [0, 0, 1, 1, 2, 2, 0, 1]
Y = np.eye(3, dtype=np.uint8)[CLASS]


@pytest.fixture
def method():
    new = registry.create("sbir_rerank", bits=4, width=8, epochs=1, dropout=0.0, tau=0.5, lam=0.7)
    return new.fit(Split(X, Y, other=T))


def test_terms_over_explicit_rows(method):
    batch = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8),
                  other=torch.from_numpy(T))  # fmt: skip
    found = {k: v.item() for k, v in method.loss(batch).items()}
    p, s = method.embed(X).astype(float), method.embed_other(T).astype(float)
    for name, side in (("photo classes", p), ("sketch classes", s)):
        expected = -np.mean([math.log(side[i, 4 + c]) for i, c in enumerate(CLASS)])
        assert found[name] == pytest.approx(expected, rel=1e-4)
    total = 0.0
    for i in range(8):
        scores = [math.exp(s[i, :4] @ p[j, :4] / 0.5) for j in range(8)]
        total -= math.log(scores[i] / sum(scores)) / 8
    assert found["first list"] == pytest.approx(total, rel=1e-4)
    for side in (p, s):
        np.testing.assert_allclose((side[:, :4] ** 2).sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(side[:, 4:].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("head", [0.25, 0.5, 1.0])
def test_the_head_is_ordered_by_both_scores_and_the_rest_by_the_first(method, head):
    method.head = head
    queries, database = method.embed_other(T), method.embed(X)
    count = round(8 * head)
    for q, found in zip(queries, method.distance(queries, database), strict=True):
        cosines = [float(q[:4] @ b[:4]) for b in database]
        first = sorted(range(8), key=lambda j: -cosines[j])
        score = [cosines[j] + 0.7 * float(q[4:] @ database[j, 4:]) for j in range(8)]
        expected = sorted(first[:count], key=lambda j: -score[j]) + first[count:]
        assert np.argsort(found).tolist() == expected


def test_a_photo_of_the_believed_category_passes_one_that_looks_alike(method):
    query = np.array([[1, 0, 0, 0, 0.9, 0.1, 0.0]], np.float32)
    alike = [0.8, 0.6, 0, 0, 0.1, 0.9, 0.0]
    believed = [0.6, 0.8, 0, 0, 0.9, 0.1, 0.0]
    far = [-1, 0, 0, 0, 1.0, 0.0, 0.0]
    far_too = [-0.8, 0.6, 0, 0, 0.0, 1.0, 0.0]
    database = np.array([alike, believed, far, far_too], np.float32)
    assert np.argsort(method.first_distance(query, database)[0]).tolist() == [0, 1, 3, 2]
    # The head is two photos: the far one stays last although its category is the right one.
    assert np.argsort(method.distance(query, database)[0]).tolist() == [1, 0, 3, 2]
