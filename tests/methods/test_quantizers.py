"""Codebooks: each step against naive twins, errors that never rise, distances by look-up."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch

from cbir_lite.methods import quantizers
from cbir_lite.methods.cnn.dqn import DQN
from cbir_lite.methods.quantizers import (
    add_words,
    concatenate_words,
    draw_words,
    icm_codes,
    least_squares_words,
    look_up,
    mean_words,
    nearest_words,
    spread_words,
)

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return torch.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def error(z, rebuilt):
    return float((z.double() - rebuilt.double()).square().sum())


# -- product ---------------------------------------------------------------------------------------


def test_nearest_words_are_those_of_each_part():
    z, C = normal(20, 6), normal(3, 8, 2)
    b = nearest_words(z, C).numpy()
    for i, m in itertools.product(range(20), range(3)):
        part = z[i, 2 * m : 2 * m + 2]
        assert b[i, m] == min(range(8), key=lambda k: float(((part - C[m, k]) ** 2).sum()))


def test_product_error_never_rises_in_a_step_and_falls_over_all():
    z = normal(300, 8)
    C = torch.stack([z[:16, :4], z[:16, 4:]])
    b = nearest_words(z, C)
    errors = [error(z, concatenate_words(b, C))]
    for _ in range(8):
        C = mean_words(z, b, C)
        errors.append(error(z, concatenate_words(b, C)))
        b = nearest_words(z, C)
        errors.append(error(z, concatenate_words(b, C)))
    assert all(after <= before + 1e-3 for before, after in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_mean_words_are_means_of_members_and_unused_words_stay():
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 7.0]])
    C = torch.tensor([[[0.0], [9.0]], [[1.0], [2.0]]])
    updated = mean_words(z, torch.tensor([[0, 1], [0, 1], [0, 1]]), C)
    assert updated[0].tolist() == [[3.0], [9.0]]
    assert updated[1, 0].tolist() == [1.0]
    assert updated[1, 1].item() == pytest.approx(7 / 3)


@pytest.mark.parametrize("K", [4, 11])
def test_drawn_words_are_parts_of_rows_each_drawn_once_before_any_twice(K):
    z = torch.arange(10.0).reshape(5, 2) + 1
    C = draw_words(z, 2, K, torch.Generator().manual_seed(1))
    assert torch.equal(C[0, :, 0] + 1, C[1, :, 0])
    counts = np.unique(C[0, :, 0].numpy(), return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    assert len(counts) == min(K, 5)


# -- composite -------------------------------------------------------------------------------------


def test_sum_of_words_and_spread_words():
    C = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]])
    b = torch.tensor([[0, 1], [1, 0]])
    assert add_words(b, C).tolist() == [[31.0, 42.0], [13.0, 24.0]]
    product, b = normal(3, 4, 2), torch.from_numpy(RANDOM.integers(0, 4, (7, 3)))
    torch.testing.assert_close(add_words(b, spread_words(product)), concatenate_words(b, product))


def test_each_icm_word_is_the_best_given_the_others():
    z, C = normal(12, 5).double(), normal(3, 4, 5).double()
    b = icm_codes(z, C, sweeps=50)
    for i, m in itertools.product(range(12), range(3)):
        costs = []
        for k in range(4):
            words = [C[n][k if n == m else b[i, n]] for n in range(3)]
            costs.append(float(((z[i] - sum(words)) ** 2).sum()))
        assert b[i, m] == int(np.argmin(costs))


def test_codes_without_a_start_describe_what_is_left_over():
    z, C = normal(9, 5).double(), normal(3, 6, 5).double()
    b = icm_codes(z, C, sweeps=0)
    for i in range(9):
        left = z[i].clone()
        for m in range(3):
            k = min(range(6), key=lambda k: float(((left - C[m, k]) ** 2).sum()))
            assert b[i, m] == k
            left -= C[m, k]


def test_icm_finds_the_best_of_all_combinations_where_codebooks_are_orthogonal():
    z, product = normal(30, 4), normal(2, 8, 2)
    C = spread_words(product @ torch.linalg.qr(normal(2, 2))[0])
    b = icm_codes(z, C)
    for row, code in zip(z, b, strict=True):
        errors = {(k, n): error(row, C[0, k] + C[1, n]) for k in range(8) for n in range(8)}
        assert tuple(code.tolist()) == min(errors, key=errors.__getitem__)


def test_composite_error_never_rises_and_beats_the_product_quantizer_it_began_with():
    z = normal(300, 6)
    product = draw_words(z, 2, 16, torch.Generator().manual_seed(0))
    for _ in range(10):
        product = mean_words(z, nearest_words(z, product), product)
    C = spread_words(product)
    b = nearest_words(z, product)
    errors = [error(z, add_words(b, C))]
    for _ in range(8):
        b = icm_codes(z, C, b)
        errors.append(error(z, add_words(b, C)))
        C = least_squares_words(z, b, C)
        errors.append(error(z, add_words(b, C)))
    assert all(after <= before + 1e-3 for before, after in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_least_squares_words_are_those_of_a_dense_solver_and_unused_words_stay():
    z, C = normal(60, 3), normal(2, 5, 3)
    b = torch.from_numpy(RANDOM.integers(0, 4, (60, 2)))
    updated = least_squares_words(z, b, C, ridge=1e-9)
    onehot = np.zeros((60, 10))
    for i, m in itertools.product(range(60), range(2)):
        onehot[i, 5 * m + b[i, m]] = 1
    solution = np.linalg.lstsq(onehot, z.numpy().astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(add_words(b, updated).numpy(), onehot @ solution, atol=1e-4)
    torch.testing.assert_close(updated[:, 4], C[:, 4])
    counts = torch.from_numpy(RANDOM.integers(1, 4, 60))
    repeated = least_squares_words(
        z.repeat_interleave(counts, 0), b.repeat_interleave(counts, 0), C
    )
    torch.testing.assert_close(least_squares_words(z, b, C, counts=counts.double()), repeated)


def test_blocks_of_rows_give_the_same_codes(monkeypatch):
    z, product, composite = normal(50, 6), normal(3, 8, 2), normal(3, 8, 6)
    start = torch.from_numpy(RANDOM.integers(0, 8, (50, 3)))
    whole = nearest_words(z, product), icm_codes(z, composite), icm_codes(z, composite, start, 1)
    monkeypatch.setattr(quantizers, "_BLOCK_ELEMENTS", 24 * 7)
    parts = nearest_words(z, product), icm_codes(z, composite), icm_codes(z, composite, start, 1)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


# -- look-up ---------------------------------------------------------------------------------------


def test_look_up_sums_one_entry_of_each_table(monkeypatch):
    tables, b = normal(2, 5, 4).numpy(), RANDOM.integers(0, 4, (6, 2)).astype(np.uint8)
    naive = [[sum(tables[m, q, b[i, m]] for m in range(2)) for i in range(6)] for q in range(5)]
    whole = look_up(tables, b)
    np.testing.assert_allclose(whole, naive, rtol=1e-6)
    monkeypatch.setattr(quantizers, "_BLOCK_ELEMENTS", 12)
    np.testing.assert_array_equal(look_up(tables, b), whole)


@pytest.mark.parametrize(("bits", "down", "up"), [(9, 8, 10), (20, 18, 21)])
def test_bits_that_do_not_spread_name_the_nearest_that_do(bits, down, up):
    with pytest.raises(ValueError, match=rf"bits={bits} .* use bits={down} or bits={up}"):
        DQN(bits=bits)


def test_more_codebooks_than_dimensions_are_refused():
    with pytest.raises(ValueError, match="dim=1 is too small for 2 codebooks"):
        DQN(bits=16, dim=1)
