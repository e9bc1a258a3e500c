"""Random codes: the floor of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Method
from cbir_lite.methods.shallow._linear import check_finite

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK_WORDS = 1 << 22


def _mix(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of h."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@dataclass(kw_only=True, eq=False)
class RandomCodes(Method):
    r"""Codes that know nothing of what the input shows: fair coins, drawn from a hash of its bytes.

    Equal inputs get equal codes, so that encoding is a function; any difference, however small,
    gives an unrelated code. The mean average precision of such codes is the share of relevant
    images: what lies near it has learned nothing.

    :survey: none
    :name: Random codes
    :year: 2020
    :supervision: unsupervised
    :network: none
    :descriptor: binary
    :cite: none
    :source: multiply-add hashing of the row's 32-bit words, and the finaliser of SplitMix64
    :objective: b_k \sim \text{Bernoulli}(\tfrac12)
    :shapes: x (n, ...), read as float32; codes int8 (n, bits)
    :defaults: seed = 0, another seed gives unrelated codes
    :departures: none
    :fidelity: faithful
    """

    supervision = "unsupervised"

    def fit(self, split: Split, **loop: Any) -> Self:
        """Nothing to learn but the shape of the inputs."""
        self.input_shape_ = list(split.x.shape[1:])
        return self

    def encode(self, x: NDArray[Any]) -> Codes:
        """Codes int8 (n, bits); raises ``ValueError`` for inputs of another shape than fitted."""
        self._require_fit()
        if list(x.shape[1:]) != self.input_shape_:
            raise ValueError(f"fitted on inputs (n, {self.input_shape_}), got {x.shape}")
        check_finite(x)
        words = int(np.prod(self.input_shape_))
        factors = np.random.default_rng(self.seed).integers(
            0, 2**64, size=words + 1, dtype=np.uint64
        )
        step = max(1, _BLOCK_WORDS // words)
        h = np.empty(len(x), np.uint64)
        for a in range(0, len(x), step):
            # Adding zero makes -0.0 and 0.0 one value.
            rows = x[a : a + step].reshape(-1, words).astype(np.float32) + np.float32(0)
            h[a : a + step] = rows.view(np.uint32).astype(np.uint64) @ factors[:-1] + factors[-1]
        streams = np.arange(1, -(-self.bits // 64) + 1, dtype=np.uint64) * _GOLDEN
        drawn = _mix(_mix(h)[:, None] + streams)
        coins = (drawn[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        return np.where(coins.reshape(len(x), -1)[:, : self.bits], np.int8(1), np.int8(-1))
