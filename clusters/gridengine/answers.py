"""Interpret the output of qstat and qacct.

The tables follow the manual pages of qstat(1), sge_status(5), accounting(5) and submit(1), also of the releases by
Univa and Altair; each row names its page. Text that is not a record is skipped: parsing returns a verdict or nothing,
and never raises an exception.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.etree import ElementTree as ET

from toilfn.clusters.base import JobState
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.ids import Cause

__all__ = ["EXITS", "FAILED", "STATES", "Failure", "State", "accounted", "queue_rows", "queue_state", "records"]

_QSTAT = "qstat(1), state"
_ALTAIR = "qstat(1) of Univa and Altair Grid Engine, state"
_STATUS = 'sge_status(5), "Failed" states'


class State(NamedTuple):
    """The meaning of a state letter."""

    state: JobState
    cause: Cause | None
    page: str


STATES: dict[str, State] = {
    "E": State(JobState.ENDED, Cause.LOST, _QSTAT),  # could not be started; waits to be cleared or deleted
    "d": State(JobState.RUNNING, None, _QSTAT),
    "r": State(JobState.RUNNING, None, _QSTAT),
    "t": State(JobState.RUNNING, None, _QSTAT),
    "s": State(JobState.RUNNING, None, _QSTAT),
    "S": State(JobState.RUNNING, None, _QSTAT),
    "T": State(JobState.RUNNING, None, _QSTAT),
    "N": State(JobState.RUNNING, None, _ALTAIR),  # suspended by another job
    "P": State(JobState.RUNNING, None, _ALTAIR),  # preempted, and resumed later
    "w": State(JobState.QUEUED, None, _QSTAT),
    "q": State(JobState.QUEUED, None, _QSTAT),
    "h": State(JobState.QUEUED, None, _QSTAT),
    "R": State(JobState.QUEUED, None, _QSTAT),  # restarted; another letter shows the current state
}
"""The state letters of qstat and their meanings. The first of these that a state contains decides."""


class Failure(NamedTuple):
    """The meaning of a ``failed`` number."""

    cause: Cause | None
    """None means that the job ran, and its exit status decides."""
    meaning: str
    page: str = _STATUS


FAILED: dict[int, Failure] = {
    0: Failure(None, "no failure"),
    1: Failure(Cause.LOST, "assumedly before job"),
    2: Failure(Cause.LOST, "before a local configuration", "accounting(5), failed"),
    3: Failure(Cause.LOST, "before writing config"),
    4: Failure(Cause.LOST, "before writing PID"),
    5: Failure(Cause.LOST, "on reading config file"),
    6: Failure(Cause.LOST, "setting processor set"),
    7: Failure(Cause.LOST, "before prolog"),
    8: Failure(Cause.LOST, "in prolog"),
    9: Failure(Cause.LOST, "before pestart"),
    10: Failure(Cause.LOST, "in pestart"),
    11: Failure(Cause.LOST, "before job"),
    12: Failure(None, "before pestop"),
    13: Failure(None, "in pestop"),
    14: Failure(None, "before epilog"),
    15: Failure(None, "in epilog"),
    16: Failure(None, "releasing processor set"),
    17: Failure(None, "through signal"),
    18: Failure(Cause.LOST, "shepherd returned error"),
    19: Failure(Cause.LOST, "before writing exit_status"),
    20: Failure(Cause.LOST, "found unexpected error file"),
    21: Failure(Cause.LOST, "in recognizing job"),
    22: Failure(Cause.LOST, "the execution host is not known any more", "accounting(5), failed"),
    24: Failure(Cause.PREEMPTED, "migrating (checkpointing jobs)"),
    25: Failure(Cause.PREEMPTED, "rescheduling"),
    26: Failure(Cause.LOST, "opening output file"),
    27: Failure(Cause.LOST, "searching requested shell"),
    28: Failure(Cause.LOST, "changing to working directory"),
    29: Failure(Cause.LOST, "AFS setup"),
    30: Failure(Cause.ERROR, "application error returned"),
    31: Failure(Cause.LOST, "accessing sgepasswd file"),
    32: Failure(Cause.LOST, "entry is missing in password file"),
    33: Failure(Cause.LOST, "wrong password"),
    34: Failure(Cause.LOST, "communicating with Grid Engine Helper Service"),
    35: Failure(Cause.LOST, "before job in Grid Engine Helper Service"),
    36: Failure(Cause.LOST, "checking configured daemons"),
    37: Failure(Cause.WALLTIME, "qmaster enforced h_rt, h_cpu, or h_vmem limit"),
    38: Failure(Cause.LOST, "adding supplementary group"),
    100: Failure(None, "assumedly after job"),
}
"""Numbers of ``failed`` in accounting records; any other number is a failure of the system."""

_ENFORCED = 37
_AFTER_JOB = (17, 100)
"""Numbers of ``failed`` for a job ended by a signal: without an exit status it was not successful."""

EXITS: dict[int, tuple[Cause, str]] = {
    99: (Cause.LOST, "submit(1), exit status: the job asks to be scheduled again"),
    100: (Cause.ERROR, "submit(1), exit status: the job asks to be put into the error state"),
}
"""Exit statuses with a special meaning in Grid Engine."""

_MEMORY = (("h_vmem", "maxvmem"), ("s_vmem", "maxvmem"), ("h_rss", "maxrss"), ("s_rss", "maxrss"))
_TIME = (("h_rt", "ru_wallclock"), ("s_rt", "ru_wallclock"), ("h_rt", "wallclock"), ("s_rt", "wallclock"))
_CPU = (("h_cpu", "cpu"), ("s_cpu", "cpu"))
"""The limits a job can request, and the fields with its usage."""

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Suffixes of sizes. Source: sge_types(1), memory_specifier."""


