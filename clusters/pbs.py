"""PBS Professional, OpenPBS and Torque: their clusters, and parsers for the output of qstat and tracejob.

This module follows the manual pages of qsub, qstat, qdel and tracejob. qstat shows ended jobs as long as the server
keeps them (``job_history_enable``, for Torque ``keep_completed``); after that, tracejob reads the server's logs if the
user may. The parsers skip other text, and never raise an exception.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

from toilfn.clusters.base import Capabilities, JobId, JobState, Verdict, ended, exit_cause, queued, running
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import Answer, UnavailableError, has_beginning, json_values, portions, user_name
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission
from toilfn.ids import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "PBS_EXITS", "STATES", "TORQUE_EXITS", "PBSBase", "PBSCluster", "PBSSettings", "TorqueCluster", "job_found",
    "json_jobs", "kilobytes", "time_request", "traced", "variable", "xml_jobs",
]  # fmt: skip

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


class PBSSettings(JobSettings, total=False):
    """Settings of `TorqueCluster` and `PBSCluster` besides those of `JobSettings`.

    Parameters
    ----------
    requirements : str
        Additional values of ``-l``, such as ``"walltime=1:00:00"``. Default: ``TOILFN_TORQUE_REQS``.
    """

    requirements: str


class PBSBase(CommandCluster):
    """The base class for Torque and PBS Professional."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = PBSSettings
    prefix = "#PBS"
    kill_command = ("qdel",)
    needed = ("qsub", "qstat", "qdel")
    absent = "Unknown Job ?Id|Job has finished"
    cleared = (
        r"PBS_(?!(CONF_FILE|EXEC|HOME|DEFAULT|SERVER|PRIMARY|SECONDARY|LEAF_NAME|AUTH_METHOD|.*_SERVICE_PORT|CLIENT_.*)$).*"
        r"|TOILFN_JOB"
    )
    options = r"PBS_(DPREFIX|QSUB.*|ACCOUNT)"
    array_limit = 1000
    away = (
        "cannot connect to server|Connection (refused|reset|timed out)|Communication failure|End of File|timed? ?out"
        "|(Expired|Invalid) credential|Protocol .*error|Server is (busy|shutting down)|Batch protocol error|munge"
        "|cannot (resolve|get|find) (server|specified server)|trqauthd|Network is unreachable|No route to host"
    )
    exits: ClassVar[Mapping[int, Verdict]]
    array_option: ClassVar[str]
    trace_limit: ClassVar[int] = 50
    """Maximum number of tracejob calls in one query of the accounting, since each of them searches the logs."""

    def __init__(self, **settings: Unpack[PBSSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    @abstractmethod
    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Return the values of ``-l``."""

    @abstractmethod
    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes.

        Raises
        ------
        UnavailableError
            If the output cannot be parsed.
        """

    def directives(self, submission: Submission) -> list[str]:
        """Return the qsub options for a shape."""
        given = self.settings
        more = given.get("requirements", os.environ.get("TOILFN_TORQUE_REQS"))
        array = [f"{self.array_option} 0-{len(submission.batches) - 1}"] if submission.is_array else []
        return [
            f"-N {self._short(submission.name)}",
            f"-v TOILFN_JOB={submission.name}",
            "-V",
            *array,
            *([] if submission.is_array else ["-r n"]),  # PBS Professional refuses arrays that cannot be rerun
            f"-S {given.get('shell', '/bin/sh')}",
            "-j oe",
            "-o /dev/null",
            *(f"-l {request}" for request in self.request(submission.resources, self.walltime(submission.resources))),
            *([f"-l {more}"] if more else []),
            *self.setting_directives(queue="-q {}", account="-A {}"),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the qsub command line; qsub reads the script from standard input."""
        return ["qsub", *self.submit_args()]

    def submitted(self, output: str) -> str:
        """Return an id such as ``4711.server``; empty for a number alone, which may be part of another message.

        The job is then searched for by its name.
        """
        ids = set(re.findall(r"^\s*(\d+(?:\[\])?\.[^\s.]\S*)\s*$", output, re.MULTILINE))
        return ids.pop() if len(ids) == 1 else ""

    def arrived(self, name: str) -> str:
        """Search for a submission by its name, even if its jobs have ended."""
        jobs = self._status_of_mine(*self.selection(self._short(name)))
        return next(
            (self.split(JobId(job))[0] for job, said in jobs.items() if variable(said, "TOILFN_JOB") == name), ""
        )

    def selection(self, name: str) -> tuple[str, ...]:
        """Return the qselect options that list jobs with a name, including ended ones."""
        return ()

    def element(self, base: str, number: int) -> JobId:
        """Return the id of an element, such as ``4711[3].server``."""
        return JobId(base.replace("[]", f"[{number}]"))

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Split an id such as ``4711[3].server``."""
        match = re.search(r"\[(\d+)\]", job)
        return (job.replace(match[0], "[]"), int(match[1])) if match else (str(job), None)

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query jobs and elements with qstat."""
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in self.status(*bases).items()}
        return {job: verdict for job, verdict in found.items() if verdict is not None}

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query jobs with tracejob one by one, since it accepts no list; it is not installed on every login node."""
        ended = {JobId(job): traced(self._trace(job), self.exits) for job in self._elements(bases)[: self.trace_limit]}
        return {job: found for job, found in ended.items() if found is not None}

    def _elements(self, bases: Sequence[str]) -> list[JobId]:
        """Return the live jobs of some submissions."""
        return [job for job in self._live if self.split(job)[0] in bases]

    def _trace(self, job: str) -> str:
        if shutil.which("tracejob") is None:
            return ""
        # tracejob may complain about logs it cannot read, with any exit status, and still print all it knows.
        return self.commands.ask(["tracejob", "-q", "-m", "-l", "-n", "3", job], accept=range(256))

    @staticmethod
    def _short(name: str) -> str:
        """Shorten a job's name to 15 characters, the limit of some servers."""
        return name[-15:].lstrip("-_.0123456789") or "toilfn"

    def names(self) -> dict[JobId, str]:
        """Return the names of this user's live jobs.

        They come from an environment variable of each job, since a server may shorten the jobs' own names.
        """
        jobs = self._status_of_mine()
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in jobs.items()}
        live = [job for job, verdict in found.items() if verdict is not None and verdict.state is not JobState.ENDED]
        named = {job: variable(jobs[job], "TOILFN_JOB") for job in live if "[]" not in job}
        return {job: name for job, name in named.items() if name}

    def _status_of_mine(self, *options: str) -> dict[str, dict[str, str]]:
        """Query the jobs of this user; all jobs if qselect is not installed or cannot be given the user's name."""
        name = user_name()
        if name is None or shutil.which("qselect") is None:
            return self.status()
        output = self.commands.ask(["qselect", "-u", name, *options])
        mine = re.findall(r"^\s*(\d+(?:\[\d*\])?(?:\.\S+)?)\s*$", output, re.MULTILINE)
        jobs: dict[str, dict[str, str]] = {}
        for portion in portions(mine, self.query_limit):
            jobs |= self.status(*portion)
        return jobs


class PBSCluster(PBSBase):
    """Runs tasks as jobs of PBS Professional or OpenPBS; see `JobSettings` and `PBSSettings` for the settings."""

    name = "pbs"
    index = "PBS_ARRAY_INDEX"
    array_option = "-J"
    exits = PBS_EXITS
    _history: Sequence[str] = ("-x",)

    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Return the values of ``-l``."""
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        chunk = f"select=1:ncpus={math.ceil(resources.cores)}:mem={kilobytes(resources)}kb"
        return [chunk + (f":ngpus={gpus}" if gpus else ""), *time_request(walltime)]

    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes; see `PBSBase.status`."""
        answer = self._qstat(arguments)
        jobs = json_jobs(answer.text, answer.is_absent)
        if jobs is None:
            raise UnavailableError(f"qstat -F json returned invalid JSON: {answer.text[:300]!r}")
        return jobs

    def selection(self, name: str) -> tuple[str, ...]:
        """Return the qselect options that list jobs with a name, including ended ones."""
        return (*self._history, "-N", name)

    def _qstat(self, arguments: Sequence[str]) -> Answer:
        """Run qstat, including ended jobs if the server keeps them (``job_history_enable``)."""
        try:
            return self.commands.answer(["qstat", *self._history, "-t", "-f", "-F", "json", *arguments])
        except UnavailableError as error:
            if "job history" not in str(error) or not self._history:
                raise
            self._history = ()
            return self._qstat(arguments)


def kilobytes(resources: Resources) -> int:
    """Return a job's memory in KiB, rounded up."""
    return max(1, math.ceil(resources.memory / 2**10))


def time_request(seconds: float | None) -> list[str]:
    """Return a time limit as a value of ``-l``; empty without one."""
    return [] if seconds is None else [f"walltime={math.ceil(seconds)}"]


class TorqueCluster(PBSBase):
    """Runs tasks as Torque jobs; see `JobSettings` and `PBSSettings` for the settings."""

    name = "torque"
    index = "PBS_ARRAYID"
    array_option = "-t"
    exits = TORQUE_EXITS

    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Return the values of ``-l``."""
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        nodes = f"nodes=1:ppn={math.ceil(resources.cores)}" + (f":gpus={gpus}" if gpus else "")
        return [nodes, f"mem={kilobytes(resources)}kb", *time_request(walltime)]

    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes; see `PBSBase.status`."""
        answer = self.commands.answer(["qstat", "-t", "-f", "-x", *arguments])
        jobs = xml_jobs(answer.text, answer.is_absent)
        if jobs is None:
            raise UnavailableError(f"qstat -x returned invalid XML: {answer.text[:300]!r}")
        return jobs


def job_found(attributes: Mapping[str, str], exits: Mapping[int, Verdict]) -> JobReport | None:
    """Interpret the attributes of a job from qstat -f; None without a state. `exits` has the system's exit statuses."""
    letter = attributes.get("job_state", "").strip()
    if not letter:
        return None
    known = STATES.get(letter)
    state, comment = known.state if known else JobState.UNKNOWN, attributes.get("comment", "").strip()
    if state is not JobState.ENDED:
        is_held = letter == "H" or (state is JobState.QUEUED and "Can Never Run" in comment)
        words = ", ".join(filter(None, (f"state {letter}", comment)))
        return JobReport(state, None, words, is_held=is_held, is_ending=letter == "E")
    status = _number(attributes.get("Exit_status", attributes.get("exit_status")))
    if status is None:
        has_run = "Exit_status" in attributes or "exit_status" in attributes or "stime" in attributes
        words = "ended without an exit status" if has_run else "deleted before it started"
        return JobReport(state, Cause.LOST, ", ".join(filter(None, (words, comment))))
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


def traced(text: str, exits: Mapping[int, Verdict]) -> JobReport | None:
    """Interpret the output of tracejob for a job; None if the job has not ended."""
    last = next(iter(reversed(list(_STATUS.finditer(text)))), None)  # a requeued job has more than one
    if last is not None:
        used = {f"{group}.{name}": value for group, name, value in _USED.findall(text[: last.end()])}
        return _ended(int(last[1]), exits, "by tracejob", used)
    return JobReport(JobState.ENDED, Cause.LOST, "deleted before it started") if _DELETED.search(text) else None


def _ended(status: int, exits: Mapping[int, Verdict], comment: str, attributes: Mapping[str, str]) -> JobReport:
    """Interpret an exit status: negative values are defined by the system, values above 256 mean signals."""
    words = [f"exit status {status}", comment]
    if status < 0:
        known = exits.get(status)
        cause: Cause | None = known.cause if known else Cause.LOST
        words[1:1] = [known.meaning] if known else ["a failure of the system"]
    else:
        cause = exit_cause(status % 256, status - 256) if status > 256 else exit_cause(status)
    if cause is Cause.LOST and status >= 0:  # killed by a signal; the resource usage may show why
        cause = _exceeded_limit(attributes) or cause
    return JobReport(JobState.ENDED, cause, ", ".join(filter(None, words)))


def _exceeded_limit(attributes: Mapping[str, str]) -> Cause | None:
    """Return the cause for the limit that a killed job had reached; None if it had reached none."""
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


# The output of qstat

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
