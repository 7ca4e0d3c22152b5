"""Interpret the output of qstat and tracejob of Torque and PBS Professional.

Text that is not valid output of these commands yields no verdict, and never raises an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

from toilfn.clusters.base import JobState
from toilfn.clusters.common.commands import has_beginning, json_values
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.verdicts import Verdict, ended, exit_cause, queued, running
from toilfn.ids import Cause

__all__ = ["PBS_EXITS", "STATES", "TORQUE_EXITS", "job_found", "json_jobs", "traced", "variable", "xml_jobs"]

_STATES = 'PBS Professional Reference Guide, "Job States"; Torque Administrator Guide, qstat, "Job state"'
_PBS = 'OpenPBS, src/include/job.h, "Special Job Exit Values"'
_TORQUE = 'Torque 6.1 Administrator Guide, "Job Exit Status"'

STATES: dict[str, Verdict] = {
    "B": queued("a job array in which a job has begun", _STATES),
    "C": ended(None, "has ended (Torque)", _STATES),
    "E": running("has run and is being cleaned up", _STATES),
    "F": ended(None, "has finished", _STATES),
    "H": queued("held", _STATES),
    "M": queued("moved to another server", _STATES),
    "Q": queued("queued", _STATES),
    "R": running("runs", _STATES),
    "S": running("suspended by the server", _STATES),
    "T": queued("being transferred to a node or to another server", _STATES),
    "U": running("suspended because the workstation is in use", _STATES),
    "W": queued("waiting for its start time or its files", _STATES),
    "X": ended(None, "a finished element of a job array", _STATES),
}
"""The state letters of qstat. For an ended job, the exit status decides."""

TORQUE_EXITS: dict[int, Verdict] = {
    -1: ended(Cause.LOST, "failed to start before its files were ready", _TORQUE),
    -2: ended(Cause.LOST, "failed to start after its files were ready", _TORQUE),
    -3: ended(Cause.LOST, "failed to start, and will be tried again", _TORQUE),
    -4: ended(Cause.LOST, "aborted when the node's daemon started", _TORQUE),
    -5: ended(Cause.LOST, "aborted when the node's daemon started, with a checkpoint that cannot move", _TORQUE),
    -6: ended(Cause.LOST, "aborted when the node's daemon started, with a checkpoint that can move", _TORQUE),
    -7: ended(Cause.LOST, "could not be restarted", _TORQUE),
    -8: ended(Cause.LOST, "its command could not be executed", _TORQUE),
    -9: ended(Cause.LOST, "its output could not be created", _TORQUE),
    -10: ended(Cause.MEMORY, "exceeded its memory limit", _TORQUE),
    -11: ended(Cause.WALLTIME, "exceeded its walltime", _TORQUE),
    -12: ended(Cause.WALLTIME, "exceeded its CPU time limit", _TORQUE),
    -13: ended(Cause.LOST, "its cgroups could not be created, and will be tried again", _TORQUE),
    -14: ended(Cause.LOST, "its prologue failed, and will be tried again", _TORQUE),
}
"""Exit statuses defined by Torque."""

PBS_EXITS: dict[int, Verdict] = {
    -1: ended(Cause.LOST, "failed to start before its files were ready", _PBS),
    -2: ended(Cause.LOST, "failed to start after its files were ready", _PBS),
    -3: ended(Cause.LOST, "failed to start, and will be tried again", _PBS),
    -4: ended(Cause.LOST, "aborted when the node's daemon started", _PBS),
    -5: ended(Cause.LOST, "aborted when the node's daemon started, with a checkpoint that cannot move", _PBS),
    -6: ended(Cause.LOST, "aborted when the node's daemon started, with a checkpoint that can move", _PBS),
    -7: ended(Cause.LOST, "could not be restarted", _PBS),
    -10: ended(Cause.LOST, "its user or group is not valid on the node", _PBS),
    -11: ended(Cause.PREEMPTED, "requeued to run again", _PBS),
    -12: ended(Cause.PREEMPTED, "killed after a checkpoint", _PBS),
    -13: ended(Cause.LOST, "the password was refused", _PBS),
    -14: ended(Cause.LOST, "requeued because another of its nodes failed", _PBS),
    -15: ended(Cause.PREEMPTED, "requeued to start from a checkpoint", _PBS),
    -16: ended(Cause.LOST, "requeued by a hook before it started", _PBS),
    -17: ended(Cause.ERROR, "refused by a hook, which deletes it", _PBS),
    -18: ended(Cause.LOST, "requeued by a hook", _PBS),
    -19: ended(Cause.ERROR, "deleted by a hook", _PBS),
    -20: ended(Cause.LOST, "the first of its nodes was unreachable", _PBS),
    -21: ended(Cause.LOST, "the node's PBS directory is not secure", _PBS),
    -22: ended(Cause.LOST, "a hook failed or took too long", _PBS),
    -23: ended(Cause.LOST, "there were no Kerberos credentials", _PBS),
    -24: ended(Cause.ERROR, "used more CPUs than it requested (burst)", _PBS),
    -25: ended(Cause.ERROR, "used more CPUs than it requested (sum)", _PBS),
    -26: ended(Cause.MEMORY, "exceeded its virtual memory limit", _PBS),
    -27: ended(Cause.MEMORY, "exceeded its memory limit", _PBS),
    -28: ended(Cause.WALLTIME, "exceeded its CPU time limit", _PBS),
    -29: ended(Cause.WALLTIME, "exceeded its walltime", _PBS),
    -30: ended(Cause.LOST, "its nodes could not join", _PBS),
    -31: ended(Cause.MEMORY, "exceeded its huge-page memory limit", _PBS),
    -32: ended(Cause.LOST, "requeued after its processes were gone", _PBS),
}
"""Exit statuses defined by PBS Professional and OpenPBS."""


def job_found(attributes: Mapping[str, str], exits: Mapping[int, Verdict]) -> Found | None:
    """Interpret the attributes of a job from qstat -f; None without a state. `exits` has the system's exit statuses."""
    letter = attributes.get("job_state", "").strip()
    if not letter:
        return None
    known = STATES.get(letter)
    state, comment = known.state if known else JobState.UNKNOWN, attributes.get("comment", "").strip()
    if state is not JobState.ENDED:
        is_held = letter == "H" or (state is JobState.QUEUED and "Can Never Run" in comment)
        words = ", ".join(filter(None, (f"state {letter}", comment)))
        return Found(state, None, words, is_held=is_held, is_ending=letter == "E")
    status = _number(attributes.get("Exit_status", attributes.get("exit_status")))
    if status is None:
        has_run = "Exit_status" in attributes or "exit_status" in attributes or "stime" in attributes
        words = "ended without an exit status" if has_run else "deleted before it started"
        return Found(state, Cause.LOST, ", ".join(filter(None, (words, comment))))
    return _ended(status, exits, comment or attributes.get("sched_hint", ""), attributes)


