"""Deep Sketch Hashing: objective, discrete steps and the branch that both sides share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch, TrainingData, shares_label
from cbir_lite.methods.sketch import _shared as shared

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
T = RANDOM.standard_normal((9, 4)).astype(np.float32)
Y = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 2, 2, 0, 1, 2]]
DATA = TrainingData(*(torch.from_numpy(v) for v in (X, Y.astype(np.float32))), None,
                    torch.from_numpy(T))  # fmt: skip


@pytest.fixture
def method():
    new = registry.create("dsh_sketch", bits=4, epochs=1, width=8, dropout=0.0, lam=0.3, gamma=0.2)
    return new.fit(Split(X, Y, other=T))


def test_the_objective_is_that_of_explicit_sums(method):
    W = 2 * shares_label(DATA.y, DATA.y) - 1
    D, F_I, F_S = (torch.from_numpy(RANDOM.standard_normal(s)) for s in ((4, 4), (9, 4), (9, 4)))
    for name, value in method.memory_.items():
        method.memory_[name] = value.double()
    phi, B_I, B_S = (method.memory_[k].numpy() for k in ("phi", "B_I", "B_S"))
    expected = 0.0
    for i in range(9):
        for j in range(9):
            expected += (4 * W[i, j].item() - sum(B_I[i] * B_S[j])) ** 2
        for B, out in ((B_I, F_I.numpy()), (B_S, F_S.numpy())):
            rebuilt = sum(B[i, k] * D.numpy()[k] for k in range(4))
            expected += 0.3 * sum((phi[i] - rebuilt) ** 2) + 0.2 * sum((out[i] - B[i]) ** 2)
    assert method.objective(W.double(), D, F_I, F_S).item() == pytest.approx(expected)


def test_no_step_of_codes_or_factor_raises_the_objective(method):
    W = 2 * shares_label(DATA.y, DATA.y) - 1
    F_I, F_S = shared.all_outputs(method, DATA)
    for seed in range(5):
        for k, name in enumerate(("B_I", "B_S")):
            method.memory_[name] = shared.random_signs(10 * seed + k, 9, 4)
        D = torch.from_numpy(RANDOM.standard_normal((4, 4)).astype(np.float32))
        values = [method.objective(W, D, F_I, F_S).item()]
        for _ in range(4):
            D = method.factor()
            values.append(method.objective(W, D, F_I, F_S).item())
            method.code_steps(W, D, F_I, F_S)
            values.append(method.objective(W, D, F_I, F_S).item())
        assert all(b <= a + 1e-2 for a, b in itertools.pairwise(values))
        assert values[-1] < values[0]


def test_a_bit_has_its_minimum_while_the_others_are_fixed():
    B = shared.random_signs(0, 6, 3).double()
    Q = torch.from_numpy(RANDOM.standard_normal((6, 3)))
    A = torch.from_numpy(RANDOM.standard_normal((3, 3)))
    G = A @ A.T

    def value(b, i):
        return (b @ G @ b - 2 * b @ Q[i]).item()

    found = shared.coordinate_descent(B, Q, G)
    for i in range(6):
        # The last bit is set with all others final: turning it over cannot help.
        turned = found[i].double().clone()
        turned[2] *= -1
        assert value(found[i].double(), i) <= value(turned, i)
        assert value(found[i].double(), i) <= value(B[i], i) + 1e-9


def test_the_networks_are_drawn_to_the_codes(method):
    index = torch.tensor([3, 0, 7])
    batch = Batch(DATA.x[index], DATA.y[index], index, other=DATA.other[index])
    terms = {k: v.item() for k, v in method.loss(batch).items()}
    for name, out, B in (
        ("image codes", method.outputs(X[index.numpy()]), method.memory_["B_I"]),
        ("sketch codes", method.other_outputs(T[index.numpy()]), method.memory_["B_S"]),
    ):
        gaps = [(out[a, k] - B[i, k]).item() ** 2 for a, i in enumerate(index) for k in range(4)]
        assert terms[name] == pytest.approx(sum(gaps) / 12, rel=1e-4)


def test_sketches_and_tokens_pass_one_branch_and_tokens_predict_the_sketch(method):
    image, other = method.network_.image, method.network_.other
    assert image.shared is other[0]
    t = torch.from_numpy((X @ RANDOM.standard_normal((5, 4))).astype(np.float32))
    tokens = type(image.tokens)(np.tile(X, (4, 1)), np.tile(t.numpy(), (4, 1)))
    error = (tokens(torch.from_numpy(X)) - t).square().sum()
    assert error < 0.5 * (t - t.mean(0)).square().sum()


@pytest.mark.parametrize("lost", [False, True])
def test_semantic_vectors_of_rows_are_the_words_of_their_class(lost, tmp_path):
    words = RANDOM.random((3, 7)).astype(np.float32)
    words[1] *= not lost
    method = registry.create("dsh_sketch", bits=4, epochs=1, width=8)
    method.fit(Split(X, Y, other=T, semantics=words))
    for row, c in zip(method.memory_["phi"].numpy(), Y.argmax(1), strict=True):
        length = max(np.sqrt(sum(v**2 for v in words[c])), 1e-12)
        np.testing.assert_allclose(row, words[c] / length, rtol=1e-5)
    assert method.factor().shape == (4, 7)
    method.save(tmp_path / "system.pt")
    loaded = load(tmp_path / "system.pt")
    np.testing.assert_array_equal(loaded.encode_other(T), method.encode_other(T))


def test_class_vectors_without_words_are_means_of_their_rows():
    found = shared.class_semantics(DATA, DATA.other).numpy()
    scaled = (T - T.mean(0)) / T.std(0)
    for c in range(3):
        mean = np.mean([scaled[i] for i in range(9) if Y[i, c]], axis=0)
        np.testing.assert_allclose(found[c], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
