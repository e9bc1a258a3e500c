"""DTH: every term of both phases against explicit sums; who learns when; what is transferred."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dth import DTH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[np.arange(8) % 3]
SEVERAL = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
BOTH = pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])


def fitted(y, epochs=2, **params):
    method = DTH(bits=12, epochs=epochs, width=8, dropout=0.0, **params).fit(Split(X, y))
    return method, Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(8))


def outputs(method, who):
    with torch.no_grad():
        z, logits = getattr(method.network_, f"{who}_outputs")(torch.from_numpy(X))
    return z.double().numpy(), logits.double().numpy()


def probabilities(logits, y):
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True) if y is ONE else e / (1 + e)


def classification(logits, y):
    p, value = probabilities(logits, y), 0.0
    for i in range(8):
        if y is ONE:
            value -= math.log(p[i, y[i].argmax()])
        else:
            value -= sum(math.log(p[i, c] if y[i, c] else 1 - p[i, c]) for c in range(3)) / 3
    return value / 8


@BOTH
def test_terms_of_the_teacher(y):
    method, batch = fitted(y, lam=0.7)
    terms = method.teacher_loss(batch)
    z, logits = outputs(method, "teacher")
    quantization = sum((abs(math.tanh(v)) - 1) ** 2 for v in z.ravel())
    assert terms["teacher_classification"].item() == pytest.approx(
        classification(logits, y), rel=1e-4
    )
    assert terms["teacher_quantization"].item() == pytest.approx(0.7 * quantization / 96, rel=1e-4)


@BOTH
def test_terms_of_the_student(y):
    method, batch = fitted(y, alpha=0.3, beta=0.6)
    terms = method.student_loss(batch)
    z, logits = outputs(method, "student")
    z_teacher, known = outputs(method, "teacher")
    h, p = np.tanh(z), probabilities(known, y)
    similarity = transfer = 0.0
    for i in range(8):
        for j in range(i + 1, 8):
            s = p[i] @ p[j] / math.sqrt((p[i] @ p[i]) * (p[j] @ p[j]))
            theta = h[i] @ h[j] / 2
            similarity += math.log(1 + math.exp(theta)) - s * theta
        for k in range(12):
            a, b = (1 + h[i, k]) / 2, (1 + math.tanh(z_teacher[i, k])) / 2
            transfer += b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a))
    assert terms["classification"].item() == pytest.approx(classification(logits, y), rel=1e-4)
    assert terms["similarity"].item() == pytest.approx(0.3 * similarity / 28, rel=1e-4)
    assert terms["transfer"].item() == pytest.approx(0.6 * transfer / 8, rel=1e-4)


def test_each_phase_moves_one_network_only():
    method, batch = fitted(ONE)
    method._optimisers = method.optimisers()
    for teacher_learns in (True, False):
        before = {k: v.clone() for k, v in method.network_.state_dict().items()}
        method.memory_["teacher_learns"] = torch.tensor(teacher_learns)
        method.training_step(batch)
        for k, v in method.network_.state_dict().items():
            learns = k.startswith("teacher") == teacher_learns and "standardise" not in k
            if not k.endswith((".mean", ".scale")):
                assert torch.equal(v, before[k]) != learns, k


def test_the_teacher_has_a_third_of_the_epochs_and_both_rates_start_high():
    method, _ = fitted(ONE, epochs=9)
    logged = ["teacher_classification" in h for h in method.history_]
    assert logged == [True] * 3 + [False] * 6
    method._optimisers, rates = method.optimisers(), []
    for epoch in range(9):
        method._anneal(epoch)
        rates.append(method._optimisers[0].param_groups[0]["lr"])
    assert rates[0] == rates[3] == max(rates) == method.lr
    assert rates[2] < rates[1] < rates[0]
    assert rates[8] < rates[4]


def test_student_bits_agree_with_those_of_the_teacher(lab, digits):
    method = lab.smoke_fit("dth").method
    with torch.no_grad():
        z, _ = method.network_.teacher_outputs(torch.from_numpy(digits.query.pooled))
    same = (np.where(z.numpy() >= 0, 1, -1) == method.encode(digits.query.pooled)).mean()
    assert same > 0.85
