"""The scheduler's policy, from the settings."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from toilfn.config.settings import Settings
from toilfn.resources import Capacity
from toilfn.scheduler import Policy

__all__ = ["CHECK_VARIABLE", "capped", "policy", "worker_memory"]

CHECK_VARIABLE = "TOILFN_CHECK_SCHEDULER"
"""Has the scheduler check its whole state each time it starts tasks; for tests, and to find a bug."""

_PROBES = 4
_MOST_IN_A_BUNDLE = 1000

_ON_QUEUES: dict[str, Any] = {
    "target_seconds": 120.0, "max_batch": _MOST_IN_A_BUNDLE, "probes": 16, "probe_patience": 600.0, "spread": 32,
}  # fmt: skip
"""The default, as an administrator would want it: few tasks are submitted one by one; of many, some show
how long they take before the others are put together into jobs of some minutes."""


def policy(settings: Settings, gather: float, *, is_queue: bool) -> Policy:
    """Return how tasks are put together.

    Parameters
    ----------
    settings : Settings
    gather : float
        For how many seconds tasks wait for others where the user does not say.
    is_queue : bool
        Whether the cluster has its own queue: a job is slow to start there, and it is worthwhile to find out first
        how much goes into one.
    """
    chosen = Policy(gather=gather if settings.gather is None else settings.gather, check=CHECK_VARIABLE in os.environ)
    if settings.fresh_process:
        return replace(chosen, target_seconds=0.0, max_batch=1)
    if settings.bundle is None:
        return replace(chosen, **_ON_QUEUES) if is_queue else chosen
    chosen = replace(chosen, target_seconds=settings.bundle)
    return replace(chosen, max_batch=_MOST_IN_A_BUNDLE, probes=_PROBES) if is_queue and settings.bundle else chosen


def worker_memory(settings: Settings, *, is_local: bool) -> int:
    """Return how many bytes a worker needs for itself.

    A worker takes 31 MiB before its first task. With the driver of a bucket, it takes 70 MiB, and 140 MiB while it
    reads two large files and writes a third.

    Parameters
    ----------
    settings : Settings
    is_local : bool
        Whether the store is a directory.
    """
    if settings.worker_memory is not None:
        return settings.worker_memory
    return (64 if is_local else 150) * 2**20


def capped(capacity: Capacity, settings: Settings) -> Capacity:
    """Combine the user's limits with the cluster's capacity: they hold wherever tasks run."""
    batches = min((n for n in (capacity.batches, settings.max_jobs) if n is not None), default=None)
    services = (settings.max_service_tasks, settings.max_preemptible_service_tasks)
    limits = (settings.max_cores, settings.max_memory, settings.max_disk)
    return Capacity(capacity.total, capacity.largest, batches, services[0], services[1], *limits)
