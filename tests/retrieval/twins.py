"""Independent twins of the metrics: by definition or enumeration, in exact fractions."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, permutations, product

import numpy as np


def average_precision(gains: list[int], k: int, denominator: str, relevant: int) -> Fraction:
    """(Weighted) average precision at k of one fixed ranking of gains, by definition."""
    total, cumulative, found = Fraction(0), 0, 0
    for position, gain in enumerate(gains[:k], start=1):
        cumulative += gain
        if gain > 0:
            found += 1
            total += Fraction(cumulative, position)
    below = {"found": found, "min": min(k, relevant), "all": relevant}[denominator]
    return total / below if below else Fraction(0)


def tie_orders(distances: list[int], gains: list[int]) -> Iterator[list[int]]:
    """Every ranking of the gains that sorts the distances: all permutations of each tie group."""
    ranked = sorted(zip(distances, gains, strict=True))
    groups = [[gain for _, gain in group] for _, group in groupby(ranked, key=lambda x: x[0])]
    for order in product(*(permutations(group) for group in groups)):
        yield [gain for group in order for gain in group]


def enumerated_ap(
    distances: list[int], gains: list[int], k: int, denominator: str
) -> tuple[Fraction, Fraction, Fraction]:
    """Mean, lowest and highest average precision over all tie orders."""
    relevant = sum(gain > 0 for gain in gains)
    values = [
        average_precision([int(g) for g in order], k, denominator, relevant)
        for order in tie_orders(distances, gains)
    ]
    return sum(values, Fraction(0)) / len(values), min(values), max(values)


def histogram(distances: list[int], hits: list[int], groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and relevant items at distances 0..groups-1, each int64 (1, groups)."""
    counts = np.zeros((2, 1, groups), dtype=np.int64)
    for distance, hit in zip(distances, hits, strict=True):
        counts[0, 0, distance] += 1
        counts[1, 0, distance] += hit > 0
    return counts[0], counts[1]


def hamming_matrix(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Hamming distances by comparing every bit."""
    return (queries[:, None, :] != gallery[None, :, :]).sum(axis=2)


def random_codes(rng: np.random.Generator, n: int, bits: int) -> np.ndarray:
    """Uniform random codes int8 (n, bits) in {-1, +1}."""
    return np.where(rng.random((n, bits)) < 0.5, -1, 1).astype(np.int8)


def random_multi_hot(rng: np.random.Generator, n: int, classes: int, share: float) -> np.ndarray:
    """Random multi-hot labels uint8 (n, classes), at least one label each."""
    labels = (rng.random((n, classes)) < share).astype(np.uint8)
    labels[np.arange(n), rng.integers(0, classes, n)] = 1
    return labels
