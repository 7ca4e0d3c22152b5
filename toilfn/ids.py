"""Names that every room shares: ids of tasks and batches, causes of failures, and retry budgets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

__all__ = ["BatchId", "Budget", "Cause", "TaskId"]

TaskId: TypeAlias = bytes
"""Sixteen bytes: the task's identity."""


BatchId: TypeAlias = int
"""A number the scheduler gives to each batch it submits, never used twice."""


class Cause(str, Enum):
    """Why an attempt ended without an outcome; each has a retry budget of its own."""

    ERROR = "error"
    """The task raised, or its process ended on its own."""
    MEMORY = "memory"
    """Killed for using more memory than it requested."""
    WALLTIME = "walltime"
    """Killed for taking longer than it requested."""
    LOST = "lost"
    """The worker or its node died."""
    PREEMPTED = "preempted"
    """The node was taken away as agreed."""
    INPUT = "input"
    """A retry cannot fix it: the value cannot be stored, the requirement cannot be met."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many times an attempt may fail for each cause before the task is given up.

    ``None`` is without limit. ``double_memory`` doubles the memory after `Cause.MEMORY`, and ``double_walltime``
    the walltime after `Cause.WALLTIME`, up to the largest that the capacity can give; what was doubled stays so.
    """

    error: int | None = 1
    memory: int | None = 1
    walltime: int | None = 1
    lost: int | None = 3
    preempted: int | None = None
    double_memory: bool = False
    double_walltime: bool = False
    backoff: float = 0.5
    """Seconds before the first retry after an error; doubled for each further one, at most 60."""
