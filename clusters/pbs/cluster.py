"""PBS Professional, OpenPBS and Torque.

This module follows the manual pages of qsub, qstat, qdel and tracejob. qstat shows ended jobs as long as the server
keeps them (``job_history_enable``, for Torque ``keep_completed``); after that, tracejob reads the server's logs if
permitted.
"""

from __future__ import annotations

import math
import os
import pwd
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from toilfn.clusters.base import Capabilities, JobId, JobState
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import Answer, UnavailableError, portions
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings
from toilfn.clusters.common.verdicts import Verdict
from toilfn.clusters.pbs.answers import PBS_EXITS, TORQUE_EXITS, job_found, json_jobs, traced, variable, xml_jobs
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PBSBase", "PBSCluster", "PBSSettings", "TorqueCluster", "kilobytes", "time_request"]


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
    """Maximum number of tracejob calls in one query of the accounting."""

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
        """Return an id such as ``4711.server``. A number alone is ambiguous; the job is then searched by its name."""
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

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query jobs and elements with qstat."""
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in self.status(*bases).items()}
        return {job: verdict for job, verdict in found.items() if verdict is not None}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
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
        """Return the names of this user's live jobs, from an environment variable, since job names may be shortened."""
        jobs = self._status_of_mine()
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in jobs.items()}
        live = [job for job, verdict in found.items() if verdict is not None and verdict.state is not JobState.ENDED]
        named = {job: variable(jobs[job], "TOILFN_JOB") for job in live if "[]" not in job}
        return {job: name for job, name in named.items() if name}

    def _status_of_mine(self, *options: str) -> dict[str, dict[str, str]]:
        """Query the jobs of this user, or, without qselect, all jobs."""
        if shutil.which("qselect") is None:
            return self.status()
        output = self.commands.ask(["qselect", "-u", pwd.getpwuid(os.getuid()).pw_name, *options])
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