_STATUS = re.compile(r"\bExit_status=(-?\d{1,9})\b.*$", re.MULTILINE)
_USED = re.compile(r"\b(resources_used|Resource_List)\.(\w+)=([\w:.]+)")
_DELETED = re.compile(r"^\S+ \S+\s+[A-Z]\s+(?:Job deleted\b|requestor=\S+|Job to be deleted\b)", re.MULTILINE | re.I)


def variable(attributes: Mapping[str, str], name: str) -> str:
    """Return the value of a job's environment variable; empty if it is not set."""
    if f"Variable_List.{name}" in attributes:
        return attributes[f"Variable_List.{name}"]
    match = re.search(rf"(?:^|,){name}=([^,]*)", attributes.get("Variable_List", ""))
    return match[1] if match else ""


def traced(text: str, exits: Mapping[int, Verdict]) -> Found | None:
    """Interpret the output of tracejob for a job; None if the job has not ended."""
    last = next(iter(reversed(list(_STATUS.finditer(text)))), None)  # a requeued job has more than one
    if last is not None:
        used = {f"{group}.{name}": value for group, name, value in _USED.findall(text[: last.end()])}
        return _ended(int(last[1]), exits, "by tracejob", used)
    return Found(JobState.ENDED, Cause.LOST, "deleted before it started") if _DELETED.search(text) else None


def _ended(status: int, exits: Mapping[int, Verdict], comment: str, attributes: Mapping[str, str]) -> Found:
    """Interpret an exit status: negative values are defined by the system, values above 256 mean signals."""
    words = [f"exit status {status}", comment]
    if status < 0:
        known = exits.get(status)
        cause: Cause | None = known.cause if known else Cause.LOST
        words[1:1] = [known.meaning] if known else ["a failure of the system"]
    else:
        cause = exit_cause(status % 256, status - 256) if status > 256 else exit_cause(status)
    if cause is Cause.LOST and status >= 0:  # killed by a signal; the resource usage may show why
        cause = _over(attributes) or cause
    return Found(JobState.ENDED, cause, ", ".join(filter(None, words)))


def _over(attributes: Mapping[str, str]) -> Cause | None:
    """Return which of its limits a killed job had reached, if any."""
    limits = {"mem": Cause.MEMORY, "vmem": Cause.MEMORY, "walltime": Cause.WALLTIME, "cput": Cause.WALLTIME}
    for name, cause in limits.items():
        used, limit = (_amount(attributes.get(f"{group}.{name}", "")) for group in ("resources_used", "Resource_List"))
        if used is not None and limit is not None and used >= limit > 0:
            return cause
    return None


def _amount(text: str) -> float | None:
    """Parse a time such as ``01:00:05`` into seconds, or a size such as ``2544kb`` into bytes."""
    if re.fullmatch(r"\d{1,9}(:\d{1,9}){1,3}", text):
        parts = [int(part) for part in text.split(":")]
        return float(sum(part * size for part, size in zip(reversed(parts), (1, 60, 3600, 86400), strict=False)))
    match = re.fullmatch(r"(\d{1,15})([kmgtp]?)(b|w)?", text.strip().lower())
    if match is None:
        return None
    return float(int(match[1]) * 2 ** (10 * " kmgtp".index(match[2] or " ")) * (8 if match[3] == "w" else 1))


