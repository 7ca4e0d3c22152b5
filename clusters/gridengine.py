"""Grid Engine: SGE, Son of Grid Engine, Univa and Altair Grid Engine.

This module follows the manual pages of submit(1) (qsub, qdel), qstat(1), qacct(1) and accounting(5), also of the
releases by Univa and Altair; each row of the tables names its page. The parsers skip text that is not a record, and
never raise an exception.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple
from xml.etree import ElementTree as ET

from toilfn.clusters.base import Capabilities, JobId, JobState, exit_cause
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import UnavailableError, user_name
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "EXITS",
    "FAILED",
    "STATES",
    "Failure",
    "GridEngineCluster",
    "GridEngineSettings",
    "State",
    "accounted",
    "queue_rows",
    "queue_state",
    "records",
]

_log = logging.getLogger(__name__)


class GridEngineSettings(JobSettings, total=False):
    """Settings of `GridEngineCluster` besides those of `JobSettings`.

    Parameters
    ----------
    parallel_environment : str
        Parallel environment for jobs with more than one core. Default: ``TOILFN_GRIDENGINE_PE``, else ``smp``.
    memory_resources : sequence of str
        Complexes with which memory is requested. Default: ``h_vmem``. If the list is empty, no memory is requested
        (like Toil's ``--manualMemArgs``), and `submit_args` should request it instead.
    memory_is_per_slot : bool
        Whether the amounts of these complexes are per slot, as those of consumables are. Default: true.
    accelerator_resource : str
        Complex with which accelerators are requested. Default: ``gpu``.
    """

    parallel_environment: str
    memory_resources: Sequence[str]
    memory_is_per_slot: bool
    accelerator_resource: str


class GridEngineCluster(CommandCluster):
    """Runs tasks as Grid Engine jobs; see `JobSettings` and `GridEngineSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = GridEngineSettings
    name = "gridengine"
    prefix = "#$"
    index = "SGE_TASK_ID"
    answer = r"^\s*(\d+)(?:\.\d+-\d+:\d+)?\s*$|^Your job(?:-array)? (\d+)[. ]"
    absent = r'job "?\S+"? does not exist|job (id|name) .*not found|no jobs running since startup'
    no_accounting = "(open|read) .*accounting|accounting.*(No such file|Permission denied)"
    needed = ("qsub", "qstat", "qdel")
    cleared = (
        "SGE_(?!(ROOT|CELL|QMASTER_PORT|EXECD_PORT|CLUSTER_NAME)$).*"
        "|JOB_(ID|NAME|SCRIPT)|PE_HOSTFILE|NSLOTS|NHOSTS|NQUEUES|RESTARTED"
    )
    kill_command = ("qdel",)
    first = 1
    array_limit = 75000
    log_causes: ClassVar[Mapping[str, Cause]] = {r"^MemoryError\b": Cause.MEMORY}
    away = (
        "commlib error|unable to contact qmaster|unable to send message to qmaster|got no response|got send error"
        "|no active qmaster|act_qmaster|can't (resolve|connect|get) .*|connection refused|timed? ?out|try again later"
    )

    def __init__(self, **settings: Unpack[GridEngineSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Return the qsub options for a shape."""
        resources, given = submission.resources, self.settings
        slots = math.ceil(resources.cores)
        environment = given.get("parallel_environment", os.environ.get("TOILFN_GRIDENGINE_PE", "smp"))
        walltime = self.walltime(resources)
        return [
            f"-N {submission.name}",
            *([f"-t 1-{len(submission.batches)}"] if submission.is_array else []),
            f"-S {given.get('shell', '/bin/sh')}",
            "-V",
            "-r n",  # the leader decides what runs again
            "-o /dev/null",
            "-j y",
            *([f"-pe {environment} {slots}"] if slots > 1 else []),
            *self._memory(resources, slots),
            *([f"-l h_rt={math.ceil(walltime)}"] if walltime is not None else []),
            *self._accelerators(resources, slots),
            *self.setting_directives(queue="-q {}", account="-P {}"),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the qsub command line; qsub reads the script from standard input."""
        return ["qsub", "-terse", *self.submit_args()]

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query all jobs of this user with qstat, which cannot be limited to some jobs."""
        return {job: queue_state(state) for job, state, _ in self._jobs() if "z" not in state}  # z: finished

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query submissions with qacct one by one, since it accepts no list."""
        known: dict[JobId, JobReport] = {}
        for base in bases:
            for number, task, found in records(self.commands.ask(["qacct", "-j", base])):
                if number == base:
                    known[self._id(number, task)] = found
        return known

    def arrived(self, name: str) -> str:
        """Search for a submission with qstat, and with qacct in case it has already ended."""
        if base := super().arrived(name):
            return base
        try:
            output = self.commands.ask(["qacct", "-j", name])
        except ClusterError as error:
            _log.info("%s", error)
            return ""
        numbers = re.findall(rf"^jobname\s+{re.escape(name)}\s*\njobnumber\s+(\d+)\s*$", output, re.MULTILINE)
        return str(numbers[0]) if numbers else ""

    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user, from qstat."""
        return {job: name for job, _, name in self._jobs()}

    def site_array_limit(self) -> int:
        """Return max_aj_tasks of the site's configuration."""
        match = re.search(r"^max_aj_tasks\s+(\d+)", self.commands.consult(["qconf", "-sconf"]), re.MULTILINE)
        return int(match[1]) or self.array_limit if match else self.array_limit

    def _jobs(self) -> Iterator[tuple[JobId, str, str]]:
        """Return id, state and name of each job of this user, from qstat."""
        output = self.commands.ask(["qstat", "-xml", "-g", "d", "-s", "prs", "-u", user_name() or "*"])
        rows = queue_rows(output)
        if rows is None:
            raise UnavailableError(f"qstat -xml returned invalid XML: {output[:300]!r}")
        return ((self._id(number, task), state, name) for number, task, state, name in rows)

    def _id(self, number: str, task: int | None) -> JobId:
        return JobId(number) if task is None else self.element(number, task)

    def _memory(self, resources: Resources, slots: int) -> list[str]:
        shares = slots if self.settings.get("memory_is_per_slot", True) else 1
        kilobytes = max(1, math.ceil(resources.memory / shares / 2**10))
        return [f"-l {name}={kilobytes}K" for name in self.settings.get("memory_resources", ("h_vmem",))]

    def _accelerators(self, resources: Resources, slots: int) -> list[str]:
        count = sum(accelerator.count for accelerator in resources.accelerators)
        if count % slots:
            raise InputError(f"Grid Engine allocates accelerators per slot; {count} is not divisible by {slots} cores")
        return [f"-l {self.settings.get('accelerator_resource', 'gpu')}={count // slots}"] if count else []


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
"""The state letters of qstat and their meanings. If a state has several letters, the first row with one of them
decides."""


class Failure(NamedTuple):
    """The meaning of a ``failed`` number."""

    cause: Cause | None
    """The cause; None means that the job ran, so that its exit status decides."""
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
    22: Failure(Cause.LOST, "removed manually", "sge_diagnostics(1) of Gridware Cluster Scheduler, error codes"),
    23: Failure(Cause.LOST, "getting information on processes", "sge_diagnostics(1), error codes"),
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
"""Numbers of ``failed`` for a job that a signal ended. If its exit status is 0, it was not successful nevertheless."""

EXITS: dict[int, tuple[Cause, str]] = {
    99: (Cause.LOST, "submit(1), exit status: the job asks to be scheduled again"),
    100: (Cause.ERROR, "submit(1), exit status: the job asks to be put into the error state"),
}
"""Exit statuses with a special meaning in Grid Engine."""

_MEMORY = (("h_vmem", "maxvmem"), ("s_vmem", "maxvmem"), ("h_rss", "maxrss"), ("s_rss", "maxrss"))
_TIME = (("h_rt", "ru_wallclock"), ("s_rt", "ru_wallclock"), ("h_rt", "wallclock"), ("s_rt", "wallclock"))
_CPU = (("h_cpu", "cpu"), ("s_cpu", "cpu"))
"""The limits that a job can request, and the fields of a record with its usage."""

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Suffixes of sizes. Source: sge_types(1), memory_specifier."""


def queue_rows(text: str) -> Iterator[tuple[str, int | None, str, str]] | None:
    """Parse the output of ``qstat -xml``: number, task, state and name of each job; None if it is not complete XML."""
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


def queue_state(letters: str) -> JobReport:
    """Interpret the state letters of qstat."""
    row = next((row for letter, row in STATES.items() if letter in letters), None)
    state = row.state if row else JobState.UNKNOWN
    is_held = state is JobState.QUEUED and "h" in letters
    cause = row.cause if row else None
    return JobReport(state, cause, f"state {letters}", is_stuck=state is JobState.ENDED, is_held=is_held)


def records(text: str) -> Iterator[tuple[str, int | None, JobReport]]:
    """Parse the output of ``qacct -j``: number, task and verdict of each record; other text is ignored."""
    for part in re.split(r"^=+\s*$", text, flags=re.MULTILINE):
        pairs = (line.split(maxsplit=1) for line in part.splitlines())
        fields = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        number, task = fields.get("jobnumber", ""), fields.get("taskid", "")
        found = accounted(fields)
        if found is not None and re.fullmatch(r"[0-9]+", number):
            yield number, int(task) if re.fullmatch(r"[0-9]{1,9}", task) else None, found


def accounted(fields: Mapping[str, str]) -> JobReport | None:
    """Interpret a record of qacct; None if it does not say how the job ended."""
    failed, status = _number(fields, "failed"), _number(fields, "exit_status")
    if failed is None or status is None:
        return None
    words = [f"failed {fields['failed'].strip()}"] if failed else []
    words += [f"exit status {status}", f"on {fields.get('hostname', 'no host').strip()}"]
    return JobReport(JobState.ENDED, _cause(failed, status, fields), ", ".join(words))


def _cause(failed: int, status: int, fields: Mapping[str, str]) -> Cause | None:
    row = FAILED.get(failed, Failure(Cause.LOST, "unknown"))
    if failed == _ENFORCED:
        return _exceeded_limit(fields) or (Cause.MEMORY if _limits_only_memory(fields) else row.cause)
    if row.cause is not None:
        return row.cause
    cause = EXITS[status][0] if status in EXITS else exit_cause(status)
    if failed in _AFTER_JOB or status > 128:
        return _exceeded_limit(fields) or cause or Cause.LOST
    return cause


def _exceeded_limit(fields: Mapping[str, str]) -> Cause | None:
    """Return the cause for the limit that a job has reached; None if it has reached none."""
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
