"""Tag-based hashing: semantic words, semantic vectors, and the terms of both stages."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cnn.guan_tag import semantic_words
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(10)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
Y = (RANDOM.random((9, 6)) < 0.4).astype(np.uint8)
Y[:, 0] |= ~Y.any(1)
BATCH = Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(9))


def fitted(**params):
    size = {"bits": 4, "epochs": 3, "width": 8, "dropout": 0.0, "words": 3, "neighbours": 2}
    method = registry.create("guan_tag", **{**size, **params})
    return method.fit(Split(X, Y, "weakly-supervised"))


def test_semantic_words_are_found_and_no_round_raises_the_error():
    hidden = (RANDOM.random((3, 9)) < 0.4) + np.eye(3, 9)
    T = torch.from_numpy((RANDOM.random((40, 3)) < 0.5) @ hidden).float()
    errors = []
    for rounds in range(1, 40, 6):
        A, D = semantic_words(T, 3, 0.0, rounds, torch.Generator().manual_seed(0))
        errors.append(float((T - A @ D).square().sum()))
        assert A.min() >= 0
        assert D.min() >= 0
        np.testing.assert_allclose(D.norm(dim=1), 1, rtol=1e-4)
    assert all(b <= a + 1e-3 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.2 * float(T.square().sum())


def test_sparsity_makes_shares_vanish():
    T = torch.from_numpy(Y).float()
    few, many = (
        semantic_words(T, 4, s, 60, torch.Generator().manual_seed(0))[0] for s in (0.5, 0.0)
    )
    assert (few < 1e-3).float().mean() > (many < 1e-3).float().mean()


def test_a_step_of_the_semantic_vectors_lowers_their_objective():
    method = fitted(alpha=0.5, sparsity=0.05)
    T, D = (method.memory_[k].double().numpy() for k in ("T", "D"))
    read, around = RANDOM.random((9, 3)), RANDOM.random((9, 3))

    def objective(U) -> float:
        fit = ((T - U @ D) ** 2).sum() / 2 + 0.05 * U.sum()
        return fit + ((U - read) ** 2).sum() / 2 + 0.5 * ((U - around) ** 2).sum() / 2

    U = torch.from_numpy(3 * RANDOM.random((9, 3))).float()
    values = [objective(U.double().numpy())]
    for _ in range(6):
        U = method.vector_step(U, *(torch.from_numpy(v).float() for v in (read, around)))
        assert U.min() >= 0
        values.append(objective(U.double().numpy()))
    assert all(b <= a + 1e-5 for a, b in itertools.pairwise(values))
    assert values[-1] < 0.8 * values[0]


def test_terms_of_the_first_stage():
    method = fitted(first_stage=1.0)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    h, u = np.tanh(method.outputs(X).double().numpy()), method.memory_["U"].double().numpy()
    with torch.no_grad():
        read = method.network_.semantic(torch.from_numpy(h).float()).double().numpy()

    def cosine(a, b) -> float:
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b) / size if size else 0.0

    pairs = [(h[i] @ h[j] / 4 - cosine(u[i], u[j])) ** 2 for i in range(9) for j in range(9)]
    assert found["pairs"] == pytest.approx(np.mean(pairs), rel=1e-4)
    assert found["reading"] == pytest.approx(((read - u) ** 2).sum() / 9, rel=1e-4)
    assert found["likelihood"] == found["quantization"] == 0


def test_terms_of_the_second_stage():
    method = fitted(first_stage=0.4, eta=0.5)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    z, total = method.outputs(X).double().numpy(), 0.0
    for i in range(9):
        for j in range(9):
            theta = float(z[i] @ z[j]) / 2
            total += math.log1p(math.exp(theta)) - bool((Y[i] & Y[j]).any()) * theta
    assert found["likelihood"] == pytest.approx(total / 81, rel=1e-4)
    distance = np.mean([(v - (1 if v >= 0 else -1)) ** 2 for v in z.ravel()])
    assert found["quantization"] == pytest.approx(0.5 * distance, rel=1e-4)
    assert [h["likelihood"] > 0 for h in method.history_] == [False, True, True]
