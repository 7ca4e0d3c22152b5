"""Jobs killed at random, for people who want to see that their workflow bears it."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from typing import TypeVar

__all__ = ["BadWorkers"]

T = TypeVar("T")


class BadWorkers:
    """Chooses who is to be killed.

    Parameters
    ----------
    probability : float
        With which each job is chosen in one interval, from 0 to 1.
    interval : float
        Seconds.
    """

    def __init__(self, probability: float, interval: float) -> None:
        self._probability = probability
        self._interval = interval
        self._next = time.monotonic() + interval if probability else float("inf")
        self._random = random.Random()  # noqa: S311 - this is no secret

    def choose(self, jobs: Collection[T]) -> Sequence[T]:
        """Choose among the jobs that run now; none before an interval has gone by."""
        now = time.monotonic()
        if now < self._next:
            return ()
        self._next = now + self._interval
        return [job for job in jobs if self._random.random() < self._probability]
