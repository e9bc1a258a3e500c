"""BDNN: both objectives and their gradients, the decoder, and the two forms at work."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.methods.shallow import bdnn_194
from cbir_lite.methods.shallow.bdnn_194 import BDNN, WEIGHTS, decoder, forward
from cbir_lite.methods.shallow.sdh_liong import Pairs

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((7, 5))
LAYERS = [
    (RANDOM.standard_normal((b, a)), RANDOM.standard_normal(b)) for a, b in ((5, 4), (4, 4), (4, 3))
]
B = np.sign(RANDOM.standard_normal((7, 3)))
Y = RANDOM.integers(0, 2, (7, 3)).astype(np.uint8)
every_form = pytest.mark.parametrize("form", ["unsupervised", "supervised"])


def pairs_of(form):
    return Pairs(Y) if form == "supervised" else None


@every_form
def test_terms_are_those_of_explicit_rows_and_pairs(form):
    H = forward(X, LAYERS)[-1]
    terms, _ = BDNN(bits=3, variant=form).objective(B, H, LAYERS, pairs_of(form))
    l1, l2, l3, l4 = WEIGHTS[form]
    explicit = []
    for h in X:
        for m, layer in enumerate(LAYERS):
            h = [sum(w * h) + c for w, c in zip(*layer, strict=True)]
            h = np.array(h if m == 2 else [1 / (1 + np.exp(-v)) for v in h])
        explicit.append(h)
    np.testing.assert_allclose(H, explicit)
    expected = {
        "size": l1 / 2 * sum(v * v for W, _ in LAYERS for row in W for v in row),
        "quantization": l2 / 14 * sum((H[i, k] - B[i, k]) ** 2 for i in range(7) for k in range(3)),
        "independence": 0.0,
        "balance": l4 / 14 * sum(sum(H[:, k]) ** 2 for k in range(3)),
    }
    for a in range(3):
        for b in range(3):
            correlation = sum(H[i, a] * H[i, b] for i in range(7)) / 7
            expected["independence"] += l3 / 2 * (correlation - (a == b)) ** 2
    if form == "supervised":
        expected["similarity"] = 0.0
        for i in range(7):
            for j in range(7):
                s = 1 if any(Y[i] & Y[j]) else -1
                expected["similarity"] += (sum(H[i] * H[j]) / 3 - s) ** 2 / 14
    assert terms == pytest.approx(expected)


@every_form
def test_the_gradient_is_that_of_the_objective(form):
    method, pairs = BDNN(bits=3, variant=form), pairs_of(form)
    H = forward(X, LAYERS)
    slope = method.objective(B, H[-1], LAYERS, pairs)[1]
    found = method.gradient(slope, H, LAYERS)
    for m, pair in enumerate(LAYERS):
        for part, values in enumerate(pair):
            for at in np.ndindex(values.shape):
                sides = []
                for step in (1e-5, -1e-5):
                    layers = [tuple(v.copy() for v in p) for p in LAYERS]
                    layers[m][part][at] += step
                    H_there = forward(X, layers)[-1]
                    sides.append(sum(method.objective(B, H_there, layers, pairs)[0].values()))
                expected = (sides[0] - sides[1]) / 2e-5
                assert found[m][part][at] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_decoder_is_a_minimum():
    def cost(W, c):
        value = 0.1 * sum(v * v for row in W for v in row) / 2
        for b, x in zip(B, X, strict=True):
            value += sum((x[k] - sum(b * W[:, k]) - c[k]) ** 2 for k in range(5)) / 14
        return value

    W, c = decoder(B, X, 0.1)
    for _ in range(30):
        away = 0.01 * RANDOM.standard_normal(W.shape), 0.01 * RANDOM.standard_normal(c.shape)
        assert cost(W, c) < cost(W + away[0], c + away[1])


def test_widths_are_those_of_the_authors_code():
    found = [bdnn_194.widths(500, bits) for bits in (16, 24, 32)]
    assert found == [(90, 30, 16), (100, 40, 24), (120, 50, 32)]
    assert bdnn_194.widths(20, 64) == (20, 20, 64)


def rebuilt(method, x):
    """Share of the variance of ``x`` that a linear decoder gets back from its codes."""
    codes = method.encode(x).astype(float)
    W, c = decoder(codes, x, 1e-6)
    return 1 - np.square(x - codes @ W - c).sum() / np.square(x - x.mean(0)).sum()


def test_codes_come_to_agree_with_the_network_and_rebuild_the_features(lab, digits):
    method = lab.smoke_fit("bdnn_194").method
    history = [terms["quantization"] for terms in method.history_]
    assert history[-1] < 0.6 * history[0]
    split = lab.make_split(method)
    lsh = lab.create("lsh", {}, bits=32).fit(split)
    x = digits.train.pooled
    assert rebuilt(method, x) > rebuilt(lsh, x) + 0.1


def test_labels_shape_the_codes(lab):
    supervised = lab.smoke_fit("bdnn_194/supervised").method
    history = [terms["similarity"] for terms in supervised.history_]
    assert history[-1] < history[1] < history[0]
    maps = [
        lab.mean_ap(lab.distances(m), lab.relevance())
        for m in (supervised, lab.smoke_fit("bdnn_194").method)
    ]
    assert maps[0] > maps[1] + 0.1


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant='half'"):
        BDNN(variant="half")
