"""Jobs in the cluster's queue: the log records them, and a warning names those that may wait forever."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator

from toilfn.clusters.base import JobId
from toilfn.leader.committer import Committer
from toilfn.leader.jobs import SubmittedBatch
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.units import format_duration

__all__ = ["Queued", "Waiting"]

_OWN_LIMIT = re.compile(r"limit|exceed|(QOS|Assoc)\w*(Max|Grp)|reached|max_run|MaxJobs", re.IGNORECASE)
"""Reasons that systems give for a job that waits because the user has other jobs."""

_FIRST_WARNING, _NEXT_WARNING = 60.0, 3600.0
"""Seconds after which a job that does not start is named, and after which it is named again."""

_NO_REASON = 24.0
"""How many times longer clients of services may wait where the reason is not the user's own jobs: queues are long."""

_WRITE_AGAIN, _REASONS_AGAIN = 5.0, 60.0
"""Seconds between two records of waiting jobs, and between two records in which only reasons have changed."""

_SHOWN = 5
"""How many jobs a warning names."""


class Queued:
    """Records which jobs wait in the cluster's queue, for commands that read the store.

    Parameters
    ----------
    committer : Committer
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._written: dict[JobId, str] = {}
        """The jobs that the log says are waiting, and why."""
        self._next_look = self._next_reasons = 0.0

    def write(self, batches: Iterable[SubmittedBatch], now: float) -> None:
        """Record changes, periodically."""
        if now < self._next_look:
            return
        live = {batch.job: batch for batch in batches if batch.job is not None}
        waiting = {job: batch.reason for job, batch in live.items() if batch.is_queued}
        begun = self._written.keys() - waiting.keys()
        if waiting.keys() == self._written.keys() and (waiting == self._written or now < self._next_reasons):
            return
        changed = {job: why for job, why in waiting.items() if self._written.get(job) != why}
        record = records.Queue(
            {str(job): why for job, why in changed.items()}, tuple(sorted(begun & live.keys())), time.time()
        )
        self._committer.add(encode(record))
        self._written = waiting
        self._next_look, self._next_reasons = now + _WRITE_AGAIN, now + _REASONS_AGAIN


class Waiting:
    """Watches jobs that wait in the cluster's queue.

    Parameters
    ----------
    patience : float
        For how many seconds the clients of services may wait because of the user's own jobs while only services run.
    warn : callable
        Called with each warning.
    """

    def __init__(self, patience: float, warn: Callable[[str], None]) -> None:
        self._patience = patience
        self._warn = warn
        self._next_look = 0.0
        self._warned: dict[str, float] = {}

    def stuck(self, batches: Iterable[SubmittedBatch], now: float) -> Iterator[tuple[SubmittedBatch, str]]:
        """Warn about jobs that may never start, and return the batches that have waited too long, and why."""
        if now < self._next_look:
            return
        self._next_look = now + 1.0
        live = [batch for batch in batches if batch.job is not None]
        waiting = [batch for batch in live if batch.is_queued and not batch.is_withdrawn]
        self._name_held([batch for batch in waiting if batch.is_held], now)
        serving = [batch for batch in live if not batch.is_queued]
        if not waiting or not serving or not all(batch.service for batch in serving):
            return
        since = max(batch.queued_since for batch in waiting)
        is_ours = all(_OWN_LIMIT.search(batch.reason) for batch in waiting)
        limit = self._patience if is_ours else self._patience * _NO_REASON
        text = (
            f"waits in the queue ({waiting[0].reason or 'no reason given'}) while only "
            f"{len(serving)} service{'s' * (len(serving) != 1)} of the workflow run{'s' * (len(serving) == 1)} "
            f"({_jobs(serving)})"
        )
        if now - since >= limit:
            advice = "ask for a higher limit of running jobs, or raise service_patience"
            yield from ((batch, f"{text}, for {format_duration(now - since)}; {advice}") for batch in waiting)
        elif now - since >= min(_FIRST_WARNING, limit / 4):
            self._say(f"job {_jobs(waiting)} {text}; it fails after {format_duration(limit)} (service_patience)", now)

    def _name_held(self, held: list[SubmittedBatch], now: float) -> None:
        due = [batch for batch in held if now - batch.queued_since >= _FIRST_WARNING]
        for reason in dict.fromkeys(batch.reason for batch in due):
            jobs = [batch for batch in due if batch.reason == reason]
            self._say(
                f"job {_jobs(jobs)} may never start: {reason}; you or an administrator must change something", now
            )

    def _say(self, text: str, now: float) -> None:
        key = re.sub(r"\d+", "", text)
        if now - self._warned.get(key, float("-inf")) >= _NEXT_WARNING:
            self._warned[key] = now
            self._warn(text)


def _jobs(batches: list[SubmittedBatch]) -> str:
    names = [str(batch.job) for batch in batches[:_SHOWN]]
    return ", ".join(names + ["..."] * (len(batches) > _SHOWN))
