"""Is a difference more than chance? Paired bootstrap over queries."""

from __future__ import annotations

from collections.abc import Mapping
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

    def within(self, low: float = -np.inf, high: float = np.inf) -> str:
        """Verdict on the difference lying between two margins.

        ``supported`` if the whole interval does, ``contradicted`` if all of it lies outside, else
        ``mixed``.
        """
        if low < self.low and self.high < high:
            return "supported"
        return "contradicted" if self.high < low or self.low > high else "mixed"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


def together(*parts: Difference | str) -> str:
    """The verdict on a claim of several parts (differences or verdicts): theirs if they agree,
    else ``mixed``.

    >>> together("supported", Difference(0.2, 0.1, 0.3, 9)), together("supported", "contradicted")
    ('supported', 'mixed')
    """
    verdicts = {part if isinstance(part, str) else part.verdict for part in parts}
    return verdicts.pop() if len(verdicts) == 1 else "mixed"


def weakest(parts: Mapping[str, Difference]) -> Difference:
    """The difference with the smallest mean, which a claim about all of them rests on."""
    return min(parts.values(), key=lambda d: d.mean)


def listed(parts: Mapping[str, Difference]) -> str:
    """Differences by name, in words."""
    return "; ".join(f"{name} {part}" for name, part in parts.items())


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
