"""Types that all packages share: ids of tasks and batches, causes of failures, and retry budgets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

__all__ = ["BatchId", "Budget", "Cause", "TaskId"]

TaskId: TypeAlias = bytes
"""The id of a task: a digest of 16 bytes."""


BatchId: TypeAlias = int
"""The number of a batch, which the scheduler assigns and never uses again."""


class Cause(str, Enum):
    """The reason why an attempt failed. Each cause has its own retry budget."""

    ERROR = "error"
    """The task raised an exception, or ended its process."""
    MEMORY = "memory"
    """The task was killed because it used more memory than it requested."""
    WALLTIME = "walltime"
    """The task was killed because it took longer than it requested."""
    LOST = "lost"
    """The worker or its node died."""
    PREEMPTED = "preempted"
    """The preemptible node was taken away."""
    INPUT = "input"
    """A failure that a retry cannot fix, such as a value that cannot be stored, or a requirement that cannot be met."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The number of retries of a task for each cause of failure.

    ``None`` means no limit. ``double_memory`` doubles the task's memory after `Cause.MEMORY`, and ``double_walltime``
    its walltime after `Cause.WALLTIME`, up to the most that the cluster offers. Later attempts keep the doubled value.
    """

    error: int | None = 1
    memory: int | None = 1
    walltime: int | None = 1
    lost: int | None = 3
    preempted: int | None = None
    double_memory: bool = False
    double_walltime: bool = False
    backoff: float = 0.5
    """Seconds before the first retry after an error. Each further retry waits twice as long, but at most 60 seconds."""
