"""What qstat and qacct say of jobs, and what that means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from toilfn.clusters.base import JobState
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.polled import Found
from toilfn.events import Cause

__all__ = ["FAILED", "STATES", "accounted", "queue_state"]

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "E": (JobState.ENDED, Cause.ERROR),
    "d": (JobState.RUNNING, None),
    "r": (JobState.RUNNING, None),
    "t": (JobState.RUNNING, None),
    "s": (JobState.RUNNING, None),
    "S": (JobState.RUNNING, None),
    "T": (JobState.RUNNING, None),
    "w": (JobState.QUEUED, None),
    "q": (JobState.QUEUED, None),
    "h": (JobState.QUEUED, None),
}
"""Letters of qstat's states and ours; the first of these that a state has decides. No letter means that it ended."""

FAILED: dict[int, Cause] = {
    19: Cause.LOST,  # no exit status: the execution daemon or the node died
    21: Cause.LOST,  # the execution host is not known any more
    22: Cause.LOST,
    25: Cause.PREEMPTED,  # rescheduled
    24: Cause.PREEMPTED,  # migrated
    37: Cause.WALLTIME,  # qmaster enforced h_rt, h_cpu or h_vmem
}
"""Numbers of ``failed`` in accounting records (accounting(5), sge_status(5)); others are errors of starting the job."""

_AFTER_JOB = 100
"""``failed`` of a job that a signal ended."""


def queue_state(letters: str) -> Found:
    """Judge the letters of qstat's state."""
    state, cause = next((STATES[letter] for letter in STATES if letter in letters), (JobState.UNKNOWN, None))
    return Found(state, cause, f"state {letters}", is_stuck=state is JobState.ENDED)


def accounted(fields: Mapping[str, str]) -> Found:
    """Judge a record of qacct."""
    failed, status = _number(fields, "failed"), _number(fields, "exit_status")
    cause = exit_cause(status)
    if failed not in (0, _AFTER_JOB):
        cause = FAILED.get(failed, Cause.ERROR)
    elif cause is Cause.LOST and _number(fields, "ru_wallclock") >= _limit(fields, "h_rt"):
        cause = Cause.WALLTIME
    words = [f"failed {fields['failed'].strip()}"] if failed else []
    words += [f"exit status {status}", f"on {fields.get('hostname', 'no host').strip()}"]
    return Found(JobState.ENDED, cause, ", ".join(words))


def _number(fields: Mapping[str, str], name: str) -> int:
    match = re.match(r"\d+", fields.get(name, ""))
    return int(match[0]) if match else 0


def _limit(fields: Mapping[str, str], name: str) -> float:
    match = re.search(rf"\b{name}=(\d+)", fields.get("category", ""))
    return float(match[1]) if match else math.inf
