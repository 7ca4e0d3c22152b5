"""Interpret the status of a task (TaskStatus in the v1 API)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from toilfn.clusters.base import JobState
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.ids import Cause

__all__ = ["QUEUED", "STATES", "found"]

QUEUED = Found(JobState.QUEUED, None, "waits for an offer")

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "TASK_STAGING": (JobState.QUEUED, None),
    "TASK_STARTING": (JobState.QUEUED, None),
    "TASK_RUNNING": (JobState.RUNNING, None),
    "TASK_KILLING": (JobState.RUNNING, None),
    "TASK_FINISHED": (JobState.ENDED, None),
    "TASK_FAILED": (JobState.ENDED, Cause.ERROR),
    "TASK_KILLED": (JobState.ENDED, Cause.LOST),
    "TASK_ERROR": (JobState.ENDED, Cause.ERROR),
    "TASK_LOST": (JobState.ENDED, Cause.LOST),
    "TASK_DROPPED": (JobState.ENDED, Cause.LOST),
    "TASK_GONE": (JobState.ENDED, Cause.LOST),
    "TASK_GONE_BY_OPERATOR": (JobState.ENDED, Cause.LOST),
    "TASK_UNREACHABLE": (JobState.UNKNOWN, None),
    "TASK_UNKNOWN": (JobState.UNKNOWN, None),
}
"""The states of Mesos (TaskState) and their meanings."""

REASONS: dict[str, Cause] = {
    "REASON_CONTAINER_LIMITATION_MEMORY": Cause.MEMORY,
    "REASON_EXECUTOR_TERMINATED": Cause.LOST,
    "REASON_CONTAINER_LAUNCH_FAILED": Cause.LOST,
    "REASON_CONTAINER_PREEMPTED": Cause.PREEMPTED,
}
"""Reasons for a failure that are more specific than the state."""

_NODE_IS_GONE = ("REASON_AGENT_REMOVED", "REASON_SLAVE_REMOVED", "REASON_AGENT_UNKNOWN", "REASON_AGENT_DISCONNECTED")
_FORGOTTEN = ("TASK_LOST", "TASK_GONE", "TASK_GONE_BY_OPERATOR")
"""States in the answers to reconciliation requests for tasks of nodes that no longer exist."""


def found(status: Mapping[str, Any], *, is_preemptible: bool) -> Found:
    """Interpret a task's status.

    Parameters
    ----------
    status : mapping
        The TaskStatus.
    is_preemptible : bool
        Whether the task's node is preemptible.
    """
    word, reason = status["state"], status.get("reason", "")
    state, cause = STATES.get(word, (JobState.UNKNOWN, None))
    if cause is not None:
        cause = REASONS.get(reason) or _exit(status) or cause
        is_forgotten = reason == "REASON_RECONCILIATION" and word in _FORGOTTEN
        if is_preemptible and (reason in _NODE_IS_GONE or is_forgotten):
            cause = Cause.PREEMPTED
    said = [word, reason.removeprefix("REASON_").lower().replace("_", " "), status.get("message", "")]
    return Found(state, cause, "; ".join(text for text in said if text))


def _exit(status: Mapping[str, Any]) -> Cause | None:
    """Interpret the exit status, which our executor sends as data."""
    if "data" not in status:
        return None
    return exit_cause(json.loads(base64.b64decode(status["data"]))["status"])
