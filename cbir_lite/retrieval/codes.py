"""Binary codes: packing, and the three facts about a set of codes that every record carries.

A code is int8 in {-1, +1}, shape (n, bits). Bit ``b`` of an item is stored as bit ``b % 64`` of
word ``b // 64``; the spare bits of the last word are zero in every item, so they never differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Words = NDArray[np.uint64]

_BLOCK = 65536


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """Codes in 64-bit words: ``words`` uint64 (n, ceil(bits / 64)), ``bits`` their length."""

    words: Words
    bits: int

    def __post_init__(self) -> None:
        if self.words.ndim != 2 or self.words.dtype != np.uint64:
            raise ValueError(
                f"words must be uint64 (n, words), got {self.words.dtype} {self.words.shape}; "
                "make them with pack(codes)"
            )
        if (
            not 1 <= self.bits <= 64 * self.words.shape[1]
            or -(-self.bits // 64) < (self.words.shape[1])
        ):
            raise ValueError(f"{self.bits} bits do not fit words of shape {self.words.shape}")

    def __len__(self) -> int:
        return int(self.words.shape[0])

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> PackedCodes:
        return PackedCodes(np.ascontiguousarray(self.words[rows]), self.bits)


def check_codes(codes: Int8, name: str = "codes") -> None:
    """Raise TypeError or ValueError unless ``codes`` is int8 (n, bits) of -1 and +1 only."""
    if not isinstance(codes, np.ndarray) or codes.dtype != np.int8:
        kind = codes.dtype if isinstance(codes, np.ndarray) else type(codes).__name__
        raise TypeError(
            f"{name} must be a NumPy array of int8 in {{-1, +1}}, got {kind}; "
            "binarise with np.where(x >= 0, 1, -1).astype(np.int8)"
        )
    if codes.ndim != 2 or codes.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, bits) with bits >= 1, got {codes.shape}")
    wrong = (codes != 1) & (codes != -1)
    if wrong.any():
        row, bit = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name} must hold only -1 and +1, found {codes[row, bit]} at item {row}, bit {bit}"
        )


def pack_bits(bits: NDArray[np.bool_]) -> Words:
    """Pack a boolean matrix (n, columns) into uint64 words (n, ceil(columns / 64)), zero padded."""
    n, columns = bits.shape
    octets = np.zeros((n, -(-columns // 64) * 8), dtype=np.uint8)
    octets[:, : -(-columns // 8)] = np.packbits(bits, axis=1, bitorder="little")
    return octets.view("<u8").astype(np.uint64, copy=False)


def pack(codes: Int8) -> PackedCodes:
    """Pack int8 codes (n, bits) in {-1, +1} into 64-bit words; +1 becomes a set bit.

    ``bits`` need not be a multiple of 8 or 64. Raises TypeError for another dtype, ValueError for
    another shape or for a value outside -1 and +1, naming it.
    """
    check_codes(codes)
    return PackedCodes(pack_bits(codes > 0), int(codes.shape[1]))


def unpack(packed: PackedCodes) -> Int8:
    """Return the int8 codes (n, bits) in {-1, +1} that ``pack`` took."""
    octets = np.ascontiguousarray(packed.words).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=packed.bits, bitorder="little")
    return (bits.astype(np.int8) << 1) - np.int8(1)


def as_packed(codes: Int8 | PackedCodes) -> PackedCodes:
    """Return ``codes`` packed, whether they came packed or as int8 (n, bits)."""
    return codes if isinstance(codes, PackedCodes) else pack(codes)


def distinct_codes(codes: Int8 | PackedCodes) -> int:
    """Count the different codes among the items: 1 is total collapse, n means no collision."""
    words = as_packed(codes).words
    if words.shape[1] == 1:
        return int(np.unique(words).size)
    return int(np.unique(words, axis=0).shape[0])


def _moments(codes: Int8) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each bit, and mean product of each pair of bits, exact sums of integers."""
    check_codes(codes)
    n, bits = codes.shape
    if n == 0:
        raise ValueError("codes hold no item; balance and correlation need at least one")
    total = np.zeros(bits)
    products = np.zeros((bits, bits))
    for start in range(0, n, _BLOCK):
        # Sums of +-1 over at most 65536 items are exact in float32, so the fast product is exact.
        block = codes[start : start + _BLOCK].astype(np.float32)
        total += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    return total / n, products / n


def bit_balance(codes: Int8) -> float:
    """Mean over bits of ``|mean over items of the bit|``, for int8 codes (n, bits).

    0: every bit is +1 on exactly half of the items. 1: every bit is constant.
    """
    mean, _ = _moments(codes)
    return float(np.abs(mean).mean())


def bit_correlation(codes: Int8) -> float:
    """Mean over pairs of different bits of the absolute Pearson correlation over items.

    0: uncorrelated bits; 1: every bit repeats (or inverts) the others. A bit that is constant has
    no correlation: pairs with it are left out (``bit_balance`` shows such bits), and the result
    is NaN if fewer than two bits vary.
    """
    mean, products = _moments(codes)
    varies = np.abs(mean) < 1.0
    if varies.sum() < 2:
        return float("nan")
    mean, products = mean[varies], products[np.ix_(varies, varies)]
    deviation = np.sqrt(1.0 - mean**2)
    correlation = (products - np.outer(mean, mean)) / np.outer(deviation, deviation)
    pairs = ~np.eye(len(mean), dtype=bool)
    return float(np.abs(correlation[pairs]).mean())
