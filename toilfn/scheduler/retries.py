"""What a failure costs: another attempt, now or later, or the task."""

from __future__ import annotations

from toilfn.events import Budget, Cause, GaveUp, Retry, TaskId

__all__ = ["Charges"]

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

    def forget(self, id: TaskId) -> None:
        """Forget a task that has an outcome."""
        self._counts.pop(id, None)


def _allowed(budget: Budget, cause: Cause) -> int | None:
    """Say how many failures a budget bears."""
    if cause is Cause.INPUT:
        return 0
    allowed: int | None = getattr(budget, cause.value)
    return allowed


def _backoff(budget: Budget, cause: Cause, failures: int) -> float:
    """Say how many seconds to wait before the next attempt."""
    if cause in (Cause.LOST, Cause.PREEMPTED):
        return 0.0
    return min(_LONGEST_BACKOFF, budget.backoff * 2.0 ** min(failures - 1, 100))
