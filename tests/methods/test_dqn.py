"""DQN: the two terms, the codebooks it ends with, and the distance against reconstruction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dqn import DQN
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import concatenate_words, nearest_words

RANDOM = np.random.default_rng(0)


def error(z, b, C):
    return float((z - concatenate_words(b, C)).square().sum(1).mean())


def naive_reconstruction(codebooks, words):
    """Rows of words of each codebook, side by side, by loops."""
    return np.array(
        [[v for m, w in enumerate(row) for v in codebooks[m][w].tolist()] for row in words]
    )


def test_terms_are_those_of_explicit_pairs_and_rows():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (9, 4)).astype(np.uint8)
    method = DQN(bits=12, dim=7, epochs=1, width=8, dropout=0.0, lam=0.25).fit(Split(x, y))
    C = torch.from_numpy(RANDOM.standard_normal((2, 64, 3)).astype(np.float32))
    b = torch.from_numpy(RANDOM.integers(0, 64, (9, 2)))
    method.memory_ = {"C": C, "b": b}
    method.network_.train()
    rows = torch.tensor([3, 1, 8, 0, 5])
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows))

    z = method.embed(x)[rows.numpy()].astype(np.float64)
    cosines, squares = [], []
    for i in range(5):
        for j in range(i + 1, 5):
            s = 1 if any(y[rows[i]] & y[rows[j]]) else -1
            cos = sum(z[i] * z[j]) / math.sqrt(sum(z[i] ** 2) * sum(z[j] ** 2))
            cosines.append((s - cos) ** 2)
        c = naive_reconstruction(C.numpy(), b[rows[i : i + 1]].tolist())[0]
        squares.append(sum((z[i] - c) ** 2))
    assert terms["cosine"].item() == pytest.approx(np.mean(cosines), rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.25 * np.mean(squares), rel=1e-4)


@pytest.mark.parametrize("aqd", ["inner", "euclidean"])
@pytest.mark.parametrize("bits", [12, 24])
def test_distance_is_that_to_the_reconstruction(bits, aqd, lab, digits, monkeypatch):
    method = lab.short_fit("dqn", bits)
    monkeypatch.setattr(method, "aqd", aqd)
    z = method.encode_query(digits.query.pooled[:7])
    words = method.encode_database(digits.database.pooled[:40])
    assert words.dtype == np.uint8
    assert words.shape == (40, method.M)
    assert words.max() < 2 ** (bits // method.M)
    naive = np.zeros((7, 40))
    rebuilt = naive_reconstruction(method.codebooks_.astype(np.float64), words.tolist())
    for i, q in enumerate(z.astype(np.float64)):
        for j, r in enumerate(rebuilt):
            naive[i, j] = sum((q - r) ** 2) if aqd == "euclidean" else -sum(q * r)
    np.testing.assert_allclose(method.distance(z, words), naive, rtol=1e-3, atol=1e-3)


def test_bottleneck_is_squashed(lab, digits):
    z = lab.smoke_fit("dqn").method.embed(digits.query.pooled)
    assert np.abs(z).max() <= 1


def test_trained_codebooks_fit_the_final_outputs_better_than_random_rows(lab, digits):
    method = lab.smoke_fit("dqn").method
    z = torch.from_numpy(method.embed(digits.train.pooled))
    C = torch.from_numpy(method.codebooks_)
    first = method.first_words(z)
    assert error(z, nearest_words(z, C), C) < 0.8 * error(z, nearest_words(z, first), first)


def test_no_quantization_in_the_first_epoch(lab):
    history = lab.smoke_fit("dqn").method.history_
    assert "quantization" not in history[0]
    assert all("quantization" in terms for terms in history[1:])


def test_a_held_out_part_gets_codes_of_its_own(lab):
    method = DQN(bits=16, epochs=3, width=16, validation=0.3, patience=9)
    method.fit(lab.make_split(method))
    assert len([terms["validation"] for terms in method.history_]) == 3


def test_binary_codes_and_foreign_shapes_are_refused(lab, digits):
    method = lab.short_fit("dqn")
    with pytest.raises(TypeError, match="no binary codes"):
        method.encode(digits.query.pooled)
    with pytest.raises(ValueError, match=r"\(n, 300\).*\(n, 2\)"):
        method.distance(np.zeros((3, 4), np.float32), np.zeros((5, 2), np.uint8))
    with pytest.raises(ValueError, match="aqd='cosine'"):
        DQN(aqd="cosine")
