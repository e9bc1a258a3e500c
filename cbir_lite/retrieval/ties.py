r"""Closed forms for rankings with ties.

A ranking is given by its groups of equal distance in increasing order: group ``g`` holds ``n``
items, ``r`` of them relevant, after ``N`` items and ``R`` relevant ones of the groups before it.
Items within a group stand in uniformly random order. Position ``N + i`` then holds a relevant
item with probability ``r / n``, and given that, ``(i - 1)(r - 1) / (n - 1)`` relevant items are
expected before it in its own group. So the first ``m`` positions of the group add, in
expectation, to the sum of precisions at relevant positions

.. math::
    \frac{r}{n} \Big[ (R + 1)\, D + \frac{r - 1}{n - 1} \big(m - (N + 1) D\big) \Big],
    \qquad D = \sum_{i=1}^{m} \frac{1}{N + i} .

The sum divided by all relevant items, or by min(k, relevant), is average precision at ``k`` under
that denominator, since neither depends on the order. The number *found* in the top ``k`` does, if
``k`` cuts a group after ``m`` of its ``n`` items: ``j`` of those are relevant with hypergeometric
probability, and given ``j`` the ``m`` positions are exchangeable, so the expectation is the sum
over ``j`` of the formula above with ``(n, r)`` replaced by ``(m, j)``, plus the sum of the
earlier groups (independent of ``j``), divided by ``R + j`` (0 where nothing is found).

With a graded gain (number of shared labels) the same holds for weighted average precision, with
``R`` replaced by the gain before the group and 1 by the mean gain of the group's relevant items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from cbir_lite.retrieval.parallel import launch

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

DENOMINATORS = ("found", "min", "all")


@njit(cache=True)
def harmonic_difference(start, count):
    """``sum of 1 / (start + i) for i = 1..count``, to machine precision, without a table."""
    total = 0.0
    while count > 0 and (start < 40 or count <= 4):
        start += 1
        count -= 1
        total += 1.0 / start
    if count > 0:
        # Differences of the digamma function around x + 1/2; log1p keeps short sums accurate.
        low = start + 0.5
        high = low + count
        total += math.log1p(count / low) + _digamma_tail(high) - _digamma_tail(low)
    return total


@njit(inline="always")
def _digamma_tail(x):
    square = 1.0 / (x * x)
    return square * (1.0 / 24.0 - square * (7.0 / 960.0 - square * (31.0 / 8064.0)))


@njit(inline="always")
def _expected_sum(before, gain, mean_gain, n, r, m, harmonic):
    # The formula of the module docstring; `gain` is R, or the graded gain before the group.
    if r == 0:
        return 0.0
    pairs = (r - 1.0) / (n - 1.0) if n > 1 else 0.0
    own = mean_gain * (harmonic + pairs * (m - (before + 1.0) * harmonic))
    return r / n * (gain * harmonic + own)


@njit(inline="always")
def _ordered_sum(before, found, count):
    # Sum of precisions of `count` relevant items in a row right after position `before`.
    return count + (found - before) * harmonic_difference(before, count)


@njit(cache=True)
def _expected_found(before, found, gain, mean_gain, n, r, m, harmonic, earlier):
    """Expected AP by the number found, when the cut-off takes ``m`` of the group's ``n`` items."""
    low, high = max(0, m - (n - r)), min(m, r)
    mode = min(max((m + 1) * (r + 1) // (n + 2), low), high)
    mass = 0.0
    value = 0.0
    # Weights relative to the mode, outwards by the ratio of neighbours: no factorial, no overflow.
    for direction in (1, -1):
        weight = 1.0
        j = mode
        while low <= j <= high and weight > 1e-25:
            if (direction == 1 or j != mode) and weight > 0.0:
                mass += weight
                if found + j > 0:
                    inside = _expected_sum(before, gain, mean_gain, m, j, m, harmonic)
                    value += weight * (earlier + inside) / (found + j)
            if direction == 1:
                weight *= (r - j) * float(m - j) / ((j + 1) * float(n - r - m + j + 1))
            else:
                weight *= j * float(n - r - m + j) / ((r - j + 1) * float(m - j + 1))
            j += direction
    return value / mass


@njit(cache=True)
def _found_bounds(before, found, n, r, m, earlier_low, earlier_high):
    """Lowest and highest AP by the number found, over all orders of the group that is cut.

    Finding one more item can lower this AP (it is also divided by one more), so neither bound is
    always at an end of the possible numbers.
    """
    first, last = max(0, m - (n - r)), min(m, r)
    lowest, highest = 1.0, 0.0
    front = _ordered_sum(before, found, first)
    back = harmonic_difference(before + m - first, first)
    for j in range(first, last + 1):
        if j > first:
            front += (found + j) / (before + float(j))
            back += 1.0 / (before + m - j + 1)
        total = found + j
        if total == 0:
            lowest = 0.0
            continue
        highest = max(highest, (earlier_high + front) / total)
        late = j + (found - (before + m - j)) * back
        lowest = min(lowest, (earlier_low + late) / total)
    return lowest, highest


@njit(cache=True)
def _average_precision_row(items, relevant, gains, cutoffs, bounds, expected, low, high):
    # cutoffs ascending; the outputs are (cutoffs, 3) in the order of DENOMINATORS.
    total_relevant = relevant.sum()
    if total_relevant == 0:
        return
    before, found, gain = 0, 0, 0.0
    mean_sum, low_sum, high_sum = 0.0, 0.0, 0.0
    cut = 0
    for group in range(len(items)):
        n, r = items[group], relevant[group]
        if n == 0:
            continue
        mean_gain = gains[group] / r if r > 0 else 0.0
        while cut < len(cutoffs) and cutoffs[cut] <= before + n:
            k = cutoffs[cut]
            m = k - before
            harmonic = harmonic_difference(before, m) if r > 0 else 0.0
            inside = _expected_sum(before, gain, mean_gain, n, r, m, harmonic)
            smaller = min(k, total_relevant)
            expected[cut, 0] = _expected_found(
                before, found, gain, mean_gain, n, r, m, harmonic, mean_sum
            )
            expected[cut, 1] = (mean_sum + inside) / smaller
            expected[cut, 2] = (mean_sum + inside) / total_relevant
            if bounds:
                low[cut, 0], high[cut, 0] = _found_bounds(before, found, n, r, m, low_sum, high_sum)
                first, last = max(0, m - (n - r)), min(m, r)
                lowest = low_sum + _ordered_sum(before + m - first, found, first)
                highest = high_sum + _ordered_sum(before, found, last)
                low[cut, 1], high[cut, 1] = lowest / smaller, highest / smaller
                low[cut, 2], high[cut, 2] = lowest / total_relevant, highest / total_relevant
            cut += 1
        if cut == len(cutoffs):
            return
        if r > 0:
            harmonic = harmonic_difference(before, n)
            mean_sum += _expected_sum(before, gain, mean_gain, n, r, n, harmonic)
            if bounds:
                low_sum += _ordered_sum(before + n - r, found, r)
                high_sum += _ordered_sum(before, found, r)
            gain += gains[group]
            found += r
        before += n


@njit(parallel=True, cache=True)
def _average_precision(items, relevant, gains, cutoffs, bounds, expected, low, high):
    for i in prange(items.shape[0]):
        _average_precision_row(
            items[i], relevant[i], gains[i], cutoffs, bounds, expected[i], low[i], high[i]
        )


@njit(parallel=True, cache=True)
def _weighted_sums(items, sums, cumulative, cutoffs, out):
    for i in prange(items.shape[0]):
        before, total, cut = 0, 0.0, 0
        for group in range(items.shape[1]):
            n = items[i, group]
            if n == 0:
                continue
            mean = sums[i, group] / n
            while cut < len(cutoffs) and cutoffs[cut] <= before + n:
                weight = cumulative[cutoffs[cut]] - cumulative[before]
                out[i, cut] = total + mean * weight
                cut += 1
            if cut == len(cutoffs):
                break
            total += mean * (cumulative[before + n] - cumulative[before])
            before += n


def tie_aware_ap(
    items: Int64, relevant: Int64, cutoffs: Sequence[int], gains: Float64 | None = None
) -> tuple[Float64, Float64, Float64]:
    """Average precision at cut-offs, in expectation over random tie order, with its range.

    ``items`` and ``relevant``: int64 (nq, groups), counts at each distinct distance in increasing
    order (groups of 0 items are allowed); ``cutoffs``: positions k within 1..items per query;
    ``gains``: float64 (nq, groups), sum of the relevant items' gains (number of shared labels),
    for weighted average precision. Returns ``expected``, ``low``, ``high``, each float64 (nq,
    cutoffs, 3), last axis in the order of ``DENOMINATORS``: the expectation, and the lowest and
    highest value that any order of the ties gives. With ``gains`` only the expectation is
    computed, and the other two are NaN. Queries without a relevant item get 0.
    """
    order, ascending = _ascending(items, cutoffs)
    shape = (len(items), len(ascending), len(DENOMINATORS))
    fill = 0.0 if gains is None else np.nan
    expected, low, high = np.zeros(shape), np.full(shape, fill), np.full(shape, fill)
    weights = relevant if gains is None else gains
    counts = items, relevant, weights, ascending, gains is None
    launch(_average_precision, items.size, *counts, expected, low, high)
    back = np.argsort(order)
    return expected[:, back], low[:, back], high[:, back]


def expected_sums(
    items: Int64, sums: NDArray[Any], cumulative: Float64, cutoffs: Sequence[int]
) -> Float64:
    """Expected ``sum over the top k of weight(position) * value(item)`` over random tie order.

    ``items`` int64 and ``sums`` (nq, groups): counts and sums of the value at each distinct
    distance; ``cumulative`` float64 (n + 1,): cumulative position weights, from 0. Linear in the
    values, so a group's mean stands for each of its positions. Returns float64 (nq, cutoffs).
    """
    order, ascending = _ascending(items, cutoffs)
    out = np.zeros((len(items), len(ascending)))
    launch(_weighted_sums, items.size, items, sums, cumulative, ascending, out)
    return out[:, np.argsort(order)]


def _ascending(items: Int64, cutoffs: Sequence[int]) -> tuple[Int64, Int64]:
    wanted = np.asarray(cutoffs, dtype=np.int64)
    order = np.argsort(wanted)
    size = int(items.sum(axis=1).min())
    if wanted.min() < 1 or wanted.max() > size:
        raise ValueError(f"cut-offs {list(cutoffs)} must lie within 1..{size}, the items ranked")
    return order, wanted[order]
