"""The queues of ready tasks, one for each shape; when to start them; and what a failure costs."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from toilfn.ids import Budget, Cause, TaskId
from toilfn.resources import Resources
from toilfn.scheduler.events import GaveUp, Retry
from toilfn.scheduler.packing import Pool, Shape

__all__ = ["Charges", "Gathering", "Ready", "enlarged"]

_LOOKAHEAD = 32
"""The most shapes that are skipped because they do not fit, so that a turn costs the same with thousands of shapes."""


class _Lane:
    """Queues of shapes that take turns: the shape that was served moves to the back."""

    def __init__(self) -> None:
        self.queues: OrderedDict[Shape, deque[TaskId]] = OrderedDict()

    def queue(self, shape: Shape) -> deque[TaskId]:
        queue = self.queues.get(shape)
        if queue is None:
            queue = self.queues[shape] = deque()
        return queue

    def serve(self, shape: Shape) -> None:
        if shape in self.queues:
            self.queues.move_to_end(shape)

    def front(self) -> Iterator[Shape]:
        return islice(self.queues, _LOOKAHEAD)


class Ready:
    """Chooses which ready task comes next.

    Tasks of running families, which other tasks led to, come before all others, newest first: finishing families
    keeps graphs and values in memory small. The other tasks are first in, first out. Shapes take turns, and one
    that does not fit is skipped; but after it was skipped `patience` times, all others wait until it fits.

    A task that is no longer ready, although `pop` did not return it, stays in its queue: the caller of `pop` must
    check. `count` is exact.

    Parameters
    ----------
    patience : int
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._urgent = _Lane()
        self._fresh = _Lane()
        self._counts: dict[Shape, int] = {}
        self._passed: dict[Shape, int] = {}
        self._starving: Shape | None = None

    def __bool__(self) -> bool:
        return bool(self._counts)

    def shapes(self) -> list[Shape]:
        """Return the shapes that have ready tasks."""
        return list(self._counts)

    def count(self, shape: Shape) -> int:
        """Return how many tasks of a shape are ready."""
        return self._counts.get(shape, 0)

    def add(self, id: TaskId, shape: Shape, *, urgent: bool) -> None:
        """Add a task that became ready: before all others if it is urgent, otherwise behind them."""
        self._counts[shape] = self._counts.get(shape, 0) + 1
        if urgent:
            self._urgent.queue(shape).appendleft(id)
        else:
            self._fresh.queue(shape).append(id)

    def discard(self, shape: Shape) -> None:
        """Note that one task of a shape is no longer ready."""
        self._counts[shape] -= 1
        if not self._counts[shape]:
            del self._counts[shape]
            self._passed.pop(shape, None)
            self._urgent.queues.pop(shape, None)
            self._fresh.queues.pop(shape, None)

    def peek(self, shape: Shape) -> TaskId:
        """Return the next task of a shape, which may no longer be ready."""
        return (self._urgent if shape in self._urgent.queues else self._fresh).queues[shape][0]

    def pop(self, shape: Shape) -> None:
        """Remove the task that `peek` returned from its queue."""
        queues = (self._urgent if shape in self._urgent.queues else self._fresh).queues
        queue = queues[shape]
        queue.popleft()
        if not queue:
            del queues[shape]

    def is_urgent(self, shape: Shape) -> bool:
        """Return whether the next task of a shape belongs to a running family."""
        return shape in self._urgent.queues

    def choose_urgent(self, pool: Pool) -> Shape | None:
        """Return a shape for which there is room among those whose next task is urgent; None if there is none."""
        shape = next((shape for shape in self._urgent.front() if pool.has_room(shape)), None)
        return None if shape is None else self._serve(shape, [])

    def choose(self, pool: Pool) -> Shape | None:
        """Return the shape whose turn it is among those for which there is room; None if there is none."""
        if self._starving is not None and self._starving in self._counts and pool.can_when_empty(self._starving):
            return self._serve(self._starving, []) if pool.has_room(self._starving) else None
        passed: list[Shape] = []
        for shape in (*self._urgent.front(), *self._fresh.front()):
            if pool.has_room(shape):
                return self._serve(shape, passed)
            if pool.can_when_empty(shape):
                passed.append(shape)
        return None

    def _serve(self, shape: Shape, passed: list[Shape]) -> Shape:
        self._starving = None
        self._passed.pop(shape, None)
        for other in passed:
            self._passed[other] = self._passed.get(other, 0) + 1
            if self._starving is None and self._passed[other] > self._patience:
                self._starving = other
        self._urgent.serve(shape)
        self._fresh.serve(shape)
        return shape


class Gathering:
    """Lets ready tasks gather for a short time, so that many are submitted at once.

    Parameters
    ----------
    seconds : float
        From when there is something to start until all that is ready by then is started.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    @property
    def over_at(self) -> float | None:
        """The time at which to call `is_over` again; None if no task waits."""
        return None if self._since is None else self._since + self._seconds

    def is_over(self, now: float) -> bool:
        """Return whether ready tasks may start; called whenever there are some."""
        if not self._seconds:
            return True
        if self._since is None:
            self._since = now
        if now < self._since + self._seconds:
            return False
        self._since = None
        return True


_LONGEST_BACKOFF = 60.0
"""Seconds."""


class Charges:
    """Counts the failures of tasks that may yet succeed."""

    def __init__(self) -> None:
        self._counts: dict[TaskId, dict[Cause, int]] = {}

    def charge(self, id: TaskId, cause: Cause, budget: Budget, now: float) -> Retry | GaveUp:
        """Count a failure, and decide whether and when the task is tried again."""
        counts = self._counts.setdefault(id, {})
        counts[cause] = counts.get(cause, 0) + 1
        allowed = _allowed(budget, cause)
        if allowed is not None and counts[cause] > allowed:
            return GaveUp(id, cause)
        return Retry(id, cause, sum(counts.values()), now + _backoff(budget, cause, counts[cause]))

    def count(self, id: TaskId) -> int:
        """Count the failures of a task so far."""
        return sum(self._counts.get(id, {}).values())

    def forget(self, id: TaskId) -> None:
        """Forget a task that has an outcome."""
        self._counts.pop(id, None)


def _allowed(budget: Budget, cause: Cause) -> int | None:
    """Return how many failures of a cause a budget allows."""
    if cause is Cause.INPUT:
        return 0
    allowed: int | None = getattr(budget, cause.value)
    return allowed


def _backoff(budget: Budget, cause: Cause, failures: int) -> float:
    """Return how many seconds to wait before the next attempt."""
    if cause in (Cause.LOST, Cause.PREEMPTED):
        return 0.0
    return min(_LONGEST_BACKOFF, budget.backoff * 2.0 ** min(failures - 1, 100))


def enlarged(asked: Resources, cause: Cause, budget: Budget, most_memory: float, longest: float) -> Resources:
    """Return larger limits, in bytes and seconds, for the resource that an attempt exceeded, if the budget allows."""
    if cause is Cause.MEMORY and budget.double_memory:
        return replace(asked, memory=int(_doubled(asked.memory, most_memory)))
    if cause is Cause.WALLTIME and budget.double_walltime and asked.walltime is not None:
        return replace(asked, walltime=_doubled(asked.walltime, longest))
    return asked


def _doubled(amount: float, most: float) -> float:
    """Double an amount, up to the most that the cluster has; never make it smaller."""
    return min(2 * amount, max(amount, most))
