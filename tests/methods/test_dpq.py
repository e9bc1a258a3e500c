"""DPQ: five terms by loops, the straight-through gradient, soft near hard, words in use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dpq import DPQ
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((7, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (7, 4)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    options = {"dim": 7, "parts": 12, "width": 16, "dropout": 0.0, "lam": 0.3, "gamma": 0.7}
    method = DPQ(bits=12, epochs=1, **options).fit(Split(x, y))
    with torch.no_grad():
        method.network_.O.copy_(torch.from_numpy(RANDOM.standard_normal((4, 6))))
    return method, x, y


def naive_probabilities(method, x):
    """p (n, M, K) in float64 from the parameters, row by row."""
    net = {
        k: v.detach().numpy().astype(np.float64) for k, v in method.network_.state_dict().items()
    }
    standard, _, hidden, *_ = method.network_.assignment.trunk
    rows = []
    for row in standard(torch.from_numpy(x)).numpy().astype(np.float64):
        W, bias = (p.detach().numpy() for p in hidden.parameters())
        h = np.maximum(0, W @ row + bias)
        parts = net["assignment.parts.0.weight"] @ h + net["assignment.parts.0.bias"]
        parts = np.maximum(0, parts).reshape(2, 12)
        p = []
        for m in range(2):
            logits = parts[m] @ net["assignment.weight"][m] + net["assignment.bias"][m, 0]
            e = np.exp(logits - logits.max())
            p.append(e / e.sum())
        rows.append(p)
    return np.array(rows)


def test_terms_are_those_of_explicit_rows(small):
    method, x, y = small
    rows = torch.tensor([3, 1, 6, 0, 5])
    method.network_.train()
    order = Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows)
    terms = {k: v.item() for k, v in method.loss(order).items()}
    method.network_.eval()

    p = naive_probabilities(method, x)[rows.numpy()]
    C, O, W, bias = (
        t.detach().numpy().astype(np.float64)
        for t in (method.network_.C, method.network_.O, *method.network_.classifier.parameters())
    )
    entropy = {"soft": [], "hard": []}
    central = []
    for i, labels in zip(range(5), y[rows.numpy()], strict=True):
        chosen = [int(np.argmax(p[i, m])) for m in range(2)]
        both = {
            "soft": np.concatenate([sum(p[i, m, k] * C[m, k] for k in range(64)) for m in (0, 1)]),
            "hard": np.concatenate([C[m, chosen[m]] for m in (0, 1)]),
        }
        centre = sum(O[c] for c in range(4) if labels[c]) / sum(labels)
        for name, r in both.items():
            logits = W @ r + bias
            log_sum = math.log(sum(math.exp(t) for t in logits))
            own = [log_sum - logits[c] for c in range(4) if labels[c]]
            entropy[name].append(sum(own) / len(own))
        central.append(sum(0.5 * 0.3 * sum((r - centre) ** 2) for r in both.values()))
    assert terms["soft"] == pytest.approx(np.mean(entropy["soft"]), rel=1e-4)
    assert terms["hard"] == pytest.approx(np.mean(entropy["hard"]), rel=1e-4)
    assert terms["central"] == pytest.approx(np.mean(central), rel=1e-4)
    batch = sum(np.mean([p[i, m, k] for i in range(5)]) ** 2 for m in (0, 1) for k in range(64))
    sample = np.mean([sum(v**2 for m in (0, 1) for v in p[i, m]) for i in range(5)])
    assert terms["gini_batch"] == pytest.approx(0.7 * batch, rel=1e-4)
    assert terms["gini_sample"] == pytest.approx(-0.7 * sample, rel=1e-4)


def test_hard_term_reaches_the_assignment_straight_through(small):
    method, x, y = small
    method.network_.train()
    index = torch.arange(7)
    method.network_.zero_grad()
    method.loss(Batch(torch.from_numpy(x), torch.from_numpy(y).float(), index))["hard"].backward()
    assert method.network_.assignment.weight.grad.abs().sum() > 0
    unused = torch.ones(2, 64, dtype=torch.bool)
    words = method.encode_database(x)
    for m in range(2):
        unused[m, words[:, m].tolist()] = False
    # The words that the hard representation did not take receive nothing from it.
    assert method.network_.C.grad[unused].abs().sum() == 0
    assert method.network_.C.grad[~unused].abs().sum() > 0
    method.network_.eval()


def test_soft_and_hard_become_alike(lab, digits):
    method = lab.smoke_fit("dpq").method
    soft = method.encode_query(digits.database.pooled)
    hard = method.reconstruct(method.encode_database(digits.database.pooled))
    gap = np.square(soft - hard).sum(1).mean()
    assert gap < 0.3 * np.square(hard - hard.mean(0)).sum(1).mean()


def test_images_are_sure_of_their_words_and_each_codebook_uses_several(lab, digits):
    method = lab.smoke_fit("dpq").method
    logits = method._in_blocks(method.network_.assignment, digits.database.pooled)
    assert logits.softmax(2).max(2).values.mean() > 0.7
    words = method.encode_database(digits.database.pooled)
    for m in range(method.M):
        assert len(np.unique(words[:, m])) >= 5


def test_distance_is_that_between_soft_and_hard(lab, digits):
    method = lab.short_fit("dpq")
    q = method.encode_query(digits.query.pooled[:5]).astype(np.float64)
    words = method.encode_database(digits.database.pooled[:8])
    C = method.network_.C.detach().numpy().astype(np.float64)
    for i in range(5):
        for j, (u, v) in enumerate(words):
            naive = sum((q[i] - np.concatenate([C[0, u], C[1, v]])) ** 2)
            assert method.distance(q, words)[i, j] == pytest.approx(naive, rel=1e-3, abs=1e-3)
