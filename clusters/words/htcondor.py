"""What HTCondor says of jobs in ClassAds and event logs, and what that means.

Follows the manual's "Job ClassAd Attributes" and "Job Event Log Codes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toilfn.clusters.base import JobState
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.polled import Found
from toilfn.events import Cause

__all__ = ["ATTRIBUTES", "HELD", "STATES", "event_log", "job_ad"]

ATTRIBUTES = (
    "ClusterId", "ProcId", "JobStatus", "JobBatchName", "ExitCode", "ExitBySignal", "ExitSignal", "HoldReasonCode",
    "HoldReason", "RemoveReason", "RemoteHost", "LastRemoteHost",
)  # fmt: skip
"""What is asked of each job."""

STATES: dict[int, tuple[JobState, Cause | None]] = {
    1: (JobState.QUEUED, None),  # idle
    2: (JobState.RUNNING, None),
    3: (JobState.ENDED, Cause.LOST),  # removed
    4: (JobState.ENDED, None),  # completed
    5: (JobState.ENDED, Cause.ERROR),  # held
    6: (JobState.RUNNING, None),  # transferring output
    7: (JobState.RUNNING, None),  # suspended
}
"""HTCondor's JobStatus and ours."""

HELD: dict[int, Cause] = {
    34: Cause.MEMORY,  # over its memory
    46: Cause.WALLTIME,  # over allowed_job_duration
    47: Cause.WALLTIME,  # over allowed_execute_duration
    13: Cause.LOST,  # could not be started, and the like: another node may do
    6: Cause.LOST,
}
"""HTCondor's HoldReasonCode and our cause; others are errors."""

_EVENT = re.compile(r"^(\d{3}) \((\d+)\.(\d+)\.\d+\) (.*?)^\.\.\.$", re.MULTILINE | re.DOTALL)
_HOST = re.compile(r"executing on host: (\S+)(?:.*SlotName: (\S+))?", re.DOTALL)


def job_ad(ad: Mapping[str, Any]) -> Found:
    """Judge a job's ClassAd."""
    status = ad["JobStatus"]
    state, cause = STATES.get(status, (JobState.UNKNOWN, None))
    if status == 5:
        return Found(state, HELD.get(ad.get("HoldReasonCode", 0), Cause.ERROR), f"held: {ad.get('HoldReason')}", True)
    if status == 3:
        return Found(state, cause, f"removed: {ad.get('RemoveReason')}")
    if status == 4:
        signal = ad.get("ExitSignal", 0) if ad.get("ExitBySignal") else 0
        return _ended(0 if signal else ad.get("ExitCode", 0), signal, ad.get("LastRemoteHost", "unknown host"))
    return Found(state, cause, f"JobStatus {status}")


def event_log(text: str) -> dict[tuple[str, int], Found]:
    """Read the ends of jobs, by cluster and process, from an event log; one that is cut short says what it has."""
    ended: dict[tuple[str, int], Found] = {}
    hosts: dict[tuple[str, int], str] = {}
    for code, cluster, process, said in _EVENT.findall(text):
        job = (str(int(cluster)), int(process))
        if match := _HOST.search(said):
            hosts[job] = match[2] or match[1]
        if found := _event(code, said, hosts.get(job, "unknown host")):
            ended[job] = found
    return ended


def _event(code: str, said: str, host: str) -> Found | None:
    """Judge one event; None for those that do not end a job."""
    if code == "009":  # aborted
        reason = " ".join(said.split("\n", 1)[-1].split())
        return Found(JobState.ENDED, Cause.LOST, f"removed: {reason}")
    if code == "005":  # terminated
        status, signal = re.search(r"return value (\d+)", said), re.search(r"signal (\d+)", said)
        return _ended(int(status[1]) if status else 0, int(signal[1]) if signal and not status else 0, host)
    return None


def _ended(status: int, signal: int, host: str) -> Found:
    words = f"signal {signal}" if signal else f"exit status {status}"
    return Found(JobState.ENDED, exit_cause(status, signal), f"{words}, on {host}")
