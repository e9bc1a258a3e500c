"""Random codes: a function of the input that carries nothing of its content."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create

M64 = 2**64 - 1


def fitted(x, **params):
    return create("random_codes", **params).fit(Split(x, None, "unsupervised"))


def twin(row, bits, seed):
    """The same code from Python's own integers, one word at a time."""
    factors = np.random.default_rng(seed).integers(0, 2**64, size=len(row) + 1, dtype=np.uint64)

    def mix(h):
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & M64
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & M64
        return h ^ (h >> 31)

    words = np.asarray(row, np.float32).view(np.uint32)
    h = int(factors[-1])
    for word, factor in zip(words, factors, strict=False):
        h = (h + int(word) * int(factor)) & M64
    code = []
    for k in range(bits):
        drawn = mix((mix(h) + (k // 64 + 1) * 0x9E3779B97F4A7C15) & M64)
        code.append(1 if drawn >> (k % 64) & 1 else -1)
    return code


@pytest.mark.parametrize("bits", [12, 64, 100])
def test_codes_are_those_of_whole_number_arithmetic(digits, bits):
    x = digits.query.pooled[:5]
    expected = [twin(row, bits, seed=3) for row in x]
    np.testing.assert_array_equal(fitted(x, bits=bits, seed=3).encode(x), expected)


def test_equal_inputs_get_equal_codes_and_any_difference_another(digits):
    x = digits.query.pooled[:20]
    method = fitted(x, bits=64)
    codes = method.encode(x)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(method.encode(x[order]), codes[order])
    nudged = x.copy()
    nudged[:, 5] = np.nextafter(nudged[:, 5], np.float32(2))
    assert 0.35 < (method.encode(nudged) != codes).mean() < 0.65
    signed_zero = np.where(x == 0, np.float32(-0.0), x)
    np.testing.assert_array_equal(method.encode(signed_zero), codes)


def test_bits_are_fair_and_independent_coins():
    # Inputs that differ in a single word: the worst case for a weak hash.
    x = np.zeros((4000, 8), np.float32)
    x[:, 3] = np.arange(4000)
    b = fitted(x, bits=64).encode(x).astype(float)
    assert np.abs(b.mean(0)).max() < 5 / np.sqrt(4000)
    correlation = b.T @ b / 4000 - np.eye(64)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(4000)


def test_mean_average_precision_is_the_share_of_relevant_rows(lab):
    method = lab.smoke_fit("random_codes").method
    relevant = lab.relevance()
    assert lab.mean_ap(lab.distances(method), relevant) == pytest.approx(relevant.mean(), abs=0.02)
