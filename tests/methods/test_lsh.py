"""LSH: the angle between centred rows is what its bits estimate."""

from __future__ import annotations

import numpy as np

from cbir_lite.datasets import Split
from cbir_lite.methods.registry import create


def fitted(x, **params):
    return create("lsh", **params).fit(Split(x, None, "unsupervised"))


def test_bits_say_on_which_side_of_each_hyperplane_a_row_lies(digits):
    x, q = digits.train.pooled, digits.query.pooled[:10]
    method = fitted(x, bits=16, seed=4)
    centre = x.astype(np.float64).mean(0)
    for row, code in zip(q, method.encode(q), strict=True):
        for k in range(16):
            side = sum((row - centre) * method.W_[:, k])
            assert code[k] == (1 if side >= 0 else -1)


def test_share_of_differing_bits_is_the_angle_over_pi(digits):
    x = digits.train.pooled
    method = fitted(x, bits=4096)
    a, b = x[:40] - x.mean(0), x[40:80] - x.mean(0)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    differing = (method.encode(x[:40]) != method.encode(x[40:80])).mean(1)
    # Five standard deviations of the mean of 4096 coins.
    np.testing.assert_allclose(differing, np.arccos(cosine) / np.pi, atol=5 * 0.5 / 64)


def test_short_codes_are_prefixes_of_long_ones_and_a_mean_row_is_all_plus(digits):
    x = digits.train.pooled
    short, long = fitted(x, bits=12), fitted(x, bits=48)
    np.testing.assert_array_equal(short.encode(x), long.encode(x)[:, :12])
    assert (short.encode(short.mean_[None]) == 1).all()


def test_it_ranks_as_the_independent_baseline_does(lab):
    method = lab.smoke_fit("lsh").method
    value = lab.mean_ap(lab.distances(method), lab.relevance())
    assert abs(value - lab.lsh_map()) < 0.08
