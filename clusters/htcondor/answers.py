"""What HTCondor says of jobs in ClassAds and event logs, and what that means.

Text that is not a job's ClassAd or an event gives no verdict, and never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from toilfn.clusters.base import JobState
from toilfn.clusters.common.json_output import json_values
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import Verdict, ended, exceeded, exit_cause, queued, running, unknown
from toilfn.ids import Cause

__all__ = [
    "ATTRIBUTES",
    "EVENTS",
    "HOLDS",
    "STATES",
    "ad_key",
    "batch_names",
    "event_log",
    "hold",
    "job_ad",
    "json_ads",
]

ATTRIBUTES = (
    "ClusterId", "ProcId", "JobStatus", "JobBatchName", "ExitCode", "ExitBySignal", "ExitSignal", "HoldReasonCode",
    "HoldReasonSubCode", "HoldReason", "RemoveReason", "RemoteHost", "LastRemoteHost",
)  # fmt: skip
"""Attributes that are requested for each job."""

_STATUS = 'HTCondor manual, "Job ClassAd Attributes", JobStatus'
_HOLD = 'HTCondor manual, "Hold Reason Codes"'
_OLD_HOLD = "HTCondor, src/condor_includes/condor_holdcodes.h"
_EVENTS = 'HTCondor manual, "Job Event Log Codes"'

STATES: dict[int, Verdict] = {
    0: unknown("not yet a whole job", _STATUS),
    1: queued("idle", _STATUS),
    2: running("running", _STATUS),
    3: ended(Cause.LOST, "removed", _STATUS),
    4: ended(None, "completed", _STATUS),
    5: queued("held", _STATUS),
    6: running("transferring output", _STATUS),
    7: running("suspended", _STATUS),
}
"""JobStatus. For 4 the exit code decides, for 5 the hold's code."""

