"""What squeue and sacct say of jobs, and what that means."""

from __future__ import annotations

from toilfn.clusters.base import JobId, JobState
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.polled import Found
from toilfn.events import Cause

__all__ = ["HOPELESS", "STATES", "accounting_row", "queue_row"]

_QUEUED, _RUNNING, _ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "PENDING": (_QUEUED, None),
    "CONFIGURING": (_QUEUED, None),
    "REQUEUED": (_QUEUED, None),
    "REQUEUE_FED": (_QUEUED, None),
    "REQUEUE_HOLD": (_QUEUED, None),
    "RESV_DEL_HOLD": (_QUEUED, None),
    "SPECIAL_EXIT": (_QUEUED, None),
    "RUNNING": (_RUNNING, None),
    "COMPLETING": (_RUNNING, None),
    "RESIZING": (_RUNNING, None),
    "SIGNALING": (_RUNNING, None),
    "STAGE_OUT": (_RUNNING, None),
    "STOPPED": (_RUNNING, None),
    "SUSPENDED": (_RUNNING, None),
    "COMPLETED": (_ENDED, None),
    "FAILED": (_ENDED, Cause.ERROR),
    "OUT_OF_MEMORY": (_ENDED, Cause.MEMORY),
    "TIMEOUT": (_ENDED, Cause.WALLTIME),
    "DEADLINE": (_ENDED, Cause.WALLTIME),
    "PREEMPTED": (_ENDED, Cause.PREEMPTED),
    "NODE_FAIL": (_ENDED, Cause.LOST),
    "BOOT_FAIL": (_ENDED, Cause.LOST),
    "LAUNCH_FAILED": (_ENDED, Cause.LOST),
    "CANCELLED": (_ENDED, Cause.LOST),
    "REVOKED": (_ENDED, Cause.LOST),
}
"""Slurm's words (squeue(1), "JOB STATE CODES") and ours."""


HOPELESS = (
    "AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionNodeLimit",
    "PartitionTimeLimit", "QOSNotAllowed",
)  # fmt: skip
"""Reasons (squeue(1), "JOB REASON CODES") for which a job may wait until somebody changes it or the site."""


def queue_row(line: str) -> tuple[JobId, Found]:
    """Read a line of ``squeue --Format``, whose columns are 64, 32, 16, 64 and 256 wide."""
    job, state, code, nodes, reason = (
        line[a:b].strip() for a, b in ((0, 64), (64, 96), (96, 112), (112, 176), (176, None))
    )
    status = int(code) if code.isdigit() else 0
    return JobId(job), _found(state, status >> 8, status & 127, nodes, reason)


def accounting_row(line: str) -> tuple[JobId, Found]:
    """Read a line of ``sacct --parsable2``: job, state, exit status and signal, nodes."""
    job, state, code, nodes = line.split("|")
    status, _, signal = code.partition(":")
    return JobId(job), _found(state.split()[0], int(status), int(signal or 0), nodes, "")


def _found(word: str, status: int, signal: int, nodes: str, reason: str) -> Found:
    state, cause = STATES.get(word, (JobState.UNKNOWN, None))
    reason = "" if reason in ("None", "JobLaunchFailure", "NonZeroExitCode") else reason
    if state is not JobState.ENDED:
        return Found(state, None, f"{word} {reason}".strip())
    if word == "FAILED":
        cause = exit_cause(status, signal)
    parts = [word, f"exit status {status}" if status else "", f"signal {signal}" if signal else "", reason]
    parts += ["before it started" if nodes in ("", "None assigned") else f"on {nodes}"]
    return Found(state, cause, ", ".join(part for part in parts if part))
