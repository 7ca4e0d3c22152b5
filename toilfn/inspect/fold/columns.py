"""The parts of a fold: tasks, kinds, workers and attempts.

The first classes keep statistics of very many values in little memory: `Curve`, `Levels`, `Figures`, `Usage`.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from math import fsum
from operator import mul, sub
from typing import Any, NamedTuple, TypeAlias

from toilfn.ids import TaskId
from toilfn.inspect.view import State
from toilfn.resources import Resources
from toilfn.stores.segments import Segment

__all__ = [
    "FIGURES", "MEASURES", "Attempts", "Block", "Curve", "Detail", "Figures", "Item", "Kind", "Levels", "Row", "Spans",
    "Sums", "Timescale", "Usage", "Variant", "Worker", "total",
]  # fmt: skip

_STRETCHES = 2048
"""The most stretches; when the time is longer, pairs of stretches become one."""


class Curve(NamedTuple):
    """A quantity over time, for drawing."""

    means: list[float]
    """Of each stretch."""
    peaks: list[float]
    """The greatest mean of a much shorter stretch in each."""


class Levels:
    """A quantity at each time. The area below the curve is always exact.

    Each number is the difference between the mean of a stretch and that of the one before, so that a
    span of any length changes four of them.
    """

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes = [0.0] * (_STRETCHES + 2)

    def take(self, changes: Mapping[int, float], factor: float = 1.0) -> None:
        """Add the result of `Spans.changes`, multiplied by a factor."""
        own = self._changes
        for stretch, change in changes.items():
            own[stretch] += factor * change

    def step(self, moment: float, amount: float) -> None:
        """Raise the level by an amount from a moment on, which is in stretches since the beginning."""
        first = int(moment)
        part = (first + 1 - moment) * amount
        self._changes[first] += part
        self._changes[first + 1] += amount - part

    def plus(self, other: Levels, factor: float = 1.0) -> Levels:
        """Return the sum of this and another one, which is multiplied by a factor."""
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
        """Return the difference between each stretch's mean and that of the one before, given each span's amount."""
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
        The latest time so far.
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
        """Extend the scale so that it includes a time."""
        self.end = max(self.end, end)
        while self.end - self.begin >= self.width * (_STRETCHES - 1):
            self.width *= 2
            for level in self.levels:
                level.halve()

    def spans(self, starts: Sequence[float], ends: Sequence[float]) -> Spans:
        """Return the spans between moments, in seconds since the epoch, cut off at the beginning."""
        self.reach(max(ends))
        begin, each = self.begin, 1 / self.width
        froms = [(start - begin) * each if start > begin else 0.0 for start in starts]
        return Spans(froms, [(end - begin) * each if end > begin else 0.0 for end in ends])

    def place(self, moment: float) -> float:
        """Return a moment in stretches since the beginning; an earlier one counts as the beginning."""
        self.reach(moment)
        return max(0.0, moment - self.begin) / self.width

    @property
    def used(self) -> int:
        """The number of stretches until the end."""
        return min(_STRETCHES, int((self.end - self.begin) / self.width) + 1)

    def points(self, points: int) -> tuple[list[float], float]:
        """Return the times of the points of curves, in seconds since the beginning, and the time between two."""
        each = max(1, -(-self.used // points))
        count = -(-self.used // each)
        return [n * each * self.width for n in range(count)], each * self.width


_BLOCK = 2048
"""Values of one weight that are kept. The median of more values is exact within half a percent of their ranks."""

FIGURES = ("min", "median", "mean", "max", "total")


class Figures:
    """The least, median, mean and greatest value of very many, without keeping them all.

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
    """Sums over all attempts. Memory is multiplied by the time for which it was held, if its use is known."""

    attempts: int = 0
    failed: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    wait: float = 0.0
    cores_asked: float = 0.0
    """Cores times seconds."""
    memory_asked: float = 0.0
    """Bytes times seconds; the following fields, too."""
    memory_used: float = 0.0
    read: float = 0.0
    written: float = 0.0
    requests: float = 0.0

    def plus(self, other: Sums) -> Sums:
        """Return the sum of both."""
        return Sums._make(mine + its for mine, its in zip(self, other, strict=True))