HOLDS: dict[tuple[int, int | None], Verdict] = {
    (1, None): queued("held by condor_hold, until somebody releases it", _HOLD),
    (2, None): ended(Cause.LOST, "held by an error of Globus", _OLD_HOLD),
    (3, None): ended(Cause.ERROR, "held by the policy in its own description", _HOLD),
    (4, None): ended(Cause.LOST, "its credentials are not valid", _HOLD),
    (5, None): ended(Cause.ERROR, "the policy in its own description is undefined", _HOLD),
    (6, None): ended(Cause.LOST, "the node could not start it", _HOLD),
    (7, None): ended(Cause.LOST, "the node could not open its output", _HOLD),
    (8, None): ended(Cause.LOST, "the node could not open its input", _HOLD),
    (9, None): ended(Cause.LOST, "its output stream could not be opened", _HOLD),
    (10, None): ended(Cause.LOST, "its input stream could not be opened", _HOLD),
    (11, None): ended(Cause.LOST, "an error of the protocol of file transfer", _HOLD),
    (12, None): ended(Cause.LOST, "its output could not be transferred", _HOLD),
    (13, None): ended(Cause.LOST, "its input could not be transferred", _HOLD),
    (14, None): ended(Cause.LOST, "the node cannot reach its working directory", _HOLD),
    (15, None): queued("submitted on hold, until somebody releases it", _HOLD),
    (16, None): queued("its input is being spooled", _HOLD),
    (17, None): ended(Cause.LOST, "its shadow has another version", _HOLD),
    (18, None): ended(Cause.LOST, "an error of the protocol of file transfer", _HOLD),
    (19, None): ended(Cause.LOST, "the node's hook that prepares jobs failed", _HOLD),
    (20, None): ended(Cause.LOST, "it missed the time at which it was to start", _HOLD),
    (21, None): ended(Cause.LOST, "held by the policy of the node", _HOLD),
    (21, 102): ended(Cause.MEMORY, "held by the policy of the node, over its memory", _HOLD),
    (21, 104): ended(Cause.ERROR, "held by the policy of the node, over its disk space", _HOLD),
    (22, None): ended(Cause.LOST, "its event log could not be opened", _HOLD),
    (23, None): ended(Cause.LOST, "its user's account is out of reach", _HOLD),
    (24, None): ended(Cause.LOST, "there is no shadow that fits", _HOLD),
    (25, None): ended(Cause.ERROR, "its times for cron are not valid", _HOLD),
    (26, None): ended(Cause.ERROR, "held by the policy of the site", _HOLD),
    (26, 102): ended(Cause.MEMORY, "held by the policy of the site, over its memory", _HOLD),
    (26, 104): ended(Cause.ERROR, "held by the policy of the site, over its disk space", _HOLD),
    (27, None): ended(Cause.LOST, "the policy of the site is undefined", _HOLD),
    (28, None): ended(Cause.LOST, "its folder could not be handed to its user", _OLD_HOLD),
    (29, None): ended(Cause.LOST, "its folder could not be handed to its user", _OLD_HOLD),
    (30, None): ended(Cause.LOST, "its folder could not be handed back", _OLD_HOLD),
    (31, None): ended(Cause.LOST, "its folder could not be handed back", _OLD_HOLD),
    (32, None): ended(Cause.ERROR, "its input is larger than what may be transferred", _HOLD),
    (33, None): ended(Cause.ERROR, "its output is larger than what may be transferred", _HOLD),
    (34, None): ended(Cause.MEMORY, "over what it asked for", _HOLD),
    (34, 102): ended(Cause.MEMORY, "over its memory", _HOLD),
    (34, 104): ended(Cause.ERROR, "over its disk space", _HOLD),
    (35, None): ended(Cause.ERROR, "its Docker image is not valid", _HOLD),
    (36, None): ended(Cause.ERROR, "it failed when it was asked for a checkpoint", _HOLD),
    (37, None): ended(Cause.ERROR, "an error of its settings for EC2", _HOLD),
    (38, None): ended(Cause.LOST, "an internal error with EC2", _HOLD),
    (39, None): ended(Cause.LOST, "an error of the site's settings for EC2", _HOLD),
    (40, None): ended(Cause.LOST, "EC2 was out of reach", _HOLD),
    (41, None): ended(Cause.LOST, "an error of EC2's server", _HOLD),
    (42, None): ended(Cause.LOST, "its EC2 instance may be lost", _HOLD),
    (43, None): ended(Cause.ERROR, "its script before the job failed", _HOLD),
    (44, None): ended(Cause.ERROR, "its script after the job failed", _HOLD),
    (45, None): ended(Cause.LOST, "the node's test of singularity failed", _HOLD),
    (46, None): ended(Cause.WALLTIME, "over its allowed duration", _HOLD),
    (47, None): ended(Cause.WALLTIME, "over its allowed time of execution", _HOLD),
    (48, None): ended(Cause.LOST, "the shadow's hook that prepares jobs failed", _HOLD),
}
"""HoldReasonCode with its HoldReasonSubCode (None: any other). A job whose hold is final is removed from the queue."""

_SPOOLING = 16
_RESOURCES = 34
"""The code of holds for what a job used; releases before 9.10 have no subcode."""

_POLICIES = (3, 21, 26)
"""Codes of holds by expressions that a person wrote: the reason's words may say what was exceeded."""

EVENTS: dict[str, Verdict] = {
    "000": queued("submitted", _EVENTS),
    "001": running("executing", _EVENTS),
    "002": unknown("error in the executable", _EVENTS),
    "003": unknown("checkpoint written", _EVENTS),
    "004": queued("evicted", _EVENTS),
    "005": ended(Cause.LOST, "terminated", _EVENTS),
    "006": unknown("size of the image", _EVENTS),
    "007": queued("its shadow failed", _EVENTS),
    "008": unknown("generic", _EVENTS),
    "009": ended(Cause.LOST, "aborted", _EVENTS),
    "010": running("suspended", _EVENTS),
    "011": running("unsuspended", _EVENTS),
    "012": queued("held", _EVENTS),
    "013": queued("released", _EVENTS),
    "014": unknown("a node of a parallel job executes", _EVENTS),
    "015": unknown("a node of a parallel job terminated", _EVENTS),
    "016": unknown("a script after the job terminated", _EVENTS),
    "021": unknown("error of the node", _EVENTS),
    "022": unknown("its node is out of reach", _EVENTS),
    "023": running("its node was reached again", _EVENTS),
    "024": queued("its node could not be reached again", _EVENTS),
    "025": unknown("a resource of a grid is up", _EVENTS),
    "026": unknown("a resource of a grid is down", _EVENTS),
    "027": unknown("submitted to a grid", _EVENTS),
    "028": unknown("information on the ClassAd", _EVENTS),
    "029": unknown("its state on a grid is unknown", _EVENTS),
    "030": unknown("its state on a grid is known again", _EVENTS),
    "031": unknown("input of a grid job is transferred", _EVENTS),
    "032": unknown("output of a grid job is transferred", _EVENTS),
    "033": unknown("an attribute changed", _EVENTS),
    "034": unknown("skipped by a script before the job, in a DAG", _EVENTS),
    "035": unknown("cluster submitted", _EVENTS),
    "036": unknown("cluster removed", _EVENTS),
    "037": unknown("factory of jobs paused", _EVENTS),
    "038": unknown("factory of jobs resumed", _EVENTS),
    "039": unknown("nothing", _EVENTS),
    "040": unknown("files are transferred", _EVENTS),
    "041": unknown("space reserved", _EVENTS),
    "042": unknown("space released", _EVENTS),
    "043": unknown("file complete", _EVENTS),
    "044": unknown("file used", _EVENTS),
    "045": unknown("file removed", _EVENTS),
    "046": ended(Cause.LOST, "skipped as a dataflow job", _EVENTS),
}
"""The events of a job's log; what tells nothing of its state is unknown. For 005 the value tells how the job ended."""


