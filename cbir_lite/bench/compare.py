"""Is a difference more than chance? Paired bootstrap over queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Difference(NamedTuple):
    """Mean difference, its 95 % interval, and how many queries it rests on."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """``supported`` (interval above zero), ``contradicted`` (below) or ``mixed``."""
        if self.low > 0:
            return "supported"
        return "contradicted" if self.high < 0 else "mixed"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


def difference(
    a: NDArray[np.float64], b: NDArray[np.float64], *, draws: int = 2000, seed: int = 0
) -> Difference:
    """Paired bootstrap of mean(a) - mean(b) over the same queries.

    Args:
        a, b: a measure of each query (n,), e.g. ``evaluation.ap[None, "all"]``.
        draws: bootstrap samples.
        seed: of the draws.

    Raises ``ValueError`` when the two do not pair.

    >>> difference(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.5, 0.6])).verdict
    'supported'
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"measures of the same queries are needed, got {a.shape} and {b.shape}")
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    rows = np.random.default_rng(seed).integers(0, len(d), (draws, len(d)))
    low, high = np.quantile(d[rows].mean(1), [0.025, 0.975])
    return Difference(float(d.mean()), float(low), float(high), len(d))
