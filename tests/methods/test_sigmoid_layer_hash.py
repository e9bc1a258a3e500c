"""Sigmoid-layer hashing: the loss by loops; rounded activations still tell the labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.sigmoid_layer_hash import SigmoidLayerHash
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((7, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[np.arange(7) % 3]
SEVERAL = RANDOM.integers(0, 2, (7, 3)).astype(np.uint8)


@pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])
def test_loss_is_cross_entropy_of_the_sigmoid_layer(y):
    method = SigmoidLayerHash(bits=12, epochs=1, width=8, dropout=0.0).fit(Split(X, y))
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(y).float(), torch.arange(7)))
    W = method.network_.classifier.weight.detach().double().numpy()
    c = method.network_.classifier.bias.detach().double().numpy()
    expected = 0.0
    for z, row in zip(method.embed(X).astype(np.float64), y, strict=True):
        layer = [1 / (1 + math.exp(-v)) for v in z]
        logits = [sum(w * a for w, a in zip(W[k], layer, strict=True)) + c[k] for k in range(3)]
        if y is ONE:
            expected += math.log(sum(map(math.exp, logits))) - logits[row.argmax()]
        else:
            for t, v in zip(row, logits, strict=True):
                expected += math.log(1 + math.exp(-v if t else v)) / 3
    assert list(terms) == ["labels"]
    assert terms["labels"].item() == pytest.approx(expected / 7, rel=1e-4)


def test_rounding_the_layer_keeps_most_of_what_it_knows_of_the_labels(lab, digits):
    method = lab.smoke_fit("sigmoid_layer_hash").method
    x, y = digits.query.pooled, digits.query.y.argmax(1)
    layer = torch.from_numpy(method.embed(x)).sigmoid()
    bits = torch.from_numpy(method.encode(x) > 0).float()
    np.testing.assert_array_equal(bits, layer >= 0.5)
    with torch.no_grad():
        right = [
            (method.network_.classifier(a).argmax(1).numpy() == y).mean() for a in (layer, bits)
        ]
    assert right[0] > 0.85
    assert right[1] > right[0] - 0.1
