"""DTQ: terms by loops, triplets that are hard, codebook steps that never raise the objective."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import add_words, icm_codes, least_squares_words
from cbir_lite.methods.triplet import dtq
from cbir_lite.methods.triplet.dtq import DTQ, group_hard, redundancy, weakly_orthogonal_words

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return torch.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def test_terms_are_those_of_explicit_triplets_and_rows(monkeypatch):
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = np.eye(3, dtype=np.uint8)[[0, 1, 2, 0, 1, 0, 2, 1, 0]]
    method = DTQ(bits=12, dim=6, epochs=1, width=8, dropout=0.0, lam=0.25, margin=2.0)
    method.fit(Split(x, y))
    C, b = normal(2, 64, 6), torch.from_numpy(RANDOM.integers(0, 64, (9, 2)))
    method.memory_ = {"C": C, "b": b}
    drawn = []
    monkeypatch.setattr(dtq, "group_hard", lambda *a: drawn.append(group_hard(*a)) or drawn[-1])
    method.network_.train()
    rows = torch.tensor([3, 1, 8, 0, 5, 4])
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows))

    z = method.embed(x)[rows.numpy()].astype(np.float64)
    hinges = [
        max(0, 2 + sum((z[i] - z[j]) ** 2) - sum((z[i] - z[k]) ** 2))
        for i, j, k in zip(*(t.tolist() for t in drawn[0]), strict=True)
    ]
    words = C.numpy().astype(np.float64)
    squares = [
        sum((row - words[0, b[i, 0]] - words[1, b[i, 1]]) ** 2)
        for row, i in zip(z, rows.tolist(), strict=True)
    ]
    assert len(hinges) > 5
    assert terms["triplet"].item() == pytest.approx(np.mean(hinges), rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.25 * np.mean(squares), rel=1e-4)


def test_every_pair_with_a_hard_negative_gets_one_of_its_own_and_others_none():
    labels = RANDOM.integers(0, 3, 20)
    z = RANDOM.standard_normal((20, 2)) + 1.5 * np.eye(3)[labels][:, :2]
    d = ((z[:, None] - z[None]) ** 2).sum(2)
    s = torch.from_numpy((labels[:, None] == labels).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, p, n = (t.tolist() for t in group_hard(torch.from_numpy(d), s, 1.0))
        draws = {tuple(group_hard(torch.from_numpy(d), s, 1.0)[2].tolist()) for _ in range(5)}
    hard = {
        (i, j): [k for k in range(20) if labels[k] != labels[i] and d[i, k] < d[i, j] + 1.0]
        for i, j in itertools.permutations(range(20), 2)
        if labels[i] == labels[j]
    }
    assert list(zip(a, p, strict=True)) == [pair for pair, options in hard.items() if options]
    assert len(a) < len(hard)
    assert all(k in hard[i, j] for i, j, k in zip(a, p, n, strict=True))
    assert len(draws) > 1


def test_redundancy_is_the_mean_over_words_of_different_codebooks():
    C = normal(3, 4, 5)
    naive = [
        float(C[m, k] @ C[n, q]) ** 2
        for m, n in itertools.permutations(range(3), 2)
        for k, q in itertools.product(range(4), range(4))
    ]
    assert redundancy(C).item() == pytest.approx(np.mean(naive), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 30.0])
def test_no_step_raises_the_objective(gamma):
    z, C = normal(200, 6), normal(3, 16, 6)
    b = icm_codes(z, C)

    def objective():
        error = (z - add_words(b, C)).double().square().sum(1).mean()
        return float(error + gamma * redundancy(C.double()))

    values = [objective()]
    for _ in range(6):
        C = weakly_orthogonal_words(z, b, C, gamma)
        values.append(objective())
        b = icm_codes(z, C, b)
        values.append(objective())
    assert all(after <= before + 1e-5 for before, after in pairwise(values))
    assert values[-1] < 0.7 * values[0]


def test_penalty_makes_codebooks_less_redundant_than_least_squares():
    z, C = normal(300, 6), normal(2, 16, 6)
    b = icm_codes(z, C)
    free = least_squares_words(z, b, C)
    held = C
    for _ in range(20):
        held = weakly_orthogonal_words(z, b, held, 5.0)
    assert redundancy(held) < 0.5 * redundancy(free)


def test_unused_words_stay_where_nothing_penalises_them():
    z, C = normal(30, 4), normal(2, 5, 4)
    b = torch.from_numpy(RANDOM.integers(0, 4, (30, 2)))
    torch.testing.assert_close(weakly_orthogonal_words(z, b, C, 0.0)[:, 4], C[:, 4])


def test_one_codebook_has_nothing_to_be_orthogonal_to():
    z, C = normal(30, 4), normal(1, 5, 4)
    b = torch.from_numpy(RANDOM.integers(0, 5, (30, 1)))
    updated = weakly_orthogonal_words(z, b, C, 5.0)
    means = torch.stack([z[b[:, 0] == k].mean(0) for k in range(5)])
    torch.testing.assert_close(updated[0], means, atol=1e-4, rtol=1e-4)
    assert redundancy(C) == 0


def test_training_separates_the_triplets_and_codes_keep_the_ranking(lab, digits):
    method = lab.smoke_fit("dtq").method
    assert method.history_[-1]["triplet"] < 0.5 * method.history_[0]["triplet"]
    assert "quantization" not in method.history_[0]
    q, z = (method.outputs(part.pooled) for part in (digits.query, digits.database))
    real = lab.mean_ap(-(q @ z.T).numpy(), lab.relevance())
    assert lab.mean_ap(lab.distances(method), lab.relevance()) > real - 0.03
