"""Margins that grow with the code length, as a setting per bit."""

from __future__ import annotations

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods import registry

SHARES = {"dnnh": 4, "drsch": 2, "dar": 2, "uth": 4}
"""The cards' margins: the code length divided by this."""


@pytest.mark.parametrize("name", SHARES)
def test_the_margin_is_a_share_of_the_bits_which_can_be_set(name: str) -> None:
    for bits in (12, 32, 64):
        assert registry.create(name, bits=bits).m == bits / SHARES[name]
        assert registry.create(name, bits=bits, margin_per_bit=2.0).m == 2 * bits


def test_the_margin_that_is_set_is_the_one_that_is_trained() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.normal(size=(60, 8)).astype(np.float32), np.arange(60) % 3)

    def loss(margin_per_bit: float) -> float:
        system = registry.create("dnnh", bits=8, epochs=1, margin_per_bit=margin_per_bit)
        return system.fit(split).history_[0]["ranking"]

    # Distances of codes in [0, 1] are at most the bits, so beyond that a margin adds itself.
    assert loss(8.0) - loss(4.0) == pytest.approx(32.0, abs=1.0)
