"""Levels over time, summed up in stretches of equal length, however many attempts there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Curve", "Levels", "Timescale"]

_STRETCHES = 2048
"""The most stretches; when the time is longer, pairs of stretches become one."""


class Curve(NamedTuple):
    """A level over time, for drawing."""

    means: list[float]
    """Of each stretch."""
    peaks: list[float]
    """The greatest mean of a much shorter stretch in each."""


class Levels:
    """One level: how many, or how much, at each time. The area below the curve is always exact.

    The numbers that are kept say by how much the mean of a stretch differs from that of the one before, so that an
    attempt of any length changes four of them.
    """

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes = [0.0] * (_STRETCHES + 2)

    def add(self, start: float, end: float, amount: float) -> None:
        """Add an amount from a time to another, in stretches since the beginning."""
        changes = self._changes
        first, last = int(start), int(end)
        if first == last:
            part = (end - start) * amount
            changes[first] += part
            changes[first + 1] -= part
            return
        part = (first + 1 - start) * amount
        changes[first] += part
        changes[first + 1] += amount - part
        part = (end - last) * amount
        changes[last] += part - amount
        changes[last + 1] -= part

    def plus(self, other: Levels, factor: float = 1.0) -> Levels:
        """Return the sum of both, the other times a factor."""
        both = Levels()
        both._changes = [mine + factor * its for mine, its in zip(self._changes, other._changes, strict=True)]
        return both

    def copy(self) -> Levels:
        """Return another one like this."""
        return self.plus(self, 0.0)

    def halve(self) -> None:
        """Merge each pair of stretches into one."""
        means = self._means()
        paired = [(a + b) / 2 for a, b in zip(means[::2], means[1::2], strict=True)]
        paired += [0.0] * (_STRETCHES + 2 - len(paired))
        self._changes = [after - before for before, after in zip([0.0, *paired], paired, strict=False)]

    def curve(self, used: int, points: int) -> Curve:
        """Return the curve over the first stretches, with at most so many points."""
        means = [max(0.0, mean) for mean in self._means()[:used]]
        each = max(1, -(-used // points))
        groups = [means[at : at + each] for at in range(0, used, each)]
        return Curve([sum(group) / len(group) for group in groups], [max(group) for group in groups])

    def _means(self) -> list[float]:
        return list(accumulate(self._changes))


class Timescale:
    """The stretches of time that all levels of a run share.

    Attributes
    ----------
    begin : float
        Seconds since the epoch.
    width : float
        Seconds of one stretch.
    end : float
        The latest time that was seen.
    """

    def __init__(self, begin: float) -> None:
        self.begin = self.end = begin
        self.width = 1 / 64
        self.levels: list[Levels] = []

    def level(self) -> Levels:
        """Build a level on this scale."""
        self.levels.append(Levels())
        return self.levels[-1]

    def reach(self, end: float) -> None:
        """See that a time can be noted."""
        self.end = max(self.end, end)
        while self.end - self.begin >= self.width * (_STRETCHES - 1):
            self.width *= 2
            for level in self.levels:
                level.halve()

    def add(
        self, starts: Sequence[float], ends: Sequence[float], levels: Iterable[tuple[Levels, Iterable[float]]]
    ) -> None:
        """Add amounts for the same times to several levels.

        Parameters
        ----------
        starts, ends : sequence of float
            Seconds since the epoch; what was before the beginning counts from there.
        levels : iterable of (Levels, iterable of float)
            Each level, and the amount for each time.
        """
        self.reach(max(ends))
        begin, each = self.begin, 1 / self.width
        froms = [(start - begin) * each if start > begin else 0.0 for start in starts]
        tos = [(end - begin) * each if end > begin else 0.0 for end in ends]
        for level, amounts in levels:
            add = level.add
            for start, end, amount in zip(froms, tos, amounts, strict=False):
                add(start, end, amount)

    @property
    def used(self) -> int:
        """How many stretches there are until the end."""
        return min(_STRETCHES, int((self.end - self.begin) / self.width) + 1)

    def points(self, points: int) -> tuple[list[float], float]:
        """Return the times of the points of curves, in seconds since the beginning, and the time between two."""
        each = max(1, -(-self.used // points))
        count = -(-self.used // each)
        return [n * each * self.width for n in range(count)], each * self.width