MEASURES = ("wall", "cpu", "idle", "wait", "memory", "memory asked", "worker", "disk", "disk asked", "read", "written")
_FROM_COLUMNS = {"wall": 1, "cpu": 2, "memory": 3, "worker": 10, "disk": 9, "read": 6, "written": 7, "wait": 11}
"""Where a measure is in the fields of `Stats`, to which the time of waiting is appended."""


class Usage:
    """The resources that attempts of tasks of one name used: measures of successful attempts, and sums of all."""

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


class Detail(IntEnum):
    """How much a fold keeps; each value includes those before it."""

    STATES = 0
    """States, errors and running tasks."""
    USAGE = 1
    """Statistics of each kind."""
    CURVES = 2
    """Levels over time, workers, and how kinds lead to each other."""
    ATTEMPTS = 3
    """All attempts: their times, and the places of their records."""


class Row(NamedTuple):
    """One task."""

    number: int
    """From 0, in the order in which the store learnt of them."""
    id: TaskId
    name: str
    state: State
    attempts: int
    """The number of finished attempts."""
    since: float
    """When it was given to the cluster, if it is there now, in seconds since the epoch."""
    job: str
    reason: str
    """Why the job waits, in the words of the cluster's system."""
    cause: str
    error: str
    """Why the last attempt failed: its one-line message."""

    @property
    def short_id(self) -> str:
        """The start of the id in hexadecimal, which commands understand."""
        return self.id.hex()[:12]


class Kind:
    """The tasks of one name.

    Attributes
    ----------
    name : str
    number : int
    usage : Usage
    running : Levels or None
        How many attempts ran at each time.
    """

    __slots__ = ("name", "number", "running", "usage")

    def __init__(self, name: str, number: int, running: Levels | None) -> None:
        self.name = name
        self.number = number
        self.usage = Usage()
        self.running = running


class Variant(NamedTuple):
    """Tasks of one kind that request the same resources."""

    kind: Kind
    asked: Resources
    options: dict[str, Any]
    """The options of their function with their own; those that are missing have the newest run's defaults."""


class Worker:
    """A process that ran attempts; or all processes of one host, when there are very many."""

    __slots__ = ("attempts", "busy", "cpu", "failed", "host", "levels", "process")

    def __init__(self, host: str, process: int, levels: Levels) -> None:
        self.host = host
        self.process = process
        self.levels = levels
        self.attempts = self.failed = 0
        self.busy = self.cpu = 0.0


class Attempts:
    """The columns of all attempts, in the order in which they finished.

    Attributes
    ----------
    is_whole : bool
        False if there are too many, so that none are kept.
    """

    def __init__(self, *, is_whole: bool = True) -> None:
        self.is_whole = is_whole
        self.task = array("I")
        self.cause = array("B")
        self.start, self.wall, self.cpu, self.wait = array("d"), array("f"), array("f"), array("f")
        self.memory = array("Q")
        self.worker = array("I")
        self.segment, self.offset, self.size = array("I"), array("Q"), array("I")
        self.segments: list[str] = []
        self.causes: list[str] = [""]
        self.workers: dict[tuple[str, int], int] = {}


Item: TypeAlias = tuple[Sequence[Any], int, int]
"""A record: its kind and its fields, its offset in the segment, and its size."""


class Block:
    """Records of a segment that wait to be taken: first the tasks, then the outcomes.

    An outcome may wait while further tasks are recorded, and while tasks that are known without it are given to the
    cluster.
    """

    __slots__ = ("outcomes", "segment", "tasks")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.tasks: list[Item] = []
        self.outcomes: dict[TaskId, Item] = {}
