"""SSDH (Yang): the three terms, and what each does to the latent units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.ssdh_yang import SSDH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[RANDOM.integers(0, 3, 8)]
MANY = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
MANY[0] = 1


@pytest.mark.parametrize("y", [ONE, MANY], ids=["one_label", "many_labels"])
def test_terms_are_those_of_explicit_rows(y):
    method = SSDH(bits=12, epochs=1, width=8, dropout=0.0, alpha=0.7, beta=3.0, gamma=5.0)
    method.fit(Split(X, y))
    terms = method.loss(
        Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(len(X)))
    )
    W = method.network_.classifier.weight.detach().double().numpy()
    c = method.network_.classifier.bias.detach().double().numpy()
    classification = binary = half_on = 0.0
    for z, labels in zip(method.embed(X).astype(np.float64), y, strict=True):
        a = [1 / (1 + math.exp(-v)) for v in z]
        scores = [sum(w * v for w, v in zip(row, a, strict=True)) for row in W] + c
        if y is ONE:
            total = sum(math.exp(s) for s in scores)
            classification -= math.log(math.exp(scores[labels.argmax()]) / total)
        else:
            for s, t in zip(scores, labels, strict=True):
                p = 1 / (1 + math.exp(-s))
                classification -= math.log(p if t else 1 - p) / 3
        binary -= sum((v - 0.5) ** 2 for v in a) / 12
        half_on += (sum(a) / 12 - 0.5) ** 2
    assert terms["classification"].item() == pytest.approx(0.7 * classification / 8, rel=1e-4)
    assert terms["binary"].item() == pytest.approx(3 * binary / 2 / 8, rel=1e-4)
    assert terms["half_on"].item() == pytest.approx(5 * half_on / 2 / 8, rel=1e-4)


def trained(lab, **weights):
    method = lab.create("ssdh_yang", {**lab.SMOKE, "epochs": 12}, bits=32, **weights)
    method.fit(lab.make_split(method))
    return 1 / (1 + np.exp(-method.embed(lab.load().query.pooled)))


def test_each_term_has_its_own_effect_on_the_latent_units(lab):
    plain, binary, half_on = (
        trained(lab, beta=b, gamma=g) for b, g in ((0.0, 0.0), (20.0, 0.0), (0.0, 500.0))
    )

    def from_half(a):
        return np.abs(a - 0.5).mean()

    def rate_error(a):
        return np.abs(a.mean(1) - 0.5).mean()

    assert from_half(binary) > from_half(plain) + 0.05
    assert rate_error(half_on) < 0.5 * rate_error(plain)


def test_labels_can_be_read_off_the_codes(lab, digits):
    method = lab.smoke_fit("ssdh_yang").method
    bits = (method.encode(digits.query.pooled) + 1.0) / 2
    scores = bits @ method.network_.classifier.weight.detach().numpy().T
    scores = scores + method.network_.classifier.bias.detach().numpy()
    assert (scores.argmax(1) == digits.query.y.argmax(1)).mean() > 0.85
