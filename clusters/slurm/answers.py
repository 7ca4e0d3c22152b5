"""Interpret the output of squeue and sacct.

The tables follow Slurm's manual from 20.11 to 25.05; each row names its page. Other lines, such as notices of the site,
are skipped: parsing returns a verdict or nothing, and never raises an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from toilfn.clusters.base import JobId, JobState
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.ids import Cause

__all__ = [
    "REASONS", "SIGNALS", "SPOT_FEATURES", "STATES", "State", "accounting_answer", "names_answer", "node_of_lost",
    "queue_answer", "reclaimed_answer",
]  # fmt: skip

_QUEUED, _RUNNING, _ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED

_SQUEUE = "squeue(1), JOB STATE CODES"
_FLAGS = "job_state_codes.html, Job flags"
_WHY = "job_reason_codes.html"


class State(NamedTuple):
    """The meaning of a state."""

    code: str
    """The short form that ``squeue`` prints; empty if there is none."""
    state: JobState
    cause: Cause | None
    page: str
    is_held: bool = False
    is_ending: bool = False
    is_stuck: bool = False


STATES: dict[str, State] = {
    "PENDING": State("PD", _QUEUED, None, _SQUEUE),
    "CONFIGURING": State("CF", _QUEUED, None, _SQUEUE),
    "POWER_UP_NODE": State("", _QUEUED, None, _FLAGS),
    "EXPEDITING": State("", _QUEUED, None, _FLAGS),
    "REQUEUED": State("RQ", _QUEUED, None, _SQUEUE),
    "REQUEUE_FED": State("RF", _QUEUED, None, _SQUEUE),
    "REQUEUE_HOLD": State("RH", _QUEUED, None, _SQUEUE, is_held=True),
    "RESV_DEL_HOLD": State("RD", _QUEUED, None, _SQUEUE, is_held=True),
    "SPECIAL_EXIT": State("SE", _QUEUED, None, _SQUEUE, is_held=True),
    "RUNNING": State("R", _RUNNING, None, _SQUEUE),
    "RESIZING": State("RS", _RUNNING, None, _SQUEUE),
    "SIGNALING": State("SI", _RUNNING, None, _SQUEUE),
    "STOPPED": State("ST", _RUNNING, None, _SQUEUE),
    "SUSPENDED": State("S", _RUNNING, None, _SQUEUE),
    "UPDATE_DB": State("", _RUNNING, None, _FLAGS),
    "COMPLETING": State("CG", _RUNNING, None, _SQUEUE, is_ending=True),
    "STAGE_OUT": State("SO", _RUNNING, None, _SQUEUE, is_ending=True),
    "COMPLETED": State("CD", _ENDED, None, _SQUEUE),
    "FAILED": State("F", _ENDED, Cause.ERROR, _SQUEUE),
    "OUT_OF_MEMORY": State("OOM", _ENDED, Cause.MEMORY, _SQUEUE),
    "TIMEOUT": State("TO", _ENDED, Cause.WALLTIME, _SQUEUE),
    "DEADLINE": State("DL", _ENDED, Cause.LOST, _SQUEUE),  # the option --deadline is not a time limit
    "PREEMPTED": State("PR", _ENDED, Cause.PREEMPTED, _SQUEUE),
    "NODE_FAIL": State("NF", _ENDED, Cause.LOST, _SQUEUE),
    "BOOT_FAIL": State("BF", _ENDED, Cause.LOST, _SQUEUE),
    "CANCELLED": State("CA", _ENDED, Cause.LOST, _SQUEUE),
    "REVOKED": State("RV", _ENDED, Cause.LOST, _SQUEUE, is_stuck=True),  # a sibling may be alive in another cluster
    "LAUNCH_FAILED": State("", _ENDED, Cause.LOST, _FLAGS, is_stuck=True),
    "RECONFIG_FAIL": State("", _ENDED, Cause.LOST, _FLAGS, is_stuck=True),
}
"""The states and flags of Slurm, and their meanings."""

_CODES = {row.code: word for word, row in STATES.items() if row.code}

REASONS: tuple[tuple[str, bool, str], ...] = (
    ("JobHeldAdmin|JobHeldUser|JobHoldMaxRequeue", True, _WHY),
    ("DependencyNeverSatisfied|BadConstraints|DeadLine|BurstBufferOperation", True, _WHY),
    ("AccountNotAllowed|InvalidAccount|InvalidQOS|QOSNotAllowed|AccountingPolicy", True, _WHY),
    ("PartitionConfig|PartitionDown|PartitionInactive|PartitionNodeLimit|PartitionTimeLimit", True, _WHY),
    ("ReservationDeleted|RequiresReservation|MaxMemPerLimit|QOSMin.*", True, _WHY),
    ("(Assoc|QOS)Max.*Per(Job|Node)(Limit)?", True, _WHY),
    (r".*\bheld\b.*", True, "squeue(1), ReasonList: a job that was requeued and held"),
    (r"Nodes required for job are DOWN.*|ReqNodeNotAvail, ?UnavailableNodes.*", True, "squeue(1), JOB REASON CODES"),
    ("(Assoc|QOS)(Grp|Max).*|Max.*PerAccount|Association(Job|Resource|Time)Limit|QOS.*(Limit|Threshold)", False, _WHY),
    ("BeginTime|Dependency|Priority|Resources|Licenses|Reservation|Constraints|JobArrayTaskLimit", False, _WHY),
    ("Burst.*|Cleaning|FedJobLock|FrontEndDown|InactiveLimit|NodeDown|Prolog|ReqNodeNotAvail.*", False, _WHY),
    ("Power.*|Reboot.*|Sched.*|WaitingForScheduling|None|SystemFailure|JobLaunchFailure", False, _WHY),
    ("NonZeroExitCode|RaisedSignal.*|OutOfMemory|TimeLimit", False, _WHY),
)
"""Reasons why a job waits: a pattern, and whether it waits until a user or an administrator acts. The first match
decides."""

_ENDS: dict[str, Cause] = {
    "OutOfMemory": Cause.MEMORY,
    "TimeLimit": Cause.WALLTIME,
    "SystemFailure": Cause.LOST,
    "NodeDown": Cause.LOST,
    "InactiveLimit": Cause.LOST,
}
"""Reasons (job_reason_codes.html) that are more specific than the state FAILED."""

SIGNALS: dict[int, Cause] = {
    125: Cause.MEMORY,  # SIG_OOM of src/common/slurm_protocol_defs.h, truncated to seven bits
    53: Cause.LOST,  # slurmd could not set up the job, for example because it could not open the output
}
"""Signal numbers with a special meaning in Slurm (``ExitCode`` of sacct(1))."""

_UNSAID = ("", "None", "null", "JobLaunchFailure", "NonZeroExitCode")

SPOT_FEATURES = frozenset({"spot", "preemptible"})
"""Features of preemptible nodes; `toilfn cluster launch` and other launchers set the first one."""

_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]?))?")

_MOST = 1_000_000
"""Maximum number of elements in an expression; no site allows as many."""


def queue_answer(text: str) -> dict[JobId, Found]:
    """Parse lines of ``squeue --Format`` with columns of 64, 32, 16, 64 and 256 characters."""
    return _joined(_queue_row(line) for line in text.splitlines())


def accounting_answer(text: str) -> dict[JobId, Found]:
    """Parse lines of ``sacct --parsable2``: job, state, exit status and signal, nodes."""
    return _joined(_accounting_row(line) for line in text.splitlines())


def names_answer(text: str) -> Iterator[tuple[JobId, str, str]]:
    """Parse lines of job, cluster and name, separated by bars, and yield them for each job and array element."""
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        cluster, bar, name = rest.partition("|")
        match = _ID.fullmatch(job.strip())
        if match and bar:
            for one in _elements(match) or [JobId(match[1])]:
                yield one, cluster.strip(), name.strip()


def node_of_lost(found: Found) -> str:
    """Return the node of a job that was lost with its node, or was killed by a signal; empty for a cancelled job.

    A range such as ``n[1-3]`` is ignored, since a job of one task has only one node.
    """
    killed = r"FAILED, .*(?:signal (?:9|15)|exit status (?:137|143))\b"
    match = re.fullmatch(rf"(?:NODE_FAIL|{killed}).*, on ([\w.-]+)", found.detail)
    return match[1] if match and found.cause is Cause.LOST else ""


def reclaimed_answer(text: str) -> dict[str, str]:
    """Parse lines of node, features and reason, separated by bars: the nodes that a cloud has reclaimed or never had.

    The value is the reason if toilfn set it; for a node in a pool of spot machines it is empty.
    """
    found = {}
    for line in text.splitlines():
        node, features, reason = (part.strip() for part in (*line.split("|"), "", "")[:3])
        own = reason if reason.startswith("toilfn: ") else ""
        if own or SPOT_FEATURES & set(features.split(",")):
            found[node] = own
    return found


def _queue_row(line: str) -> tuple[re.Match[str], Found] | None:
    job, state, code, nodes, reason = (
        line[a:b].strip() for a, b in ((0, 64), (64, 96), (96, 112), (112, 176), (176, None))
    )
    inside = re.fullmatch(r"\((.*)\)", reason)  # as in the default format of squeue
    return _row(job, state, code, nodes, inside[1] if inside and ")" not in inside[1] else reason)


def _accounting_row(line: str) -> tuple[re.Match[str], Found] | None:
    job, state, code, nodes, *_ = (part.strip() for part in (*line.split("|"), "", "", "", ""))
    return _row(job, state, code, nodes, "")


def _row(job: str, state: str, code: str, nodes: str, reason: str) -> tuple[re.Match[str], Found] | None:
    match = _ID.fullmatch(job)
    word = _word(state)
    return (match, _found(word, _exit(code), nodes, reason)) if match and word else None


def _joined(rows: Iterable[tuple[re.Match[str], Found] | None]) -> dict[JobId, Found]:
    """Expand expressions such as ``19_[1,3-5%2]``; a row for a single element takes precedence.

    If an expression was truncated, the remaining elements are represented by the id of the array.
    """
    singles: dict[JobId, Found] = {}
    several: dict[JobId, Found] = {}
    for row in rows:
        if row is None:
            continue
        match, found = row
        if match[3] is None:
            singles[JobId(match[0])] = found
            continue
        elements = _elements(match)
        several |= dict.fromkeys(elements, found)
        if not elements or "..." in match[3] or not match[0].endswith("]"):
            several[JobId(match[1])] = found
    return several | singles


def _elements(match: re.Match[str]) -> list[JobId]:
    """Return the elements of an id; for a truncated expression, only those that are certain."""
    if match[3] is None:
        return [JobId(match[0])]
    numbers: list[int] = []
    parts = match[3].partition("%")[0].split(",")
    if not match[0].endswith("]") or "..." in match[3]:
        parts.pop()  # the last number may be truncated
    for part in parts:
        span = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", part.strip())
        if span is None:
            continue
        found = range(int(span[1]), int(span[2] or span[1]) + 1, max(1, int(span[3] or 1)))
        if len(numbers) + len(found) > _MOST:
            return []
        numbers += found
    return [JobId(f"{match[1]}_{number}") for number in numbers]


def _word(text: str) -> str:
    """Return the name of the state in ``CANCELLED by 1000``, ``OUT_OF_ME+``, ``CG`` or ``COMPLETED,COMPLETING``.

    A flag takes precedence over the state before it. An unknown name is returned unchanged; the result is empty if the
    text is not a state.
    """
    first = text.partition(" ")[0].upper()
    if not re.fullmatch(r"[A-Z][A-Z_,]*\+?", first):
        return ""
    word = first.rstrip("+,").split(",")[-1]
    if first.endswith("+") and word not in STATES:
        longer = [name for name in STATES if name.startswith(word)]
        return longer[0] if len(longer) == 1 else word
    return _CODES.get(word, word)


def _exit(code: str) -> tuple[int, int] | None:
    """Parse ``1:9``, or the wait(2) status that squeue prints; None if it is neither."""
    match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", code)
    if match is None:
        return None
    if match[2] is not None:
        return int(match[1]), int(match[2])
    return int(match[1]) >> 8, int(match[1]) & 127


def _found(word: str, code: tuple[int, int] | None, nodes: str, reason: str) -> Found:
    row = STATES.get(word)
    if row is None or row.state is not JobState.ENDED:
        state = row.state if row else JobState.UNKNOWN
        said = "" if reason in ("None", "null") else reason
        is_held = row is not None and (row.is_held or (state is JobState.QUEUED and _is_held(said)))
        return Found(state, None, f"{word} {said}".strip(), is_held=is_held, is_ending=bool(row and row.is_ending))
    status, signal = code or (0, 0)
    cause = row.cause
    if word == "FAILED":
        cause = _failed(code, reason)
    elif word == "COMPLETED" and (status or signal):
        cause = exit_cause(status, signal)
    parts = [word, f"exit status {status}" if status else "", f"signal {signal}" if signal else ""]
    parts += ["" if reason in _UNSAID else reason]
    parts += ["before it started" if nodes in ("", "(null)", "None assigned") else f"on {nodes}"]
    return Found(row.state, cause, ", ".join(part for part in parts if part), is_stuck=row.is_stuck)


def _failed(code: tuple[int, int] | None, reason: str) -> Cause:
    """Return why a failed job failed, even if its exit status is 0."""
    if reason in _ENDS:
        return _ENDS[reason]
    if code is None or (code == (0, 0) and reason == "NonZeroExitCode"):
        return Cause.ERROR
    status, signal = code
    if reason == "JobLaunchFailure" and not signal:  # also the reason for scripts that a signal has ended
        return Cause.LOST
    # Without an exit status it is the "other failure condition" of squeue(1), such as a failed launch.
    return SIGNALS.get(signal) or exit_cause(status, signal) or Cause.LOST


def _is_held(reason: str) -> bool:
    return next((is_held for pattern, is_held, _ in REASONS if re.fullmatch(pattern, reason)), False)