def json_ads(text: str) -> list[dict[str, Any]] | None:
    """Read the ClassAds that ``condor_q -json`` prints, which is nothing for none; None for what is not an answer."""
    if not text.strip():
        return []
    for ads in json_values(text):
        if isinstance(ads, list) and (not ads or any(isinstance(ad, dict) for ad in ads)):
            return [ad for ad in ads if isinstance(ad, dict)]
    return None


def ad_key(ad: Mapping[str, Any]) -> tuple[str, int] | None:
    """Read a job's cluster and process from its ClassAd."""
    cluster, process = _whole(ad, "ClusterId"), _whole(ad, "ProcId")
    return None if cluster is None or process is None else (str(cluster), process)


def job_ad(ad: Mapping[str, Any]) -> Found | None:
    """Judge a job's ClassAd; None if it has no status."""
    status = _whole(ad, "JobStatus")
    if status is None:
        return None
    if status == 4:
        return _completed(ad)
    code, reason = _whole(ad, "HoldReasonCode"), _words(ad, "HoldReason")
    if status == 5:
        return hold(code, _whole(ad, "HoldReasonSubCode"), reason)
    if status == 3:
        why = _words(ad, "RemoveReason")
        removed = Found(JobState.ENDED, _removal(why), f"removed: {why or 'no reason told'}")
        return _removed(removed, None if code is None else hold(code, _whole(ad, "HoldReasonSubCode"), reason))
    known = STATES.get(status)
    return Found(known.state if known else JobState.UNKNOWN, None, f"JobStatus {status}")


def hold(code: int | None, subcode: int | None, reason: str) -> Found:
    """Judge a hold: a person's is waited for; what the system holds for a failure will not run any more."""
    said = f"held: {reason or 'no reason told'}"
    if not code:
        return Found(JobState.QUEUED, None, said, is_held=True)
    precise = None if subcode is None else HOLDS.get((code, subcode))
    row = precise or HOLDS.get((code, None)) or ended(Cause.LOST, "held for a reason that is new", _HOLD)
    cause = row.cause
    if code in _POLICIES and precise is None:
        cause = exceeded(reason) or cause
    elif code == _RESOURCES and precise is None and re.search(r"\bdisk\b", reason, re.IGNORECASE):
        cause = Cause.ERROR
    detail = f"{said} (code {code}{'' if subcode is None else f'/{subcode}'}: {row.meaning})"
    is_over = row.state is JobState.ENDED
    return Found(row.state, cause, detail, is_stuck=is_over, is_held=not is_over and code != _SPOOLING)


def _removal(reason: str) -> Cause:
    """Return why a job was removed: the site's policy may name what was exceeded."""
    by_policy = re.search(r"PERIODIC_REMOVE|policy|exceed", reason, re.IGNORECASE)
    return (exceeded(reason) if by_policy else None) or Cause.LOST


