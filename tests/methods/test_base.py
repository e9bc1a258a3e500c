"""Hyper-parameters of every system: whole numbers of any type, kept as plain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.base import load


@pytest.mark.parametrize("type_", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_are_taken_kept_plain_and_can_be_saved(
    tmp_path: Path, type_: type[np.integer[Any]]
) -> None:
    x = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
    method = registry.create("lsh", bits=type_(8), seed=type_(3))
    assert (type(method.bits), type(method.seed)) == (int, int)
    method.fit(Split(x, supervision="unsupervised")).save(tmp_path / "lsh.pt")
    again = load(tmp_path / "lsh.pt")
    assert again.params == method.params == registry.create("lsh", bits=8, seed=3).params
    np.testing.assert_array_equal(again.encode(x), method.encode(x))


def test_numbers_of_numpy_that_are_not_whole_are_kept_plain_too() -> None:
    assert type(registry.create("dpsh", lr=np.float64(0.01)).params["lr"]) is float


@pytest.mark.parametrize("bits", [True, np.True_, 8.0, np.float64(8), "8", None, 0, 4097, -1])
def test_code_lengths_that_are_none_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match=r"bits=.*must be an integer in 1\.\.4096"):
        registry.create("lsh", bits=bits)
