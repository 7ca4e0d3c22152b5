"""What qstat and tracejob of Torque and of PBS Professional say of jobs, and what that means.

Follows Torque's "Job Exit Status" and the PBS Professional Reference Guide, "Job Exit Status Codes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from toilfn.clusters.base import JobState
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.polled import Found
from toilfn.events import Cause

__all__ = ["PBS_EXITS", "STATES", "TORQUE_EXITS", "job_found", "traced"]

STATES: dict[str, JobState] = {
    "Q": JobState.QUEUED,
    "H": JobState.QUEUED,
    "W": JobState.QUEUED,
    "T": JobState.QUEUED,
    "M": JobState.QUEUED,
    "B": JobState.QUEUED,
    "R": JobState.RUNNING,
    "E": JobState.RUNNING,
    "S": JobState.RUNNING,
    "U": JobState.RUNNING,
    "C": JobState.ENDED,
    "F": JobState.ENDED,
    "X": JobState.ENDED,
}
"""Letters of qstat's states and ours."""

TORQUE_EXITS: dict[int, Cause] = {-10: Cause.MEMORY, -11: Cause.WALLTIME, -12: Cause.WALLTIME}
"""Exit statuses that Torque makes up, and our cause; other negative ones are failures to start a job."""

PBS_EXITS: dict[int, Cause] = {
    -11: Cause.PREEMPTED,  # rerun
    -14: Cause.PREEMPTED,
    -26: Cause.MEMORY,
    -27: Cause.MEMORY,
    -28: Cause.WALLTIME,
    -29: Cause.WALLTIME,
}
"""The same for PBS Professional."""


def job_found(attributes: Mapping[str, str], exits: Mapping[int, Cause]) -> Found:
    """Judge what qstat -f says of a job; `exits` are the system's own exit statuses."""
    letter = attributes.get("job_state", "")
    state = STATES.get(letter, JobState.UNKNOWN)
    if state is not JobState.ENDED:
        return Found(state, None, f"state {letter}")
    text = attributes.get("Exit_status", attributes.get("exit_status"))
    if text is None:
        return Found(state, Cause.LOST, "deleted before it started")
    return _ended(int(text), exits, attributes.get("comment", attributes.get("sched_hint", "")))


def traced(text: str, exits: Mapping[int, Cause]) -> Found | None:
    """Judge what tracejob says of a job; None if that has not ended."""
    status = re.findall(r"\bExit_status=(-?\d+)", text)
    if status:
        return _ended(int(status[-1]), exits, "by tracejob")
    deleted = re.search(r"^\S+ \S+\s+[A-Z]\s+(?:Job deleted|requestor=\S+|Job Deleted\b.*)", text, re.MULTILINE)
    return Found(JobState.ENDED, Cause.LOST, "deleted before it started") if deleted else None


def _ended(status: int, exits: Mapping[int, Cause], comment: str) -> Found:
    """Judge an exit status: negative ones are the system's own, over 256 stands for a signal, as over 128 in shells."""
    if status < 0:
        cause: Cause | None = exits.get(status, Cause.ERROR)
    else:
        cause = exit_cause(status % 256, status - 256) if status > 256 else exit_cause(status)
    return Found(JobState.ENDED, cause, ", ".join(filter(None, (f"exit status {status}", comment))))
