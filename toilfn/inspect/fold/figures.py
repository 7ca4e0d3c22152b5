"""Statistics of very many values in little memory, and what the attempts of one kind of tasks used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum
from operator import mul, sub
from typing import NamedTuple

from toilfn.resources import Resources

__all__ = ["FIGURES", "MEASURES", "Figures", "Sums", "Usage", "total"]

_BLOCK = 2048
"""Values of one weight that are kept. The median of more values is exact within half a percent of their ranks."""

FIGURES = ("min", "median", "mean", "max", "total")


class Figures:
    """The least, median, mean and greatest of values that are not kept.

    A full block of values is sorted, and every second one continues with twice the weight.
    """

    __slots__ = ("_blocks", "_is_odd", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self._blocks: list[list[float]] = [[]]
        self._is_odd = False
        self.count = 0
        self.least = self.greatest = self.total = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Take values."""
        if not values:
            return
        least, greatest = min(values), max(values)
        self.least, self.greatest = (
            (min(self.least, least), max(self.greatest, greatest)) if self.count else (least, greatest)
        )
        self.count += len(values)
        self.total += fsum(values)
        self._blocks[0] += values
        level = 0
        while len(block := self._blocks[level]) > _BLOCK:
            block.sort()
            level += 1
            if level == len(self._blocks):
                self._blocks.append([])
            self._is_odd = not self._is_odd  # so that rounding up and down even out
            even = len(block) // 2 * 2
            self._blocks[level] += block[self._is_odd : even : 2]
            self._blocks[level - 1] = block[even:]

    @property
    def median(self) -> float:
        """The value in the middle."""
        if len(self._blocks) == 1:
            return _middle(self._blocks[0])
        weighted = sorted((value, 1 << level) for level, block in enumerate(self._blocks) for value in block)
        left = sum(weight for _, weight in weighted) / 2
        for value, weight in weighted:
            left -= weight
            if left <= 0:
                return value
        return self.greatest

    def as_dict(self) -> dict[str, float]:
        """Return the figures by their names in `FIGURES`."""
        mean = self.total / self.count if self.count else 0.0
        return {"min": self.least, "median": self.median, "mean": mean, "max": self.greatest, "total": self.total}


def _middle(values: list[float]) -> float:
    if not values:
        return 0.0
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


class Sums(NamedTuple):
    """Sums over attempts, failed ones too. Memory counts by the time for which it was held, where its use is known."""

    attempts: int = 0
    failed: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    wait: float = 0.0
    cores_asked: float = 0.0
    """Cores times seconds."""
    memory_asked: float = 0.0
    """Bytes times seconds, as the next."""
    memory_used: float = 0.0
    read: float = 0.0
    written: float = 0.0
    requests: float = 0.0

    def plus(self, other: Sums) -> Sums:
        """Add up both."""
        return Sums._make(mine + its for mine, its in zip(self, other, strict=True))


MEASURES = ("wall", "cpu", "idle", "wait", "memory", "memory asked", "worker", "disk", "disk asked", "read", "written")
_FROM_COLUMNS = {"wall": 1, "cpu": 2, "memory": 3, "worker": 10, "disk": 9, "read": 6, "written": 7, "wait": 11}
"""Where a measure is in the fields of `Stats`, to which the time of waiting is appended."""


class Usage:
    """The resources that the attempts of tasks of one name used: measures of those that succeeded, sums of all."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.sums = Sums()
        self._figures = {name: Figures() for name in (*_FROM_COLUMNS, "idle")}
        self._asked: dict[str, Counter[float]] = {"memory asked": Counter(), "disk asked": Counter()}

    def add(self, columns: Sequence[Sequence[float]], asked: Resources, *, are_done: bool) -> None:
        """Take attempts that requested the same.

        Parameters
        ----------
        columns : sequence of sequences
            The fields of `Stats`, each for all attempts, and then the times of waiting.
        asked : Resources
        are_done : bool
            Whether the attempts succeeded.
        """
        walls, cpus, memories = columns[1:4]
        count = len(walls)
        idle = [held if held > 0 else 0.0 for held in map(sub, map(float(asked.cores).__mul__, walls), cpus)]
        if are_done:
            self.done += count
            for name, column in _FROM_COLUMNS.items():
                self._figures[name].add(columns[column])
            self._figures["idle"].add(idle)
            self._asked["memory asked"][asked.memory] += count
            self._asked["disk asked"][asked.disk] += count
        else:
            self.failed += count
        wall = fsum(walls)
        known = wall if all(memories) else fsum(w for w, used in zip(walls, memories, strict=True) if used)
        self.sums = self.sums.plus(
            Sums(
                count, 0 if are_done else count, wall, fsum(cpus), fsum(columns[11]), asked.cores * wall,
                asked.memory * known, fsum(map(mul, walls, memories)), sum(columns[6]), sum(columns[7]),
                sum(columns[8]),
            )
        )  # fmt: skip

    def figures(self, measure: str) -> dict[str, float]:
        """Return the figures of a measure in `MEASURES`, by their names in `FIGURES`."""
        if measure not in self._asked:
            return self._figures[measure].as_dict()
        counts = self._asked[measure]
        values, count = sorted(counts), counts.total()
        if not count:
            return dict.fromkeys(FIGURES, 0.0)
        total = sum(value * times for value, times in counts.items())
        return {"min": values[0], "median": _at_half(counts), "mean": total / count, "max": values[-1], "total": total}


def _at_half(counts: Counter[float]) -> float:
    """Return the median of values that are counted."""
    both = [_at_rank(counts, rank) for rank in {(counts.total() - 1) // 2, counts.total() // 2}]
    return sum(both) / len(both)


def _at_rank(counts: Counter[float], rank: int) -> float:
    for value, times in sorted(counts.items()):
        rank -= times
        if rank < 0:
            return value
    raise AssertionError("the rank is below the number of values")


def total(usages: Iterable[Usage]) -> Sums:
    """Add up the sums of kinds."""
    sums = Sums()
    for usage in usages:
        sums = sums.plus(usage.sums)
    return sums
