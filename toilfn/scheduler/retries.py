"""The price of a failure: another attempt, now or later, or the task."""

from __future__ import annotations

from dataclasses import replace

from toilfn.ids import Budget, Cause, TaskId
from toilfn.resources import Resources
from toilfn.scheduler.events import GaveUp, Retry

__all__ = ["Charges", "enlarged"]

_LONGEST_BACKOFF = 60.0
"""Seconds."""


class Charges:
    """The failures of the tasks that have failed and may yet succeed."""

    def __init__(self) -> None:
        self._counts: dict[TaskId, dict[Cause, int]] = {}

    def charge(self, id: TaskId, cause: Cause, budget: Budget, now: float) -> Retry | GaveUp:
        """Count a failure and say what follows."""
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
    """Return how many failures a budget bears."""
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
    """Return more of what an attempt died of, if the budget says so, and as much as there is: bytes and seconds."""
    if cause is Cause.MEMORY and budget.double_memory:
        return replace(asked, memory=int(_doubled(asked.memory, most_memory)))
    if cause is Cause.WALLTIME and budget.double_walltime and asked.walltime is not None:
        return replace(asked, walltime=_doubled(asked.walltime, longest))
    return asked


def _doubled(amount: float, most: float) -> float:
    """Double an amount, up to the most there is; it never gets less."""
    return min(2 * amount, max(amount, most))
