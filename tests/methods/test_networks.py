"""The parts that all deep systems share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.networks import Dropout, moments


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_zeroes_values_independently_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.full((401, 997), 3.0, requires_grad=True)
    y = Dropout(p)(x)
    dropped = (y == 0).float()
    assert dropped.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    # Neighbours come from one draw, so their independence is what could go wrong.
    flat = dropped.flatten() - p
    for shift in (1, 2, 3, 4, 997):
        product = (flat[shift:] * flat[:-shift]).mean().item()
        assert abs(product) < 4 * p * (1 - p) / len(flat) ** 0.5
    assert y.max().item() == pytest.approx(3 / (1 - p), rel=1e-4)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 3)


def test_dropout_follows_the_seed_and_rests_in_evaluation():
    drop, x = Dropout(0.5), torch.rand(7, 3)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    torch.testing.assert_close(drop(x), first)
    assert not torch.equal(first, second)
    assert drop.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_dropout_of_everything_is_refused():
    with pytest.raises(ValueError, match=r"dropout 1\.0: use a probability"):
        Dropout(1.0)


@pytest.mark.parametrize("shape", [(300, 700), (40, 5, 5, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_moments_are_those_of_all_rows_at_once(shape, dtype):
    x = (100 + 30 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    axes = tuple(range(x.ndim - 1))
    mean, std = moments(x)
    np.testing.assert_allclose(mean, x.mean(axes, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(axes, dtype=np.float64), rtol=1e-12)