def queue_rows(text: str) -> Iterator[tuple[str, int | None, str, str]] | None:
    """Parse the output of ``qstat -xml``: number, task, state and name of each job; None if it is incomplete."""
    start, end = re.search(r"<(?:\?xml|job_info|detailed_job_info)\b", text), text.rfind("</job_info>")
    if start is None or end < start.start():
        return None
    document = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text[start.start() : end])
    try:
        root = ET.fromstring(f"{document}</job_info>")  # noqa: S314  # comes from the scheduler, which is trusted
    except (ET.ParseError, ValueError):
        return None
    return _rows(root)


def _rows(root: ET.Element) -> Iterator[tuple[str, int | None, str, str]]:
    for job in root.iter("job_list"):
        number = (job.findtext("JB_job_number") or "").strip()
        if not re.fullmatch(r"[0-9]+", number):
            continue
        state, name = job.findtext("state") or "", job.findtext("JB_name") or ""
        for task in _tasks((job.findtext("tasks") or "").strip()):
            yield number, task, state.strip(), name


def _tasks(text: str) -> Iterator[int | None]:
    """Parse task numbers such as ``3``, ``1-5:2``, or a list of these."""
    spans = [re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?", part) for part in text.split(",")]
    if not text or None in spans:
        yield None
    for span in filter(None, spans):
        last = min(int(span[2] or span[1]), int(span[1]) + 1_000_000)
        yield from range(int(span[1]), last + 1, max(1, int(span[3] or 1)))


def queue_state(letters: str) -> Found:
    """Interpret the state letters of qstat."""
    row = next((row for letter, row in STATES.items() if letter in letters), None)
    state = row.state if row else JobState.UNKNOWN
    is_held = state is JobState.QUEUED and "h" in letters
    cause = row.cause if row else None
    return Found(state, cause, f"state {letters}", is_stuck=state is JobState.ENDED, is_held=is_held)


def records(text: str) -> Iterator[tuple[str, int | None, Found]]:
    """Parse the output of ``qacct -j``: number, task and verdict of each record; other text is ignored."""
    for part in re.split(r"^=+\s*$", text, flags=re.MULTILINE):
        pairs = (line.split(maxsplit=1) for line in part.splitlines())
        fields = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        number, task = fields.get("jobnumber", ""), fields.get("taskid", "")
        found = accounted(fields)
        if found is not None and re.fullmatch(r"[0-9]+", number):
            yield number, int(task) if re.fullmatch(r"[0-9]{1,9}", task) else None, found


def accounted(fields: Mapping[str, str]) -> Found | None:
    """Interpret a record of qacct; None if it does not say how the job ended."""
    failed, status = _number(fields, "failed"), _number(fields, "exit_status")
    if failed is None or status is None:
        return None
    words = [f"failed {fields['failed'].strip()}"] if failed else []
    words += [f"exit status {status}", f"on {fields.get('hostname', 'no host').strip()}"]
    return Found(JobState.ENDED, _cause(failed, status, fields), ", ".join(words))


def _cause(failed: int, status: int, fields: Mapping[str, str]) -> Cause | None:
    row = FAILED.get(failed, Failure(Cause.LOST, "unknown"))
    if failed == _ENFORCED:
        return _broken(fields) or (Cause.MEMORY if _limits_only_memory(fields) else row.cause)
    if row.cause is not None:
        return row.cause
    cause = EXITS[status][0] if status in EXITS else exit_cause(status)
    if failed in _AFTER_JOB or status > 128:
        return _broken(fields) or cause or Cause.LOST
    return cause


def _broken(fields: Mapping[str, str]) -> Cause | None:
    """Return which of its limits a job has reached, if any."""
    slots = max(1, _number(fields, "slots") or 1)
    for limit, used in _MEMORY:
        if _size(fields.get(used, "")) >= _size(_request(fields, limit), math.inf) * slots:
            return Cause.MEMORY
    for limit, used in (*_TIME, *_CPU):
        if _seconds(fields.get(used, "")) >= _seconds(_request(fields, limit), math.inf):
            return Cause.WALLTIME
    return None


def _limits_only_memory(fields: Mapping[str, str]) -> bool:
    return bool(_request(fields, "h_vmem")) and not (_request(fields, "h_rt") or _request(fields, "h_cpu"))


def _number(fields: Mapping[str, str], name: str) -> int | None:
    match = re.match(r"\s*([0-9]{1,9})\b", fields.get(name, ""))
    return int(match[1]) if match else None


def _request(fields: Mapping[str, str], name: str) -> str:
    """Return a limit from the job's request; empty if there is none."""
    asked = f"{fields.get('category', '')},{fields.get('hard_resources', '')}"
    match = re.search(rf"(?:^|[\s,]){name}=([^\s,]+)", asked)
    return match[1] if match else ""


def _size(text: str, default: float = 0.0) -> float:
    match = re.match(r"([0-9]{1,18}(?:\.[0-9]+)?)([kKmMgGtT]?)B?\b", text.strip())
    return float(match[1]) * _UNITS.get(match[2], 1) if match else default


def _seconds(text: str, default: float = 0.0) -> float:
    """Parse a time such as ``60``, ``60s``, ``12.345`` or ``1:00:00``."""
    match = re.match(r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,12}(?:\.[0-9]+)?)s?(?![0-9:])", text.strip())
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3]) if match else default
