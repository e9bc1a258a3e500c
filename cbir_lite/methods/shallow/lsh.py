"""LSH: signs of random projections, the baseline that learns nothing but the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cbir_lite.datasets import Split
from cbir_lite.methods.shallow._linear import LinearHash, pooled


@dataclass(kw_only=True, eq=False)
class LSH(LinearHash):
    r"""Which side of random hyperplanes through the mean a descriptor lies on.

    Two descriptors at angle t (seen from the mean) differ in a bit with probability t / pi, so
    Hamming distance estimates the angle, better with more bits and never well with few.

    :survey: none
    :name: LSH
    :year: 2002
    :supervision: unsupervised
    :network: none
    :descriptor: binary
    :cite: none
    :source: Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002
    :objective: b = \mathrm{sgn}\big(W^\top(x-\bar x)\big),\quad W_{ij}\sim\mathcal N(0,1)
    :shapes: x (n, d); codes int8 (n, bits)
    :defaults: seed = 0; the codes of fewer bits with the same seed are prefixes
    :departures: none; centring by the mean of the training rows is usual for features that are not
        centred, as non-negative activations are
    :fidelity: faithful
    """

    supervision = "unsupervised"

    def fit(self, split: Split, **loop: Any) -> Self:
        """Draw W and take the mean of the training rows."""
        x = pooled(split.x, system="LSH")
        W = np.random.default_rng(self.seed).standard_normal((self.bits, x.shape[1])).T
        self._keep(x.mean(axis=0, dtype=np.float64), W)
        return self