def _removed(removed: Found, held: Found | None) -> Found:
    """Judge a removal: of a job that was held for a failure, that is the reason."""
    if held is None or held.state is not JobState.ENDED:
        return removed
    return Found(JobState.ENDED, held.cause, f"{held.detail}; {removed.detail}")


def _completed(ad: Mapping[str, Any]) -> Found:
    host = _words(ad, "LastRemoteHost") or "unknown host"
    by_signal = ad.get("ExitBySignal")
    if by_signal is True or str(by_signal).lower() == "true":
        return _ended(None, _whole(ad, "ExitSignal"), host)
    return _ended(_whole(ad, "ExitCode"), None, host)


def _whole(ad: Mapping[str, Any], name: str) -> int | None:
    value = ad.get(name)
    if isinstance(value, (bool, Enum)):  # the bindings' "undefined" and "error" are whole numbers, too
        return None
    match = re.fullmatch(r"-?\d{1,18}", str(value).strip()) if isinstance(value, (int, str)) else None
    return int(match[0]) if match else None


def _words(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return "" if value is None or isinstance(value, Enum) else " ".join(str(value).split())


# Event logs.

_EVENT = re.compile(r"^(\d{3}) \((\d{1,9})\.(\d{1,9})\.\d{1,9}\) (.*?)^\.\.\.\s*?$", re.MULTILINE | re.DOTALL)
_HOST = re.compile(r"executing on host: (\S+)(?:.*SlotName: (\S+))?", re.DOTALL)


@dataclass(slots=True)
class _Job:
    host: str = "unknown host"
    held: Found | None = None
    end: Found | None = None


def event_log(text: str) -> dict[tuple[str, int], Found]:
    """Read the ends of jobs, by cluster and process, from an event log; one that is cut short says what it has."""
    jobs: dict[tuple[str, int], _Job] = {}
    for code, cluster, process, said in _EVENT.findall(text):
        if code in EVENTS:
            _event(jobs.setdefault((str(int(cluster)), int(process)), _Job()), code, said)
    return {key: job.end for key, job in jobs.items() if job.end is not None}


def _event(job: _Job, code: str, said: str) -> None:
    """Take note of one event of a job."""
    row = EVENTS.get(code)
    if row is None or row.state is JobState.UNKNOWN:
        return
    if row.state is not JobState.ENDED:
        job.held = job.end = None
    if code == "001" and (match := _HOST.search(said)):
        job.host = match[2] or match[1]
    elif code == "012":
        job.held = _held_event(said)
    elif code == "009":
        reason = " ".join(said.split("\n", 1)[-1].split())
        found = Found(JobState.ENDED, _removal(reason), f"removed: {reason}")
        job.end = _removed(found, job.held)
    elif code == "005":
        job.end = _terminated(said, job.host)
    elif row.state is JobState.ENDED:
        job.end = Found(row.state, row.cause, row.meaning)


def _held_event(said: str) -> Found:
    code = re.search(r"^\s*Code (-?\d{1,9}) Subcode (-?\d{1,9})", said, re.MULTILINE)
    reason = [line.strip() for line in said.split("\n")[1:] if line.strip() and not line.strip().startswith("Code ")]
    return hold(int(code[1]) if code else None, int(code[2]) if code else None, " ".join(reason))


def _terminated(said: str, host: str) -> Found:
    status = re.search(r"Normal termination \(return value (-?\d{1,9})\)", said)
    signal = re.search(r"Abnormal termination \(signal (\d{1,9})\)", said)
    return _ended(int(status[1]) if status else None, int(signal[1]) if signal and not status else None, host)


def _ended(status: int | None, signal: int | None, host: str) -> Found:
    """Judge how a process ended; a process without a status has not ended well."""
    if signal:
        return Found(JobState.ENDED, exit_cause(0, signal), f"signal {signal}, on {host}")
    if status is None:
        return Found(JobState.ENDED, Cause.LOST, f"ended without an exit status, on {host}")
    return Found(JobState.ENDED, exit_cause(status), f"exit status {status}, on {host}")


def batch_names(ads: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Return the batch names of jobs that have not ended, by cluster and process."""
    live = [ad for ad in ads if (found := job_ad(ad)) is not None and found.state is not JobState.ENDED]
    return {key: _words(ad, "JobBatchName") for ad in live if (key := ad_key(ad)) is not None}
