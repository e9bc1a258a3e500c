import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbir_lite.retrieval import (
    PackedCodes,
    bit_balance,
    bit_correlation,
    distinct_codes,
    pack,
    unpack,
)

from .twins import random_codes


@given(st.integers(1, 200), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack_and_padding_is_zero(bits: int, n: int, seed: int) -> None:
    codes = random_codes(np.random.default_rng(seed), n, bits)
    packed = pack(codes)
    assert packed.words.shape == (n, -(-bits // 64))
    assert len(packed) == n
    np.testing.assert_array_equal(unpack(packed), codes)
    assert unpack(packed).dtype == np.int8
    assert np.bitwise_count(packed.words).sum() == (codes == 1).sum()


def test_bits_stand_where_the_docstring_says() -> None:
    codes = -np.ones((1, 70), dtype=np.int8)
    codes[0, [0, 9, 63, 64, 69]] = 1
    assert pack(codes).words.tolist() == [[1 + 2**9 + 2**63, 1 + 2**5]]


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (np.zeros((2, 8), np.float32), TypeError, "float32"),
        (np.ones((2, 8), np.uint8), TypeError, "uint8"),
        ([[1, -1]], TypeError, "list"),
        (np.ones(8, np.int8), ValueError, r"\(8,\)"),
        (np.ones((3, 0), np.int8), ValueError, r"\(3, 0\)"),
        (np.array([[1, -1], [1, 0]], np.int8), ValueError, "found 0 at item 1, bit 1"),
        (np.array([[1, -128]], np.int8), ValueError, "found -128 at item 0, bit 1"),
    ],
)
def test_pack_refuses_what_is_not_a_code(codes: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        pack(codes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        (np.zeros((2, 1), np.int64), 8),
        (np.zeros(2, np.uint64), 8),
        (np.zeros((2, 1), np.uint64), 65),
        (np.zeros((2, 2), np.uint64), 64),
        (np.zeros((2, 1), np.uint64), 0),
    ],
)
def test_packed_codes_refuse_inconsistent_words(words: np.ndarray, bits: int) -> None:
    with pytest.raises(ValueError, match="words"):
        PackedCodes(words, bits)


@pytest.mark.parametrize("bits", [12, 64, 130])
def test_distinct_codes_counts_rows(bits: int) -> None:
    codes = random_codes(np.random.default_rng(bits), 40, bits)
    codes[20:] = codes[:20]
    assert distinct_codes(codes) == len({row.tobytes() for row in codes})
    assert distinct_codes(pack(codes)) == distinct_codes(codes)
    assert distinct_codes(np.ones((5, bits), np.int8)) == 1


def test_bit_balance_by_hand() -> None:
    codes = np.array([[1, 1, -1], [1, -1, -1], [1, 1, -1], [1, -1, 1]], np.int8)
    assert bit_balance(codes) == pytest.approx((1 + 0 + 0.5) / 3)


@given(st.integers(2, 30), st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_bit_correlation_is_the_mean_over_pairs_of_varying_bits(
    n: int, bits: int, seed: int
) -> None:
    codes = random_codes(np.random.default_rng(seed), n, bits)
    varying = codes[:, codes.min(axis=0) != codes.max(axis=0)].astype(float)
    if varying.shape[1] < 2:
        assert np.isnan(bit_correlation(codes))
        return
    correlation = np.corrcoef(varying, rowvar=False)
    expected = np.abs(correlation[np.triu_indices(len(correlation), 1)]).mean()
    assert bit_correlation(codes) == pytest.approx(expected, abs=1e-12)


def test_bit_correlation_ignores_constant_bits_and_sees_inverted_ones() -> None:
    bit = np.array([1, -1, 1, 1], np.int8)
    assert bit_correlation(np.stack([bit, -bit, np.ones(4, np.int8)], axis=1)) == pytest.approx(1)
    assert np.isnan(bit_correlation(np.ones((4, 3), np.int8)))


def test_moments_are_exact_beyond_one_block() -> None:
    codes = np.ones((70000, 2), np.int8)
    codes[::7, 0] = -1
    expected = 1 - 2 * len(codes[::7]) / 70000
    assert bit_balance(codes) == pytest.approx((abs(expected) + 1) / 2, abs=1e-15)
    with pytest.raises(ValueError, match="no item"):
        bit_balance(codes[:0])
