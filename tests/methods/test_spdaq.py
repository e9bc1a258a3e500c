"""SPDAQ: sums over all pairs, code steps that never raise them, and the two sides."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.spdaq import SPDAQ, ideal_vectors
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.quantizers import add_words

RANDOM = np.random.default_rng(0)


def split(n=14, n_classes=4):
    x = RANDOM.standard_normal((n, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (n, n_classes)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    return Split(x, y, database=Split(x, y))


def similarity(a, b):
    return 1 if any(a & b) else -1


def ready(data, **options):
    """A system at the start of its second epoch, with its data."""
    method = SPDAQ(bits=12, dim=6, epochs=1, width=8, dropout=0.0, **options).fit(data)
    rows = TrainingData(
        torch.from_numpy(data.x.copy()), torch.from_numpy(data.labels.astype(np.float32))
    )
    method.start_fit(rows)
    method.start_epoch(1, rows)
    return method, rows


def test_terms_are_those_of_explicit_pairs_and_rows():
    data = split()
    method, rows = ready(data, lam=0.25, sample=9)
    index = method.memory_["omega"][:6]
    method.network_.train()
    terms = method.loss(rows.batch(index))
    method.network_.eval()

    y, u = data.labels, method.embed(data.x).astype(np.float64)
    C = method.memory_["C"].numpy().astype(np.float64)
    b = method.memory_["b"].numpy()[method.memory_["kind"].numpy()]
    W = [p.detach().numpy().astype(np.float64) for p in method.network_.classifier.parameters()]
    errors, entropies = [], []
    for i in index.tolist():
        for j in range(len(y)):
            v = C[0, b[j, 0]] + C[1, b[j, 1]]
            errors.append((sum(u[i] * v) - similarity(y[i], y[j])) ** 2)
        logits = W[0] @ u[i] + W[1]
        log_sum = math.log(sum(math.exp(t) for t in logits))
        entropies.append(sum(log_sum - logits[c] for c in range(4) if y[i, c]) / sum(y[i]))
    assert terms["similarity"].item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert terms["classification"].item() == pytest.approx(0.25 * np.mean(entropies), rel=1e-4)


def test_ideal_vectors_and_their_metric_are_those_of_the_sum_of_squares():
    U = torch.from_numpy(RANDOM.standard_normal((30, 4)))
    S = torch.from_numpy(RANDOM.choice([-1.0, 1.0], (30, 3)))
    ideal, root = ideal_vectors(U, S, 0.1)

    def objective(v, k):
        squares = [float(U[i] @ v - S[i, k]) ** 2 for i in range(30)]
        return np.mean(squares) + 0.1 * float(v @ v)

    for k in range(3):
        best = objective(ideal[k].double(), k)
        for _ in range(5):
            v = ideal[k].double() + torch.from_numpy(RANDOM.standard_normal(4))
            gap = float((((v - ideal[k]) @ root.double()) ** 2).sum())
            assert objective(v, k) - best == pytest.approx(gap, rel=1e-3)


def test_updates_of_codes_and_codebooks_never_raise_the_objective():
    data = split(400, 7)
    method, _ = ready(data, sample=200, iterations=0)
    omega, kind = method.memory_["omega"], method.memory_["kind"]
    U = method.outputs(data.x[omega.numpy()])
    S = method.memory_["S"][kind[omega]][:, kind]
    # Few words, so that codes cannot be exact.
    method.memory_["C"] = method.memory_["C"][:, :4].clone()

    def objective():
        v = add_words(method.memory_["b"], method.memory_["C"])[kind]
        error = (U.double() @ v.double().T - S).square().mean()
        return float(error + method.ridge * v.double().square().sum(1).mean())

    values = []
    for iterations in range(5):
        start = method.memory_["C"]
        method.iterations = iterations
        method._quantize(U, omega)
        values.append(objective())
        method.memory_["C"] = start
    for before, after in itertools.pairwise(values):
        assert after <= before + 1e-6
    assert values[-1] < values[0]


def test_queries_come_to_reproduce_the_similarities_of_the_database(lab, digits):
    method = lab.smoke_fit("spdaq").method
    s = 2.0 * lab.relevance() - 1
    queries, words = lab.sides(method)
    products = -method.distance(queries, words)
    assert np.square(products - s).mean() < 0.5 * np.square(s - s.mean()).mean()
    naive = (
        queries[:3].astype(np.float64)
        @ add_words(
            torch.from_numpy(words[:9].astype(np.int64)), torch.from_numpy(method.codebooks_)
        )
        .numpy()
        .astype(np.float64)
        .T
    )
    np.testing.assert_allclose(products[:3, :9], naive, rtol=1e-3, atol=1e-3)


def test_rows_of_one_label_set_share_a_code_and_others_do_not(lab, digits):
    words = lab.smoke_fit("spdaq").method.codes_
    labels = digits.database.y.argmax(1)
    assert len({(c, *w) for c, w in zip(labels, words.tolist(), strict=True)}) == 10
    assert len(np.unique(words, axis=0)) == 10


def test_other_databases_and_missing_ones_are_refused(lab, digits):
    method = lab.short_fit("spdaq")
    x = digits.database.pooled
    for other in (x[:50], x[::-1].copy()):
        with pytest.raises(ValueError, match="database of 600 rows"):
            method.encode_database(other)
    with pytest.raises(ValueError, match="database="):
        SPDAQ().fit(Split(x, digits.database.y))
    with pytest.raises(ValueError, match="validation_split"):
        SPDAQ(validation=0.1)
    with pytest.raises(TypeError, match="cannot encode other rows"):
        method.find_words(torch.zeros(2, 64))


def test_batches_are_those_of_omega():
    method, rows = ready(split(40), sample=9, batch_size=4)
    batches = list(method._batches(rows, 1))
    assert all(isinstance(batch, Batch) for batch in batches)
    seen = sorted(i for batch in batches for i in batch.index.tolist())
    assert seen == sorted(method.memory_["omega"].tolist())
    assert len(seen) == 9
