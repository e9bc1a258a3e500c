"""Angular hashing: the margin loss and the distances of classes, term by term and in effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.angular_hash import AngularHash, distances
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 8)]
MANY = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
MANY[2], MANY[3] = 0, 1


@pytest.mark.parametrize("y", [ONE, MANY], ids=["one_label", "many_labels"])
def test_terms_are_those_of_explicit_classes(y):
    method = AngularHash(
        bits=12, epochs=1, width=8, dropout=0.0, s=4.0, m=0.3, alpha=0.7, beta=2.0
    ).fit(Split(X, y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(8)))
    w = method.network_.directions.detach().double().numpy()
    w = [row / math.sqrt(sum(row**2)) for row in w]
    margin = 0.0
    for z, labels in zip(method.embed(X).astype(np.float64), y, strict=True):
        cosine = [sum(z * c) / math.sqrt(sum(z**2)) for c in w]
        rivals = sum(math.exp(4 * c) for c, own in zip(cosine, labels, strict=True) if not own)
        for c, own in zip(cosine, labels, strict=True):
            if own:
                e = math.exp(4 * (c - 0.3))
                margin -= math.log(e / (e + rivals)) / labels.sum()
    D = []
    for c in range(3):
        for d in range(c + 1, 3):
            product = sum(
                math.tanh(math.sqrt(12) * a) * math.tanh(math.sqrt(12) * b)
                for a, b in zip(w[c], w[d], strict=True)
            )
            D.append((12 - product) / 2)
    mean = sum(D) / 3
    assert terms["margin"].item() == pytest.approx(margin / 8, rel=1e-4)
    assert terms["distance"].item() == pytest.approx(-0.7 * mean, rel=1e-4)
    assert terms["variance"].item() == pytest.approx(
        2 * sum((v - mean) ** 2 for v in D) / 3, rel=1e-4
    )


def fitted(lab, **params):
    method = lab.create("angular_hash", lab.SMOKE, bits=32, **params)
    return method.fit(lab.make_split(method))


def test_class_directions_lie_evenly_apart(lab):
    def spread(method):
        w = method.network_.directions.detach()
        w = w / w.norm(dim=1, keepdim=True)
        return distances(torch.tanh(32**0.5 * w)).std().item()

    assert spread(fitted(lab)) < 0.85 * spread(fitted(lab, alpha=0.0, beta=0.0))


def test_distances_of_codes_are_hamming_distances():
    codes = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, 1], [-1, 1, -1, -1]])
    assert distances(codes).tolist() == [1, 3, 4]


def test_the_margin_brings_outputs_closer_to_their_class(lab, digits):
    def cosine(method):
        z = method.embed(digits.query.pooled)
        w = method.network_.directions.detach().numpy()[digits.query.y.argmax(1)]
        return ((z * w).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(w, axis=1)).mean()

    assert cosine(fitted(lab, m=0.5)) > cosine(fitted(lab, m=0.0)) + 0.05
