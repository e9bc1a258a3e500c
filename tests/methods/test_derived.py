"""What follows from training rows is found once for all seeds and code lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.base import Codes
from cbir_lite.methods.derived import derived

asked: list[tuple[int, float]] = []


def _scaled(x: Tensor, by: float) -> Tensor:
    asked.append((len(x), by))
    return x * by


def test_it_is_asked_again_for_other_rows_or_settings_only() -> None:
    asked.clear()
    x = torch.arange(6.0).reshape(3, 2)
    first = derived(_scaled, x, 2.0)
    assert derived(_scaled, x.clone(), 2.0) is first
    assert torch.equal(derived(_scaled, x, 3.0), x * 3)
    assert torch.equal(derived(_scaled, x + 1, 3.0), (x + 1) * 3)
    # As many values in another shape are other rows.
    assert derived(_scaled, x.reshape(2, 3), 2.0).shape == (2, 3)
    assert asked == [(3, 2.0), (3, 3.0), (3, 3.0), (2, 2.0)]


def test_only_the_last_is_kept() -> None:
    asked.clear()
    x = torch.ones(2, 2)
    for by in (1.0, 2.0, 1.0):
        derived(_scaled, x, by)
    assert [by for _, by in asked] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("name", ["bgan", "bgan_plus", "distillhash", "uadh", "udth"])
def test_codes_are_those_of_a_process_that_knows_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cbir_lite.methods.derived as module

    x = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    split = Split(x, supervision="unsupervised")

    def codes(bits: int) -> Codes:
        system = registry.create(name, bits=bits, seed=1, epochs=2, batch_size=20)
        return system.fit(split).encode(x)

    module._last.clear()
    alone = codes(8)
    module._last.clear()
    codes(4)
    kept = dict(module._last)
    assert len(kept) == 1
    again = codes(8)
    assert list(module._last) == list(kept)
    np.testing.assert_array_equal(again, alone)
