"""SSDH (semi-supervised): its four terms against loops, and what unlabelled images are good for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.ssdh_semi import SSDHSemi
from cbir_lite.methods.deep import Batch


class Given(torch.nn.Module):
    """Networks that return the outputs and the scores they were given."""

    def __init__(self, z, scores):
        super().__init__()
        self.z = torch.nn.Parameter(torch.as_tensor(z, dtype=torch.float32))
        self.scores = torch.nn.Parameter(torch.as_tensor(scores, dtype=torch.float32))

    def both(self, x):
        return self.z, self.scores


def make(rows, bits, seed, classes=4, hidden=0.5):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rows, bits)).astype(np.float32)
    scores = rng.standard_normal((rows, classes)).astype(np.float32)
    y = (rng.random((rows, classes)) < 0.2).astype(np.float32)
    y[np.arange(rows), rng.integers(classes, size=rows)] = 1
    y[rng.random(rows) < hidden] = 0
    method = SSDHSemi(bits=bits, lam=0.3)
    method.network_ = Given(z, scores)
    return method, z, scores, y


def got(method, y):
    rows = len(y)
    return method.loss(Batch(torch.zeros(rows, 1), torch.from_numpy(y), torch.arange(rows)))


def distances(z):
    h = 1 / (1 + np.exp(-z.astype(np.float64)))
    return [[sum((a - b) ** 2) for b in h] for a in h]


def share(a, b):
    return any(u and v for u, v in zip(a, b, strict=True))


def test_ranking_equals_a_loop_over_triplets_of_labelled_rows():
    method, z, _, y = make(20, 8, 1, classes=6)
    d2 = distances(z)
    known = [i for i in range(20) if y[i].any()]
    hinges = [
        max(0.0, 1 + d2[a][p] - d2[a][n])
        for a in known for p in known for n in known
        if a != p and share(y[a], y[p]) and not share(y[a], y[n]) and not share(y[p], y[n])
    ]  # fmt: skip
    assert len(hinges) > 4
    assert len(known) < 20
    term = got(method, y)["ranking"].item()
    assert term == pytest.approx(0.5 * sum(hinges) / len(hinges), rel=1e-5)


def test_graph_equals_a_loop_over_near_and_far_places():
    method, z, _, y = make(32, 16, 2)
    d2 = distances(z)
    total = 0.0
    for i in range(32):
        order = sorted(range(32), key=lambda j: d2[i][j])
        assert order[0] == i
        total += sum(d2[i][j] for j in order[:2]) / 2
        # Places 114 to 124 of 128 are 28.5 to 31 of 32.
        far = order[28:31]
        total += sum(max(0.0, 3 - math.sqrt(d2[i][j])) ** 2 for j in far) / len(far)
    assert got(method, y)["graph"].item() == pytest.approx(0.15 * total / 32, rel=1e-5)


def test_pseudo_labels_equal_a_loop_over_the_pairs_they_make():
    method, z, scores, y = make(20, 8, 3)
    d2 = distances(z)
    likely = [max(range(4), key=lambda c: s[c]) for s in scores]
    unlikely = [min(range(4), key=lambda c: s[c]) for s in scores]
    losses = []
    for i in range(20):
        if y[i].any():
            continue
        positive, negative = [], []
        for j in range(20):
            if y[j].any():
                true, false = y[j][likely[i]], y[j][unlikely[i]]
                if true and not false:
                    positive.append(d2[i][j])
                if false and not true:
                    negative.append(max(0.0, 2.5 - math.sqrt(d2[i][j])) ** 2)
            elif likely[j] == likely[i]:
                positive.append(d2[i][j])
            elif likely[j] == unlikely[i]:
                negative.append(max(0.0, 2.5 - math.sqrt(d2[i][j])) ** 2)
        if positive and negative:
            losses.append(np.mean(positive) + np.mean(negative))
    assert len(losses) > 2
    assert got(method, y)["pseudo labels"].item() == pytest.approx(0.15 * np.mean(losses), rel=1e-5)


def test_classification_equals_a_loop_over_labelled_rows():
    method, _, scores, y = make(9, 8, 4)
    values = []
    for s, labels in zip(scores, y, strict=True):
        if labels.any():
            p = [1 / (1 + math.exp(-float(v))) for v in s]
            values.append(-sum(math.log(q if t else 1 - q) for q, t in zip(p, labels, strict=True)))
    assert 0 < len(values) < 9
    assert got(method, y)["classification"].item() == pytest.approx(np.mean(values), rel=1e-5)


def test_batches_without_labels_or_without_pairs_stay_finite():
    method, *_, y = make(6, 8, 5, hidden=1.0)
    terms = got(method, y)
    assert terms["ranking"].item() == 0
    assert terms["classification"].item() == 0
    sum(terms.values()).backward()
    assert torch.isfinite(method.network_.z.grad).all()
    method, *_, y = make(2, 8, 6, hidden=0.0)
    assert np.isfinite(sum(v.item() for v in got(method, y).values()))


def test_pseudo_labels_teach_the_codes_but_not_the_classifier():
    method, *_, y = make(16, 8, 7)
    terms = got(method, y)
    (terms["graph"] + terms["pseudo labels"]).backward()
    assert method.network_.z.grad.abs().sum() > 0
    assert method.network_.scores.grad is None


def test_the_graph_gathers_images_whose_labels_are_hidden(lab):
    """Near ones come nearer, beside far ones, than where only the labelled rows teach."""
    digits = lab.load()
    known = np.zeros(500, bool)
    known[:60] = True
    split = Split(digits.train.pooled, digits.train.y, "semi-supervised", labelled=known)
    shares = {}
    for lam in (0.0, 0.1):
        method = SSDHSemi(**{**lab.SMOKE, "epochs": 15, "bits": 16, "lam": lam}).fit(split)
        h = torch.sigmoid(torch.from_numpy(method.embed(digits.query.pooled)))
        d = torch.cdist(h, h).sort(1).values
        shares[lam] = float(d[:, 1:9].mean() / d[:, -20:].mean())
    assert shares[0.1] < 0.9 * shares[0.0]
