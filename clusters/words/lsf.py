"""What bjobs and bhist say of jobs, and what that means."""

from __future__ import annotations

import re
from typing import Any

from toilfn.clusters.base import JobState
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.polled import Found
from toilfn.events import Cause

__all__ = ["REASONS", "STATES", "history", "queue_record"]

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "PEND": (JobState.QUEUED, None),
    "PROV": (JobState.QUEUED, None),
    "PSUSP": (JobState.QUEUED, None),
    "WAIT": (JobState.QUEUED, None),
    "RUN": (JobState.RUNNING, None),
    "USUSP": (JobState.RUNNING, None),
    "SSUSP": (JobState.RUNNING, None),
    "DONE": (JobState.ENDED, None),
    "EXIT": (JobState.ENDED, Cause.ERROR),
    "UNKWN": (JobState.UNKNOWN, None),
    "ZOMBI": (JobState.ENDED, Cause.LOST),
}
"""LSF's words (bjobs, STAT) and ours."""

REASONS: dict[str, Cause] = {
    "TERM_MEMLIMIT": Cause.MEMORY,
    "TERM_SWAP": Cause.MEMORY,
    "TERM_RUNLIMIT": Cause.WALLTIME,
    "TERM_CPULIMIT": Cause.WALLTIME,
    "TERM_DEADLINE": Cause.WALLTIME,
    "TERM_PREEMPT": Cause.PREEMPTED,
    "TERM_LOAD": Cause.PREEMPTED,
    "TERM_WINDOW": Cause.PREEMPTED,
    "TERM_REQUEUE_OWNER": Cause.PREEMPTED,
    "TERM_REQUEUE_ADMIN": Cause.PREEMPTED,
    "TERM_REQUEUE_RC": Cause.PREEMPTED,
    "TERM_ADMIN": Cause.LOST,
    "TERM_BUCKET_KILL": Cause.LOST,
    "TERM_EXTERNAL_SIGNAL": Cause.LOST,
    "TERM_FORCE_ADMIN": Cause.LOST,
    "TERM_FORCE_OWNER": Cause.LOST,
    "TERM_OWNER": Cause.LOST,
    "TERM_UNKNOWN": Cause.LOST,
    "TERM_ZOMBIE": Cause.LOST,
}
"""Why LSF ended a job (bjobs, exit_reason), and our cause."""

_BLOCK = re.compile(r"^Job <(\d+)(?:\[(\d+)\])?>,(.*?)(?=^-{20,}$|^Job <|\Z)", re.MULTILINE | re.DOTALL)


def queue_record(record: dict[str, Any]) -> Found:
    """Judge a record of ``bjobs -json``."""
    state, cause = STATES.get(record["STAT"], (JobState.UNKNOWN, None))
    status, reason, host = int(record.get("EXIT_CODE") or 0), record.get("EXIT_REASON") or "", record.get("EXEC_HOST")
    if record["STAT"] == "EXIT":
        cause = REASONS.get(reason.partition(":")[0], exit_cause(status) or Cause.LOST)
    words = [record["STAT"], f"exit status {status}" if status else "", reason, f"on {host}" if host else ""]
    return Found(state, cause, ", ".join(word for word in words if word))


def history(text: str) -> dict[tuple[str, int], Found]:
    """Read what ``bhist -l -UF`` says of jobs that ended, by id and index (0 where there is no array)."""
    return {(base, int(index or 0)): found for base, index, said in _BLOCK.findall(text) if (found := _past(said))}


def _past(said: str) -> Found | None:
    """Judge what the events of one job say; None if it has not ended."""
    host = (
        re.findall(r"(?:Dispatched|Started)[^;]*? on Host\(s\) <([^>]+)>|[Dd]ispatched to <([^>]+)>", said)
        or [("", "")]
    )[-1]
    where = f", on {''.join(host)}" if any(host) else ""
    if re.search(r"Done successfully|Completed <done>", said):
        return Found(JobState.ENDED, None, f"DONE{where}")
    if not re.search(r"Exited|Completed <exit>", said):
        return None
    status = re.findall(r"Exited (?:with exit code|by signal) (\d+)", said)
    signal = re.search(r"Exited by signal (\d+)", said)
    reason = (re.findall(r"\bTERM_[A-Z_]+", said) or [""])[-1]
    cause = REASONS.get(reason) or exit_cause(
        0 if signal else int((status or [0])[-1]), int(signal[1]) if signal else 0
    )
    words = [
        "EXIT",
        f"exit status {status[-1]}" if status and not signal else "",
        f"signal {signal[1]}" if signal else "",
        reason,
    ]
    return Found(JobState.ENDED, cause or Cause.LOST, ", ".join(word for word in words if word) + where)
