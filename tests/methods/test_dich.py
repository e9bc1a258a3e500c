"""DICH: all terms against explicit pairs and blocks; the index term spares substrings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dich import DICH
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
Y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)


def test_terms_are_those_of_explicit_pairs_and_blocks():
    method = DICH(bits=12, epochs=1, width=8, dropout=0.0, alpha=0.2, beta=0.6).fit(Split(X, Y))
    with torch.no_grad():
        method.network_.hash_layer.weight.mul_(4)
    terms = method.loss(Batch(torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8)))

    z = method.embed(X).astype(np.float64)
    contrast = codes = index = 0.0
    met = dissimilar = 0
    for i in range(8):
        codes += sum(abs(abs(v) - 1) for v in z[i])
        for j in range(i + 1, 8):
            d = sum((z[i] - z[j]) ** 2)
            if any(Y[i] & Y[j]):
                contrast += d / 2
                continue
            contrast += max(24 - d, 0) / 2
            dissimilar += 1
            for r in range(0, 12, 2):
                gap = 4 - (z[i, r] - z[j, r]) ** 2 - (z[i, r + 1] - z[j, r + 1]) ** 2
                met += gap <= 0
                index += max(gap, 0) / 2
    assert 0 < met < 6 * dissimilar
    assert terms["contrast"].item() == pytest.approx(contrast / 56, rel=1e-4)
    assert terms["codes"].item() == pytest.approx(0.2 * codes / 8, rel=1e-4)
    assert terms["index"].item() == pytest.approx(0.6 * index / dissimilar, rel=1e-4)


def test_index_term_vanishes_exactly_when_every_block_differs():
    method = DICH(bits=4, epochs=1, width=8, dropout=0.0).fit(Split(X, Y))
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for second, expected in (
        ([-1.0, 1.0, 1.0, -1.0], 0.0),
        ([-1.0, -1.0, -1.0, 1.0], 0.0),
        ([1.0, 1.0, -1.0, -1.0], 0.1 * 4 / 2),
    ):
        codes = torch.tensor([[1.0, 1.0, 1.0, 1.0], second])
        method.network_ = lambda x, codes=codes: codes
        terms = method.loss(Batch(torch.zeros(2, 5), y, torch.arange(2)))
        assert terms["index"].item() == pytest.approx(expected)


def test_codes_of_different_digits_share_fewer_blocks_with_the_index_term(lab, digits):
    def shared(beta, seed):
        method = lab.create("dich", lab.SMOKE, bits=32, beta=beta, seed=seed)
        codes = method.fit(lab.make_split(method)).encode(digits.query.pooled)
        blocks = codes.reshape(len(codes), 16, 2)
        equal = (blocks[:, None] == blocks[None]).all(-1).mean(-1)
        return equal[digits.query.y @ digits.query.y.T == 0].mean()

    ratios = [shared(3.0, seed) / shared(0.0, seed) for seed in range(3)]
    assert max(ratios) < 0.95
    assert min(ratios) < 0.9


def test_an_odd_number_of_bits_is_refused():
    with pytest.raises(ValueError, match="bits=13: DICH has blocks of two bits"):
        DICH(bits=13)
