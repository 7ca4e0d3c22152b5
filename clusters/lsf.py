"""IBM Spectrum LSF.

This module follows the reference pages of bsub, bjobs, bhist, bkill, bqueues and bparams of LSF 10.1, whose bjobs
supports ``-json``, and those of lsf.conf and lsb.params. bjobs shows ended jobs for CLEAN_PERIOD, by default an hour;
after that, bhist still knows them. The parsers skip other text, and never raise an exception.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from toilfn.clusters.base import Capabilities, JobId, JobState, Verdict, ended, exit_cause, queued, running, unknown
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import UnavailableError, has_beginning, json_values
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "REASONS",
    "SIGNALS",
    "STATES",
    "LSFCluster",
    "LSFSettings",
    "Site",
    "history",
    "job_key",
    "json_records",
    "memory_unit",
    "queue_record",
    "read_parameters",
]

_log = logging.getLogger(__name__)


class LSFSettings(JobSettings, total=False):
    """Settings of `LSFCluster` besides those of `JobSettings`.

    Parameters
    ----------
    units : str
        Unit of memory: ``KB``, ``MB``, ``GB`` or ``TB``. Default: LSF_UNIT_FOR_LIMITS in lsf.conf.
    memory_per_core : bool
        Whether memory is reserved per core. Default: RESOURCE_RESERVE_PER_TASK (or _PER_SLOT) in lsb.params.
    """

    units: str
    memory_per_core: bool


class LSFCluster(CommandCluster):
    """Runs tasks as LSF jobs; see `JobSettings` and `LSFSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = LSFSettings
    name = "lsf"
    prefix = "#BSUB"
    index = "LSB_JOBINDEX"
    answer = r"Job <(\d+)> is submitted"
    marks = ("[", "]")
    kill_command = ("bkill",)
    needed = ("bsub", "bjobs", "bkill")
    absent = r"Job <\d+(\[\d+\])?> is not found|No (matching |unfinished |running |pending |suspended )?job(s)? found"
    cleared = (
        r"BSUB_.*|LSB_(?!(CONFDIR|SHAREDIR)$).*|LSF_(?!(\w+DIR|TOP|VERSION|SERVER_HOSTS|MASTER_LIST)$).*|TOILFN_JOB"
    )
    options = "BSUB_.*|LSB_(DEFAULT|SUB_|BSUB_).*"
    walltime_margin = 0.0  # LSF rounds up to minutes
    first = 1
    array_limit = 1000
    away = (
        "LSF is down|Please wait|not respond|Cannot connect to LSF|still trying|communication time ?out"
        "|authentication (failed|error)|Failed in (an LSF library call|sending|receiving)|Unable to contact"
        "|(master|management) (LIM|host) (is )?(unknown|down)|Connection (refused|reset|timed out)|Bad XDR"
        "|Batch library internal error|mbatchd (is )?(too )?busy|Protocol error|Resource temporarily unavailable"
    )

    def __init__(self, **settings: Unpack[LSFSettings]) -> None:
        self._site = read_parameters("")
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Return the bsub options for a shape."""
        resources, given = submission.resources, self.settings
        cores = math.ceil(resources.cores)
        unit = memory_unit(given.get("units"))
        share = cores if given.get("memory_per_core", self._site.is_per_core) else 1
        walltime = self.walltime(resources)
        elements = f"[1-{len(submission.batches)}]" if submission.is_array else ""
        return [
            f'-J "{submission.name}{elements}"',
            "-rn",  # the leader decides what runs again
            "-o /dev/null",
            f"-n {cores}",
            '-R "span[hosts=1]"',
            f'-R "rusage[mem={max(1, math.ceil(resources.memory / share / unit))}]"',
            f"-M {max(1, math.ceil(resources.memory / unit))}",
            *([f"-W {math.ceil(walltime / 60)}"] if walltime is not None else []),
            *(f'-gpu "{_gpu(accelerator)}"' for accelerator in resources.accelerators),
            *self.setting_directives(queue="-q {}", account="-P {}"),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the bsub command line; bsub reads the script from standard input."""
        return ["bsub", *self.submit_args()]

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query jobs with bjobs, which also reports those that ended recently."""
        records = self._jobs("jobid jobindex stat exit_code exit_reason exec_host", "-a", *bases)
        found = {job: queue_record(record) for job, record in records.items()}
        return {job: verdict for job, verdict in found.items() if verdict is not None}

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query all event logs with bhist, which fails if it knows none of the jobs."""
        output = self.commands.ask(["bhist", "-l", "-UF", "-n", "0", *bases])
        return {self._id(*key): found for key, found in history(output).items() if key[0] in bases}

    def arrived(self, name: str) -> str:
        """Search for a submission by its name with bjobs, even if its jobs ended recently."""
        return next((self.split(job)[0] for job, called in self._named("-a").items() if called == name), "")

    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user, from bjobs."""
        return self._named()

    def _named(self, *options: str) -> dict[JobId, str]:
        records = self._jobs("jobid jobindex job_name", *options).items()
        return {job: str(record.get("JOB_NAME") or "").partition("[")[0] for job, record in records}

    def site_array_limit(self) -> int:
        """Read the site's parameters, check that the queue exists, and return the limit."""
        if "queue" in self.settings:
            self._check_queue(self.settings["queue"])
        self._site = read_parameters(self.commands.consult(["bparams", "-a"]))
        return self._site.array_limit

    def _check_queue(self, name: str) -> None:
        """Raise `ClusterError` if a queue does not exist. Other failures of bqueues are only logged; bsub decides."""
        try:
            self.commands.run(["bqueues", name])
        except UnavailableError:
            raise
        except ClusterError as error:
            if "No such queue" in str(error):
                raise
            _log.info("%s", error)

    def _jobs(self, fields: str, *arguments: str) -> dict[JobId, Mapping[str, Any]]:
        answer = self.commands.answer(["bjobs", "-json", "-o", fields, *arguments])
        records = json_records(answer.text, answer.is_absent)
        if records is None:
            raise UnavailableError(f"bjobs -json returned invalid JSON: {answer.text[:300]!r}")
        keys = ((job_key(record), record) for record in records)
        return {self._id(*key): record for key, record in keys if key is not None}

    def _id(self, base: str, index: int) -> JobId:
        return self.element(base, index) if index else JobId(base)


def _gpu(accelerator: Accelerator) -> str:
    model = f":gmodel={accelerator.model}" if accelerator.model else ""
    return f"num={accelerator.count}{model}"


_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


@dataclass(frozen=True, slots=True)
class Site:
    """The parameters of a site from ``bparams -a``.

    Attributes
    ----------
    is_per_core : bool
        Whether ``rusage[mem=...]`` counts per core of a job.
    array_limit : int
        Maximum number of elements of a job array. LSF's default is 1000.
    """

    is_per_core: bool
    array_limit: int


def read_parameters(text: str) -> Site:
    """Parse the output of ``bparams -a``."""
    per_core = re.search(r"^\s*RESOURCE_RESERVE_PER_(TASK|SLOT)\s*=\s*Y", text, re.MULTILINE | re.IGNORECASE)
    longest = re.search(r"^\s*MAX_JOB_ARRAY_SIZE\s*=\s*(\d{1,9})\b", text, re.MULTILINE)
    return Site(per_core is not None, int(longest[1]) if longest else 1000)


def memory_unit(wanted: str | None) -> int:
    """Return the number of bytes in LSF's unit of memory: the given one, else that of lsf.conf, else KB.

    Raises
    ------
    InputError
        If the unit does not exist.
    """
    name = (wanted or _configured()).upper()
    if name not in _UNITS:
        raise InputError(f"units={name!r} is unknown", hint=f"choose from {', '.join(_UNITS)}")
    return _UNITS[name]


def _configured() -> str:
    try:
        text = Path(os.environ.get("LSF_ENVDIR", "/etc"), "lsf.conf").read_text(errors="replace")
    except OSError:
        return "KB"
    match = re.search(r"^\s*LSF_UNIT_FOR_LIMITS\s*=\s*\"?(\w+)", text, re.MULTILINE)
    return match[1] if match else "KB"


_BJOBS = 'IBM Spectrum LSF 10.1 command reference, bjobs, "STAT"'
_API = 'IBM Spectrum LSF 10.1 lsbatch.h, "JOB_STAT_*"'
_TERM = 'Administering IBM Spectrum LSF 10.1, "Termination reasons displayed by bacct, bhist, and bjobs"'
_EXAMPLES = 'Administering IBM Spectrum LSF 10.1, "Example output of bacct and bhist"'
_CODES = 'Administering IBM Spectrum LSF 10.1, "Job exit codes"'

STATES: dict[str, Verdict] = {
    "PEND": queued("pending, not yet started", _BJOBS),
    "PROV": queued("its host is being woken up", _BJOBS),
    "PSUSP": queued("suspended by its owner or an administrator while it was pending", _BJOBS),
    "WAIT": queued("in a job chunk that is waiting to run", _BJOBS),
    "RUN": running("runs", _BJOBS),
    "USUSP": running("suspended by its owner or an administrator while it ran", _BJOBS),
    "SSUSP": running("suspended by LSF", _BJOBS),
    "UNKWN": unknown("the daemon on its host is unreachable", _BJOBS),
    "DONE": ended(None, "ended with status 0", _BJOBS),
    "PDONE": ended(None, "ended, and its post-execution command as well", _API),
    "PERR": ended(None, "ended, and its post-execution command failed", _API),
    "EXIT": ended(Cause.ERROR, "ended with another status, or was killed", _BJOBS),
    "ZOMBI": ended(Cause.LOST, "killed while its host was unreachable", _BJOBS),
}
"""The states of jobs. For ``EXIT``, ``PDONE`` and ``PERR``, the exit code and the reason decide."""

REASONS: dict[str, Verdict] = {
    "TERM_ADMIN": ended(Cause.LOST, "killed by root or an administrator", _TERM),
    "TERM_BUCKET_KILL": ended(Cause.LOST, "killed with bkill -b", _TERM),
    "TERM_CHKPNT": ended(Cause.PREEMPTED, "killed after a checkpoint", _TERM),
    "TERM_CPULIMIT": ended(Cause.WALLTIME, "reached the CPU time limit", _TERM),
    "TERM_CSM_ALLOC": ended(Cause.LOST, "the allocation by CSM failed", _TERM),
    "TERM_CTRL_PID": ended(Cause.LOST, "the process that controls the job died", _TERM),
    "TERM_CWD_NOTEXIST": ended(Cause.LOST, "the host cannot access the working directory", _TERM),
    "TERM_DATA": ended(Cause.LOST, "data staging failed", _TERM),
    "TERM_DEADLINE": ended(Cause.LOST, "reached its deadline, which is a time of day and not a time limit", _TERM),
    "TERM_EXTERNAL_SIGNAL": ended(Cause.LOST, "ended by a signal from outside LSF", _TERM),
    "TERM_FORCE_ADMIN": ended(Cause.LOST, "killed immediately by root or an administrator", _TERM),
    "TERM_FORCE_OWNER": ended(Cause.LOST, "killed immediately by its owner", _TERM),
    "TERM_KUBE": ended(Cause.LOST, "ended by the integration with Kubernetes", _TERM),
    "TERM_LOAD": ended(Cause.PREEMPTED, "the load of the host was too high", _TERM),
    "TERM_MC_RECALL": ended(Cause.LOST, "recalled by the cluster that had forwarded it", _TERM),
    "TERM_MEMLIMIT": ended(Cause.MEMORY, "reached the memory limit", _TERM),
    "TERM_ORPHAN_SYSTEM": ended(Cause.LOST, "ended as an orphan", _TERM),
    "TERM_OTHER": ended(Cause.LOST, "killed and requeued after it had been switched to another queue", _TERM),
    "TERM_OWNER": ended(Cause.LOST, "killed by its owner", _TERM),
    "TERM_PREEMPT": ended(Cause.PREEMPTED, "preempted", _TERM),
    "TERM_PRE_EXEC_FAIL": ended(Cause.LOST, "its pre-execution command failed too often", _TERM),
    "TERM_PROCESSLIMIT": ended(Cause.ERROR, "reached the process limit", _TERM),
    "TERM_RC": ended(Cause.PREEMPTED, "its host was reclaimed by the cloud", _TERM),
    "TERM_RC_RECLAIM": ended(Cause.PREEMPTED, "its host was reclaimed by the resource connector", _TERM),
    "TERM_REMOVE_HUNG_JOB": ended(Cause.LOST, "removed because its host was unreachable", _TERM),
    "TERM_REQUEUE_ADMIN": ended(Cause.PREEMPTED, "killed and requeued by root or an administrator", _TERM),
    "TERM_REQUEUE_OWNER": ended(Cause.PREEMPTED, "killed and requeued by its owner", _TERM),
    "TERM_REQUEUE_RC": ended(Cause.PREEMPTED, "killed and requeued, its host was reclaimed", _TERM),
    "TERM_RMS": ended(Cause.LOST, "an error of RMS", _TERM),
    "TERM_RUNLIMIT": ended(Cause.WALLTIME, "reached the run time limit", _TERM),
    "TERM_SLURM": ended(Cause.LOST, "ended by Slurm, on which LSF runs: a node failed", _TERM),
    "TERM_SWAP": ended(Cause.MEMORY, "reached the swap limit", _TERM),
    "TERM_SWAPLIMIT": ended(Cause.MEMORY, "reached the swap limit", _EXAMPLES),
    "TERM_THREADLIMIT": ended(Cause.ERROR, "reached the thread limit", _TERM),
    "TERM_USER": ended(Cause.LOST, "killed by its owner", _EXAMPLES),
    "TERM_WINDOW": ended(Cause.PREEMPTED, "the queue's run window closed", _TERM),
    "TERM_WINDOWS": ended(Cause.PREEMPTED, "the queue's run window closed", _EXAMPLES),
    "TERM_ZOMBIE": ended(Cause.LOST, "exited while LSF was not available", _TERM),
}
"""Reasons why LSF ended a job, in ``exit_reason`` of bjobs and in bhist. With ``TERM_UNKNOWN``, the exit status
decides."""

SIGNALS: dict[int, Verdict] = {
    2: ended(Cause.LOST, "SIGINT, the first signal of a kill", _CODES),
    12: ended(Cause.WALLTIME, "SIGUSR2, sent at the run time limit", _CODES),
    24: ended(Cause.WALLTIME, "SIGXCPU, sent at the CPU time limit", _CODES),
}
"""Signals with which LSF ends jobs without giving a reason; `exit_cause` interprets all others."""


def json_records(text: str, is_absent: bool = False) -> list[Any] | None:
    """Parse the output of ``bjobs -json``; return None if it is not valid JSON.

    The output may be empty if there are no jobs. If bjobs has said that it knows no such job (`is_absent`), the output
    may consist only of notices of the site.
    """
    if not text.strip() or (is_absent and not has_beginning(text)):
        return []
    for answer in json_values(text):
        if isinstance(answer, dict) and isinstance(answer.get("RECORDS"), list):
            return list(answer["RECORDS"])
    return None


def job_key(record: Any) -> tuple[str, int] | None:
    """Return the id and the index (0 for a job that is not an array element) of a record of ``bjobs -json``."""
    if not isinstance(record, Mapping) or "ERROR" in record:
        return None
    match = re.fullmatch(r"(\d+)(?:\[(\d+)\])?", str(record.get("JOBID", "")).strip())
    if match is None:
        return None
    return match[1], _number(record.get("JOBINDEX")) or int(match[2] or 0)


def queue_record(record: Mapping[str, Any]) -> JobReport | None:
    """Interpret a record of ``bjobs -json``; None if it has no state."""
    word = str(record.get("STAT") or "").strip().upper()
    if not word:
        return None
    known = STATES.get(word)
    state, cause = (known.state, known.cause) if known else (JobState.UNKNOWN, None)
    status, said = _number(record.get("EXIT_CODE")), str(record.get("EXIT_REASON") or "").strip()
    host = str(record.get("EXEC_HOST") or "").strip()
    if word == "EXIT" or (word in ("PDONE", "PERR") and status):
        cause = _cause(status, 0, said) or Cause.LOST  # without a status the job was not successful
    words = [word, f"exit status {status}" if status else "", said, f"on {host}" if host else ""]
    return JobReport(state, cause, ", ".join(filter(None, words)), is_held=word == "PSUSP")


def _cause(status: int, signal: int, said: str) -> Cause | None:
    reason = re.match(r"TERM_[A-Z_]+", said)
    if reason and reason[0] != "TERM_UNKNOWN":
        known = REASONS.get(reason[0])
        return known.cause if known else Cause.LOST  # LSF ended the job for an unknown reason
    by_signal = SIGNALS.get(signal or status - 128)
    return by_signal.cause if by_signal else exit_cause(status, signal)


def _number(text: object) -> int:
    match = re.fullmatch(r"\s*(\d{1,9})\s*", str(text))
    return int(match[1]) if match else 0


class _End(NamedTuple):
    """The end of a job, according to its events."""

    is_over: bool = False
    is_done: bool = False
    status: int = 0
    signal: int = 0
    reason: str = ""


_DAY = r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?: "
_BLOCK = re.compile(r"^Job <(\d{1,18})(?:\[(\d{1,9})\])?>,(.*?)(?=^-{20,}\s*$|^Job <\d+(?:\[\d+\])?>,|\Z)", re.M | re.S)
_EVENT = re.compile(rf"^{_DAY}(.*)$", re.MULTILINE)
_STARTED = re.compile(r"(?:Dispatched|Started|[Dd]ispatched to)\b")
_AGAIN = re.compile(r"(?:Starting|Running|Pending|Requeued)\b|.*\bhas been requeued\b")
_OVER = re.compile(r"(?:Exited\b|Completed <exit>|Done successfully|Completed <done>)")
_HOST = re.compile(r"Host\(s\) <([^>\n]+)>|[Dd]ispatched to <([^>\n]+)>")


def history(text: str) -> dict[tuple[str, int], JobReport]:
    """Parse the output of ``bhist -l -UF``: how each job ended, by id and index (0 for a job outside an array)."""
    text = re.sub(r"\r?\n[ \t]+(?=\S)", "", text)  # join continuation lines
    found = {(base, int(index or 0)): _past(said) for base, index, said in _BLOCK.findall(text)}
    return {job: end for job, end in found.items() if end is not None}


def _past(said: str) -> JobReport | None:
    """Interpret the events of one job; None if it has not ended.

    Only lines that begin with a date are events. The job's command, which may contain any text, is never part of them.
    """
    end, host = _End(), ""
    for event in _EVENT.findall(said):
        if _STARTED.match(event):
            named = _HOST.search(event)
            host = (named[1] or named[2]) if named else host
        if _STARTED.match(event) or _AGAIN.match(event):
            end = _End()
        elif _OVER.match(event):
            end = _ended(event, end)
    if not end.is_over:
        return None
    where = f", on {host}" if host else ""
    if end.is_done:
        return JobReport(JobState.ENDED, None, f"DONE{where}")
    words = ["EXIT", f"exit status {end.status}" if end.status else "", f"signal {end.signal}" if end.signal else ""]
    cause = _cause(end.status, end.signal, end.reason) or Cause.LOST
    return JobReport(JobState.ENDED, cause, ", ".join(filter(None, (*words, end.reason))) + where)


def _ended(event: str, before: _End) -> _End:
    """Interpret an event of a job's end, and merge it with earlier ones."""
    if event.startswith(("Done", "Completed <done>")):
        return _End(is_over=True, is_done=True)
    status = re.match(r"Exited with exit code ?(\d{1,9})", event)
    signal = re.match(r"Exited by signal ?(\d{1,9})", event)
    reason = re.search(r"\bTERM_[A-Z_]+", event)
    return _End(
        is_over=True,
        status=int(status[1]) if status else before.status,
        signal=int(signal[1]) if signal else before.signal,
        reason=reason[0] if reason else before.reason,
    )
