"""Waiting for a condition, with a limit. Tests never wait for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from toilfn.clusters.base import JobState, Update

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str = "", limit: float = 120.0, interval: float = 0.02) -> T:
    """Wait until a condition is true, and return its value.

    Parameters
    ----------
    condition : callable
        Called again and again; what it raises fails the test.
    what : str
        What the test waits for, for the error.
    limit : float
        Seconds after which the test fails. It only has to be longer than a busy machine takes.
    interval : float
        Seconds between two calls.
    """
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {limit:g} s in vain for {what or 'a condition'}"
        time.sleep(interval)
    return value


def end_of(cluster: Any, job: str, limit: float = 120.0) -> Update:
    """Poll a cluster until a job ends, and return the update that says so."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        for update in cluster.poll(0.5):
            if update.job == job and update.state is JobState.ENDED:
                return update
    raise AssertionError(f"waited {limit:g} s in vain for the end of {job}: {cluster._live}")
