"""Boxes in columns: lanes for arrows that pass a column, order with few crossings, heights."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

LANE = 0.04
"""Height that an arrow takes where it passes a column of boxes."""
ROW_GAP = 0.16


@dataclass(eq=False)
class Item:
    """A box, or a lane (no stage) in which arrows pass a column; ``y`` is its middle."""

    column: int
    height: float
    kind: str = ""
    name: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    sources: list[tuple[Item, bool]] = field(default_factory=list)
    order: float = 0.0
    y: float = 0.0


def with_lanes(boxes: list[Item], n: int) -> list[list[Item]]:
    """Items by column, with a lane wherever an arrow passes one; arrows join neighbours only."""
    table: list[list[Item]] = [[] for _ in range(n)]
    lanes: dict[tuple[int, bool, int], Item] = {}
    for box in boxes:
        table[box.column].append(box)
    for box in boxes:
        direct = []
        for source, flows in box.sources:
            last = source
            for column in range(source.column + 1, box.column):
                key = id(source), flows, column
                if key not in lanes:
                    lanes[key] = Item(column, LANE, sources=[(last, flows)], order=source.order)
                    table[column].append(lanes[key])
                last = lanes[key]
            direct.append((last, flows))
        box.sources = direct
    return table


def arrange(table: list[list[Item]]) -> None:
    """Order each column so that few arrows cross, then find heights without overlap."""
    feeds: dict[int, list[Item]] = {}
    for column in table:
        for item in column:
            for source, _ in item.sources:
                feeds.setdefault(id(source), []).append(item)

    def joined(item: Item) -> list[Item]:
        return [s for s, _ in item.sources] + feeds.get(id(item), [])

    best: list[list[Item]] = []
    for start in (1, -1):
        for column in table:
            column.sort(key=lambda i: i.order)
            _number(column[::start])
        for sweep in range(8):
            for column in table if sweep % 2 == 0 else table[::-1]:
                middle = {
                    id(i): sum(j.y for j in joined(i)) / len(joined(i)) for i in column if joined(i)
                }
                column.sort(key=lambda i: middle.get(id(i), i.y))
                _number(column)
            if not best or _crossings(table) < _crossings(best):
                best = [list(column) for column in table]
    for column, chosen in zip(table, best, strict=True):
        column[:] = chosen
        _number(column)
    for sweep in range(30):
        for column in table if sweep % 2 == 0 else table[::-1]:
            wished = [sum(i.y for i in joined(t)) / max(1, len(joined(t))) for t in column]
            for item, y in zip(column, _apart(column, wished), strict=True):
                item.y = y


def _number(column: list[Item]) -> None:
    for k, item in enumerate(column):
        item.y = k - (len(column) - 1) / 2


def _crossings(table: list[list[Item]]) -> int:
    """Pairs of arrows between neighbouring columns that cross, given the order in the columns."""
    count = 0
    for before, column in pairwise(table):
        place = {id(item): k for k, item in enumerate(before)}
        ends = [(place[id(s)], k) for k, item in enumerate(column) for s, _ in item.sources]
        count += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
    return count


def _apart(column: list[Item], wished: list[float]) -> list[float]:
    """The middles nearest to those wished that keep order and gaps (pooling of neighbours)."""
    offsets = [0.0]
    for a, b in pairwise(column):
        offsets.append(offsets[-1] + (a.height + b.height) / 2 + ROW_GAP)
    pools: list[list[float]] = []  # [sum, count]
    for y, offset in zip(wished, offsets, strict=True):
        pools.append([y - offset, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    base = [total / count for total, count in pools for _ in range(int(count))]
    return [b + offset for b, offset in zip(base, offsets, strict=True)]
