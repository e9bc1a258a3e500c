"""GreedyHash: gradients through the sign, both tasks by a second calculation, the optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import LabelsHidden, Split
from cbir_lite.methods import registry
from cbir_lite.methods.cnn.greedyhash import GreedyHash, straight_through
from cbir_lite.methods.deep import Batch

X = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
ONE = np.eye(3, dtype=np.uint8)[[0, 1, 2, 2, 1, 0, 0]]
SEVERAL = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]])


def fitted(y=None, variant="supervised"):
    supervision = "supervised" if y is not None else "unsupervised"
    method = GreedyHash(bits=12, epochs=2, width=8, variant=variant, alpha=0.3)
    return method.fit(Split(X, y, supervision))


def batch(y=None):
    y = None if y is None else torch.from_numpy(np.array(y, np.float32))
    return Batch(torch.from_numpy(X), y, torch.arange(len(X)))


def cubic(h):
    return 0.3 * np.mean([abs(v - (1 if v >= 0 else -1)) ** 3 for v in h.ravel().tolist()])


def test_forward_is_the_sign_and_backward_is_the_identity():
    h = torch.tensor([[-0.3, 0.0, 2.5, -7.0]], requires_grad=True)
    b = straight_through(h)
    assert b.tolist() == [[-1, 1, 1, -1]]
    gradient = torch.tensor([[0.5, -2.0, 3.0, 11.0]])
    b.backward(gradient)
    assert torch.equal(h.grad, gradient)


@pytest.mark.parametrize("y", [ONE, SEVERAL], ids=["one label", "several labels"])
def test_supervised_terms_are_those_of_explicit_codes(y):
    method = fitted(y)
    h = method.embed(X).astype(np.float64)
    W = method.network_.classifier.weight.detach().double().numpy()
    losses = []
    for code, labels in zip(np.where(h >= 0, 1, -1), y, strict=True):
        logits = [float(w @ code) for w in W]
        if y is ONE:
            total = sum(math.exp(v) for v in logits)
            losses.append(-math.log(math.exp(logits[labels.argmax()]) / total))
        else:
            for v, positive in zip(logits, labels, strict=True):
                p = 1 / (1 + math.exp(-v))
                losses.append(-math.log(p if positive else 1 - p))
    terms = method.loss(batch(y))
    assert terms["cross_entropy"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert terms["cubic"].item() == pytest.approx(cubic(h), rel=1e-5)


def test_a_batch_of_one_label_rows_is_still_scored_as_the_set_is():
    method = fitted(SEVERAL)
    rows = torch.tensor([1, 2, 5])
    part = Batch(torch.from_numpy(X)[rows], torch.from_numpy(SEVERAL)[rows].float(), rows)
    logits = method.network_.classifier(straight_through(method.network_(part.x)))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, part.labels)
    assert torch.allclose(method.loss(part)["cross_entropy"], expected)


def test_unsupervised_terms_are_those_of_explicit_pairs():
    method = fitted(variant="unsupervised")
    h = method.embed(X).astype(np.float64)
    codes, x = np.where(h >= 0, 1.0, -1.0), X.astype(np.float64) - X.mean(0, dtype=np.float64)

    def cosine(a, b):
        return sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))

    pairs = [
        (cosine(codes[i], codes[j]) - cosine(x[i], x[j])) ** 2
        for i in range(len(x))
        for j in range(i + 1, len(x))
    ]
    terms = method.loss(batch())
    assert terms["cosine"].item() == pytest.approx(np.mean(pairs), rel=1e-4)
    assert terms["cubic"].item() == pytest.approx(cubic(h), rel=1e-5)


def test_optimiser_holds_the_classifier_and_moves_it(lab):
    method = GreedyHash(bits=16, epochs=1, width=16)
    starts = []

    class Watched(GreedyHash):
        def optimisers(self):
            starts.append(self.network_.classifier.weight.detach().clone())
            return super().optimisers()

    watched = Watched(**method.params).fit(lab.make_split(method))
    assert starts[0].shape == (10, 16)
    assert (watched.network_.classifier.weight - starts[0]).abs().min() > 0


def test_unsupervised_variant_hides_labels_and_has_no_classifier(lab):
    method = registry.create("greedyhash/unsupervised", bits=16, epochs=1, width=16)
    assert method.sees == "unsupervised"
    split = lab.make_split(method)
    with pytest.raises(LabelsHidden):
        split.labels  # noqa: B018
    assert not hasattr(method.fit(split).network_, "classifier")


def test_classification_learns_codes_that_classify(lab, digits):
    method = lab.smoke_fit("greedyhash").method
    codes = torch.from_numpy(method.encode(digits.query.pooled)).float()
    with torch.no_grad():
        guess = method.network_.classifier(codes).argmax(1).numpy()
    assert (guess == digits.query.y.argmax(1)).mean() > 0.8


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant='semi'"):
        GreedyHash(variant="semi")
