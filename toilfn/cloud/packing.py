"""Compute how many tasks fit on a node within a time, by first fit into its free resources.

The timeline of a node is a list of steps. Each has the amounts that are free from its start until the start of the next
step. Tasks of one shape are placed together, so that the cost of packing depends on the number of shapes, not of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from toilfn.resources import Resources

__all__ = ["SHORTEST", "Amounts", "Timeline", "amounts_of"]

SHORTEST = 1.0
"""Minimum number of seconds to assume for a task."""

_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Amounts:
    """Amounts of the resources of a node: cores, bytes of memory and disk, and number of accelerators."""

    cores: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    accelerators: float = 0.0

    def values(self) -> tuple[float, float, float, float]:
        """Return the amounts in the order of the fields."""
        return self.cores, self.memory, self.disk, self.accelerators

    def minus(self, other: Amounts, times: float = 1) -> Amounts:
        """Return the amounts that are left after `other` is subtracted `times` times."""
        return Amounts(
            self.cores - times * other.cores, self.memory - times * other.memory, self.disk - times * other.disk,
            self.accelerators - times * other.accelerators,
        )  # fmt: skip

    def fits(self, need: Amounts) -> float:
        """Return how many times a need fits into these amounts: a whole number, or infinity if it is zero."""
        count = math.inf  # not a loop over the fields, since packing spends most of its time here
        if need.cores > 0:
            count = self.cores / need.cores
        if need.memory > 0:
            count = min(count, self.memory / need.memory)
        if need.disk > 0:
            count = min(count, self.disk / need.disk)
        if need.accelerators > 0:
            count = min(count, self.accelerators / need.accelerators)
        return count if count == math.inf else max(0, math.floor(count + _SLACK))

    def share_of(self, whole: Amounts) -> float:
        """Return the largest of the ratios between these amounts and those of `whole`."""
        pairs = zip(self.values(), whole.values(), strict=True)
        return max((own / all_ for own, all_ in pairs if all_ > 0), default=0.0)


def amounts_of(resources: Resources) -> Amounts:
    """Return the amounts that a task requests."""
    devices = sum(accelerator.count for accelerator in resources.accelerators)
    return Amounts(resources.cores, resources.memory, resources.disk, devices)


class Timeline:
    """The free resources of a node at each time from now on.

    Parameters
    ----------
    free : Amounts
        The amounts of the idle node.
    """

    __slots__ = ("_starts", "_steps")

    def __init__(self, free: Amounts) -> None:
        self._starts = [0.0]
        self._steps = [free]

    def copy(self) -> Timeline:
        """Return an independent copy."""
        other = object.__new__(Timeline)
        other._starts, other._steps = list(self._starts), list(self._steps)
        return other

    def key(self) -> tuple[tuple[float, ...], tuple[Amounts, ...]]:
        """Return a hashable value that is equal for equal timelines."""
        return tuple(self._starts), tuple(self._steps)

    def least(self) -> Amounts:
        """Return the minimum of each free amount over time; negative if more was taken than the node has."""
        return Amounts(*(min(column) for column in zip(*(step.values() for step in self._steps), strict=True)))

    def take(self, need: Amounts, seconds: float) -> None:
        """Subtract the need of a running task, which will end after a number of seconds."""
        self._subtract(need, 1, 0.0, seconds)

    def place(self, need: Amounts, seconds: float, count: int, deadline: float) -> int:
        """Place up to `count` tasks, each at the earliest time at which it fits.

        Parameters
        ----------
        need : Amounts
            The amounts that each task needs.
        seconds : float
            The time that each task takes; infinite for services.
        count : int
            The number of tasks.
        deadline : float
            The time, in seconds from now, by which a task must end if it does not start at once.

        Returns
        -------
        int
            The number of tasks that were placed.
        """
        seconds = max(seconds, SHORTEST)
        placed, index = 0, 0
        while placed < count and index < len(self._starts):
            start = self._starts[index]
            if start > 0 and start + seconds > deadline:
                break
            lanes = int(min(count - placed, self._lanes(need, index, start + seconds)))
            if lanes > 0:
                waves = self._waves(index, seconds, deadline, (count - placed) // lanes)
                self._subtract(need, lanes, start, start + waves * seconds)
                placed += lanes * waves
            index += 1
        return placed

    def _lanes(self, need: Amounts, index: int, end: float) -> float:
        return min(self._steps[i].fits(need) for i in self._covered(index, end))

    def _covered(self, index: int, end: float) -> Iterator[int]:
        """Yield the indices of the steps from `index` on that begin before a time."""
        yield index
        for i in range(index + 1, len(self._starts)):
            if self._starts[i] >= end:
                return
            yield i

    def _waves(self, index: int, seconds: float, deadline: float, wanted: int) -> int:
        """Return how many times tasks can run one after another from the start of a step on."""
        if math.isinf(seconds):
            return 1
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else math.inf
        waves = (min(end, deadline) - start) / seconds + _SLACK
        return max(1, min(int(waves), wanted) if math.isfinite(waves) else wanted)

    def _subtract(self, need: Amounts, lanes: int, start: float, end: float) -> None:
        first = self._boundary(start)
        last = len(self._starts) if math.isinf(end) else self._boundary(end)
        for i in range(first, last):
            self._steps[i] = self._steps[i].minus(need, lanes)

    def _boundary(self, time: float) -> int:
        """Return the index of the step that begins at a time; if there is none, split a step there."""
        for i, start in enumerate(self._starts):
            if abs(start - time) < _SLACK:
                return i
            if start > time:
                self._starts.insert(i, time)
                self._steps.insert(i, self._steps[i - 1])
                return i
        self._starts.append(time)
        self._steps.append(self._steps[-1])
        return len(self._starts) - 1
