"""PTS3H: terms against loops, what the teacher is, and what it teaches."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.teacher_student_semi import PTS3H
from cbir_lite.methods.deep import Batch


def make(rows=9, bits=8, **params):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(3, size=rows)]
    y[rng.random(rows) < 0.4] = 0
    method = PTS3H(bits=bits, width=10, dropout=0.0, **params)
    torch.manual_seed(1)
    method.network_ = method.build(x, 3)
    return method, Batch(torch.from_numpy(x), torch.from_numpy(y), torch.arange(rows)), y


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def test_terms_equal_loops_over_pairs():
    method, batch, y = make(eta=0.3)
    method.lam_ = 0.7
    with torch.no_grad():
        for p in method.network_.teacher.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
        z = method.network_.student(batch.x).double().numpy()
        t = method.network_.teacher(batch.x).double().numpy()
    got = method.loss(batch)
    known = [i for i in range(9) if y[i].any()]
    assert 3 < len(known) < 9
    likelihood, gaps = [], []
    for i in range(9):
        for j in range(9):
            if i == j:
                continue
            theta = 0.5 * float(z[i] @ z[j])
            gaps.append((sigmoid(theta) - sigmoid(0.5 * float(t[i] @ t[j]))) ** 2)
            if i in known and j in known:
                s = bool((y[i] * y[j]).any())
                likelihood.append(math.log1p(math.exp(theta)) - s * theta)
    pull = np.mean([(abs(v) - 1) ** 2 for v in z.ravel()])
    assert got["likelihood"].item() == pytest.approx(np.mean(likelihood), rel=1e-5)
    assert got["consistency"].item() == pytest.approx(0.7 * np.mean(gaps), rel=1e-4)
    assert got["quantization"].item() == pytest.approx(0.3 * pull, rel=1e-5)


def test_a_batch_without_labels_still_follows_the_teacher():
    method, batch, _ = make()
    method.lam_ = 1.0
    with torch.no_grad():
        method.network_.teacher.hash_layer.weight.mul_(2)
    terms = method.loss(Batch(batch.x, torch.zeros_like(batch.y), batch.index))
    assert terms["likelihood"].item() == 0
    terms["consistency"].backward()
    assert method.network_.student.hash_layer.weight.grad.abs().sum() > 0


def test_the_weight_of_consistency_rises_in_the_first_third():
    method, *_ = make(lam=4.0, epochs=30)
    weights = []
    for epoch in range(30):
        method.start_epoch(epoch, None)
        weights.append(method.lam_)
    assert weights[0] == pytest.approx(4 * math.exp(-5))
    assert weights[5] == pytest.approx(4 * math.exp(-1.25))
    assert weights[:11] == sorted(weights[:11])
    assert weights[10:] == [4.0] * 20


def test_the_teacher_is_the_average_of_the_student_over_steps():
    method, batch, _ = make(decay=0.9)
    method.lam_ = 1.0
    net = method.network_
    for t, s in zip(net.teacher.parameters(), net.student.parameters(), strict=True):
        assert torch.equal(t, s)
    method._optimisers = method.optimisers()
    expected = [p.detach().clone().double() for p in net.teacher.parameters()]
    for _ in range(3):
        method.training_step(batch)
        student = [p.detach().double() for p in net.student.parameters()]
        expected = [0.9 * e + 0.1 * s for e, s in zip(expected, student, strict=True)]
    for p, e, s in zip(net.teacher.parameters(), expected, student, strict=True):
        torch.testing.assert_close(p.double(), e, rtol=1e-4, atol=1e-6)
        assert p.grad is None
        assert not torch.equal(p.double(), s)


def test_noise_is_not_the_same_for_student_and_teacher():
    _, batch, _ = make(bits=16)
    noisy = PTS3H(bits=16, width=10, dropout=0.5)
    noisy.network_ = noisy.build(batch.x.numpy(), 3)
    noisy.network_.train()
    noisy.lam_ = 1.0
    assert noisy.loss(batch)["consistency"].item() > 0
    noisy.network_.eval()
    assert noisy.loss(batch)["consistency"].item() == 0


def test_the_student_of_a_teacher_answers_noise_with_the_same_similarities(lab):
    """Unlabelled pairs under two draws of dropout: the pull to the teacher steadies them."""
    digits = lab.load()
    known = np.zeros(500, bool)
    known[:100] = True
    split = Split(digits.train.pooled, digits.train.y, "semi-supervised", labelled=known)
    x = torch.from_numpy(digits.query.pooled)
    gaps = {}
    for lam in (0.0, 10.0):
        method = PTS3H(**{**lab.SMOKE, "epochs": 20, "bits": 16, "lam": lam}).fit(split)
        net = copy.deepcopy(method.network_.student).train()
        torch.manual_seed(0)
        with torch.no_grad():
            a, b = ((0.5 * z @ z.T).sigmoid() for z in (net(x), net(x)))
        gaps[lam] = float((a - b).square().mean())
    assert gaps[10.0] < 0.8 * gaps[0.0]
