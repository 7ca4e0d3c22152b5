"""Levels over time, summed up in stretches of equal length, however many attempts there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import sub
from typing import NamedTuple

__all__ = ["Curve", "Levels", "Spans", "Timescale"]

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

    The numbers that are kept say by how much the mean of a stretch differs from that of the one before, so that a
    span of any length changes four of them.
    """

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes = [0.0] * (_STRETCHES + 2)

    def take(self, changes: Mapping[int, float], factor: float = 1.0) -> None:
        """Add changes as `Spans.changes` gives them, times a factor."""
        own = self._changes
        for stretch, change in changes.items():
            own[stretch] += factor * change

    def step(self, moment: float, amount: float) -> None:
        """Raise the level by an amount from a moment on, in stretches since the beginning."""
        first = int(moment)
        part = (first + 1 - moment) * amount
        self._changes[first] += part
        self._changes[first + 1] += amount - part

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
        paired += paired[-1:] * (_STRETCHES + 2 - len(paired))
        self._changes = [after - before for before, after in zip([0.0, *paired], paired, strict=False)]

    def curve(self, used: int, points: int) -> Curve:
        """Return the curve over the first stretches, with at most so many points."""
        means = [max(0.0, mean) for mean in self._means()[:used]]
        each = max(1, -(-used // points))
        groups = [means[at : at + each] for at in range(0, used, each)]
        return Curve([sum(group) / len(group) for group in groups], [max(group) for group in groups])

    def _means(self) -> list[float]:
        return list(accumulate(self._changes))


class Spans:
    """Stretches of time from which levels are made, such as the times of attempts.

    Parameters
    ----------
    starts, ends : sequence of float
        In stretches since the beginning.
    """

    def __init__(self, starts: Sequence[float], ends: Sequence[float]) -> None:
        firsts, lasts = map(int, starts), map(int, ends)
        lengths = map(sub, ends, starts)
        self._spans = list(zip(firsts, lasts, lengths, starts, ends, strict=True))

    def changes(self, amounts: Iterable[float]) -> dict[int, float]:
        """Return by how much the mean of each stretch is above that of the one before, given each span's amount."""
        areas: defaultdict[int, float] = defaultdict(float)
        changes: defaultdict[int, float] = defaultdict(float)
        for (first, last, length, start, end), amount in zip(self._spans, amounts, strict=False):
            if first == last:
                areas[first] += length * amount
                continue
            part = (first + 1 - start) * amount
            changes[first] += part
            changes[first + 1] += amount - part
            part = (end - last) * amount
            changes[last] += part - amount
            changes[last + 1] -= part
        for stretch, area in areas.items():
            changes[stretch] += area
            changes[stretch + 1] -= area
        return changes

    def of(self, members: Sequence[int]) -> Spans:
        """Return some of the spans."""
        some = Spans((), ())
        some._spans = [self._spans[member] for member in members]
        return some


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

    def spans(self, starts: Sequence[float], ends: Sequence[float]) -> Spans:
        """Return the spans between moments, in seconds since the epoch, without what was before the beginning."""
        self.reach(max(ends))
        begin, each = self.begin, 1 / self.width
        froms = [(start - begin) * each if start > begin else 0.0 for start in starts]
        return Spans(froms, [(end - begin) * each if end > begin else 0.0 for end in ends])

    def place(self, moment: float) -> float:
        """Return where a moment is, in stretches since the beginning; one before the beginning is at the beginning."""
        self.reach(moment)
        return max(0.0, moment - self.begin) / self.width

    @property
    def used(self) -> int:
        """How many stretches there are until the end."""
        return min(_STRETCHES, int((self.end - self.begin) / self.width) + 1)

    def points(self, points: int) -> tuple[list[float], float]:
        """Return the times of the points of curves, in seconds since the beginning, and the time between two."""
        each = max(1, -(-self.used // points))
        count = -(-self.used // each)
        return [n * each * self.width for n in range(count)], each * self.width