def _number(text: str | None) -> int | None:
    match = re.fullmatch(r"\s*(-?\d{1,9})\s*", text or "")
    return int(match[1]) if match else None


# The output of qstat.

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|:\s*([^\s"\[\]{},][^",\[\]{}\n]*|(?=[,}]))', re.DOTALL)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?|true|false|null")
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_LINE = re.compile(r'^(\s*)"((?:[^"\\\n]|\\.)+)"\s*:\s*(.*?),?\s*$')


def json_jobs(text: str, is_absent: bool = False) -> dict[str, dict[str, str]] | None:
    """Parse the output of ``qstat -f -F json``: the attributes of each job; None if the output is not complete.

    Some releases of OpenPBS write values without escaping: numbers that are not valid JSON, tabs, line breaks and
    backslashes. Invalid JSON is parsed line by line. Nested attributes get names such as ``resources_used.mem``. If
    qstat has said that it knows no such job (`is_absent`), the output may consist only of notices of the site.
    """
    if not text.strip() or (is_absent and not has_beginning(text)):
        return {}
    for variant in (text, _TOKEN.sub(_corrected, text)):
        for answer in json_values(variant):
            if not isinstance(answer, dict) or not answer.keys() & {"Jobs", "pbs_version"}:
                continue
            jobs = answer.get("Jobs", {})
            if isinstance(jobs, dict):
                return {job: _flat(record) for job, record in jobs.items() if isinstance(record, dict)}
    return _by_lines(text)


def _corrected(match: re.Match[str]) -> str:
    """Quote a bare value, and double a backslash in a string that does not begin an escape sequence."""
    if match[1] is None:
        return _ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", match[0])
    value = match[1].rstrip()
    return f":{value if _NUMBER.fullmatch(value) else json.dumps(value)}"


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    """Convert all values to text, and flatten groups to names such as ``group.name``."""
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": str(one) for key, one in value.items()}
        else:
            flat[name] = str(value)
    return flat


def _by_lines(answer: str) -> dict[str, dict[str, str]] | None:
    """Parse the output by its indentation: jobs are two levels deep, attributes three, nested values four."""
    lines = [line.rstrip("\r") for line in answer.split("\n")]
    if "{" not in lines or "}" not in lines:  # truncated, or not indented
        return None
    end = len(lines) - lines[::-1].index("}")
    if any(map(_LINE.match, lines[end:])):  # the bracket was part of a value; the output is truncated
        return None
    lines = lines[lines.index("{") : end]
    jobs: dict[str, dict[str, str]] = {}
    unit, is_inside, record, group = 0, False, None, ""
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        unit = unit or len(match[1])
        level, name, value = len(match[1]) // max(1, unit), match[2], match[3]
        if level == 1:
            is_inside = name == "Jobs"
        elif level == 2 and is_inside:
            record = jobs.setdefault(name, {})
        elif level == 3 and is_inside and record is not None:
            group = name if value == "{" else ""
            record |= {} if group else {name: _plain(value)}
        elif level == 4 and record is not None and group:
            record[f"{group}.{name}"] = _plain(value)
    return jobs


def _plain(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


_CONTROL = re.compile(
    r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|&#(?:x[01]?[0-9a-f]|[0-2]?\d|3[01]);", re.I
)


def xml_jobs(text: str, is_absent: bool = False) -> dict[str, dict[str, str]] | None:
    """Parse the output of Torque's ``qstat -f -x``: the attributes of each job; None if the output is not complete.

    The output is empty if there are no jobs. For `is_absent`, see `json_jobs`.
    """
    if not text.strip() or (is_absent and "<Data" not in text):
        return {}
    begin, end = text.find("<Data"), text.rfind("</Data>")
    if end < begin or begin < 0:
        return {} if not text.strip() or re.search(r"<Data\s*/>", text) else None
    records = [_xml_record(chunk) for chunk in re.findall(r"<Job>.*?</Job>", _CONTROL.sub("?", text), re.DOTALL)]
    return {record["Job_Id"].strip(): record for record in records if record.get("Job_Id", "").strip()}


def _xml_record(chunk: str) -> dict[str, str]:
    """Parse one job; if its XML is invalid, at least the attributes that are not nested."""
    try:
        job = ET.fromstring(chunk)  # noqa: S314  # comes from the scheduler, which is trusted
    except (ET.ParseError, ValueError):
        return {name: unescape(value) for name, value in re.findall(r"<(\w+)>([^<>]*)</\1>", chunk)}
    record: dict[str, str] = {}
    for child in job:
        record |= {f"{child.tag}.{one.tag}": one.text or "" for one in child} or {child.tag: child.text or ""}
    return record
