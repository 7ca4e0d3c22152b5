"""PBS Professional and OpenPBS, and what Torque has in common with them.

Follows the manual pages of qsub, qstat, qdel and tracejob. Ended jobs are seen as long as the server keeps them
(``job_history_enable``, for Torque ``keep_completed``); after that, tracejob reads the server's logs where it may.
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
from toilfn.clusters.commandline import CommandCluster
from toilfn.clusters.commands import AwayError
from toilfn.clusters.jobscript import Submission
from toilfn.clusters.jobsettings import JobSettings
from toilfn.clusters.polled import Found
from toilfn.clusters.words.pbs import PBS_EXITS, job_found, json_jobs, traced, variable
from toilfn.clusters.words.verdicts import Verdict
from toilfn.errors import ClusterError
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PBSBase", "PBSCluster", "PBSSettings", "kilobytes", "time_request"]


class PBSSettings(JobSettings, total=False):
    """What `TorqueCluster` and `PBSCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    requirements : str
        More of what ``-l`` takes, such as ``"walltime=1:00:00"``; by default that of ``TOILFN_TORQUE_REQS``.
    """

    requirements: str


class PBSBase(CommandCluster):
    """What the two have in common."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = PBSSettings
    prefix = "#PBS"
    answer = r"^(\d+(\[\])?(\.\S+)?)$"
    killer = ("qdel",)
    array_limit = 1000
    away = (
        "cannot connect to server|Connection refused|Communication failure|End of File|Expired credential|timed? ?out"
    )
    exits: ClassVar[Mapping[int, Verdict]]
    array_option: ClassVar[str]
    trace_limit: ClassVar[int] = 50
    """The most jobs that tracejob is asked for in one interval."""

    def __init__(self, **settings: Unpack[PBSSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    @abstractmethod
    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Give the values of ``-l``."""

    @abstractmethod
    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes.

        Raises
        ------
        AwayError
            If its answer cannot be read.
        """

    def directives(self, submission: Submission) -> list[str]:
        """Give qsub's options for a shape."""
        given = self.settings
        more = given.get("requirements", os.environ.get("TOILFN_TORQUE_REQS"))
        array = [f"{self.array_option} 0-{len(submission.batches) - 1}"] if submission.is_array else []
        return [
            f"-N {submission.name[-15:].lstrip('-_.0123456789') or 'toilfn'}",  # some servers take no longer names
            f"-v TOILFN_JOB={submission.name}",
            "-V",
            *array,
            *([] if submission.is_array else ["-r n"]),  # PBS Professional refuses arrays that cannot be rerun
            f"-S {given.get('shell', '/bin/sh')}",
            "-j oe",
            "-o /dev/null",
            *(f"-l {request}" for request in self.request(submission.resources, self.walltime(submission.resources))),
            *([f"-l {more}"] if more else []),
            *self.given(queue="-q {}", account="-A {}"),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give qsub's command line; qsub reads the script from its input."""
        return ["qsub", *self.submit_args()]

    def element(self, base: str, number: int) -> JobId:
        """Give ``4711[3].server``."""
        return JobId(base.replace("[]", f"[{number}]"))

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read ``4711[3].server``."""
        match = re.search(r"\[(\d+)\]", job)
        return (job.replace(match[0], "[]"), int(match[1])) if match else (str(job), None)

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask qstat for all jobs and elements."""
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in self.status(*bases).items()}
        return {job: verdict for job, verdict in found.items() if verdict is not None}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask tracejob, one job at a time: it takes no list, and is not on every machine that users log in to."""
        ended = {JobId(job): traced(self._trace(job), self.exits) for job in self._elements(bases)[: self.trace_limit]}
        return {job: found for job, found in ended.items() if found is not None}

    def _elements(self, bases: Sequence[str]) -> list[JobId]:
        """Give the jobs that we still wait for of some submissions."""
        return [job for job in self._live if self.split(job)[0] in bases]

    def _trace(self, job: str) -> str:
        try:
            return self.commands.run(["tracejob", "-q", "-m", "-l", "-n", "3", job], accept=range(256))
        except AwayError:
            raise
        except ClusterError:  # there is no such command here
            return ""

    def names(self) -> dict[JobId, str]:
        """Ask qstat for all live jobs of this user; the job's own name may be cut, so a variable carries it."""
        wanted = self._mine()
        jobs = {} if wanted == [] else self.status(*(wanted or ()))
        found = {JobId(job): job_found(attributes, self.exits) for job, attributes in jobs.items()}
        live = [job for job, verdict in found.items() if verdict is not None and verdict.state is not JobState.ENDED]
        named = {job: variable(jobs[job], "TOILFN_JOB") for job in live if "[]" not in job}
        return {job: name for job, name in named.items() if name}

    def _mine(self) -> list[str] | None:
        """List this user's live jobs; None where there is no qselect, and all jobs have to be looked at."""
        if shutil.which("qselect") is None:
            return None
        user = pwd.getpwuid(os.getuid()).pw_name
        rows = map(str.strip, self.commands.run(["qselect", "-u", user]).splitlines())
        return [row for row in rows if re.fullmatch(r"\d+(\[\d*\])?(\.\S+)?", row)]


class PBSCluster(PBSBase):
    """Run tasks as jobs of PBS Professional or OpenPBS; see `JobSettings` and `PBSSettings`."""

    name = "pbs"
    index = "PBS_ARRAY_INDEX"
    array_option = "-J"
    exits = PBS_EXITS
    _history: Sequence[str] = ("-x",)

    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Give the values of ``-l``."""
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        chunk = f"select=1:ncpus={math.ceil(resources.cores)}:mem={kilobytes(resources)}kb"
        return [chunk + (f":ngpus={gpus}" if gpus else ""), *time_request(walltime)]

    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes; see `PBSBase.status`."""
        output = self._qstat(arguments)
        jobs = json_jobs(output)
        if jobs is None:
            raise AwayError(f"qstat -F json answered what cannot be read: {output[:300]!r}")
        return jobs

    def _qstat(self, arguments: Sequence[str]) -> str:
        """Run qstat, with the server's history of ended jobs where it keeps one (``job_history_enable``)."""
        # 35: all are finished; 153: some are not known. What is known is in the answer all the same.
        command, accept = ["qstat", *self._history, "-t", "-f", "-F", "json", *arguments], (0, 35, 153)
        try:
            return self.commands.run(command, accept=accept)
        except ClusterError as error:
            if "job history" not in str(error) or not self._history:
                raise
            self._history = ()
            return self._qstat(arguments)


def kilobytes(resources: Resources) -> int:
    """Give a job's memory in the unit that is asked for."""
    return max(1, math.ceil(resources.memory / 2**10))


def time_request(seconds: float | None) -> list[str]:
    """Write a time limit for ``-l``."""
    return [] if seconds is None else [f"walltime={math.ceil(seconds)}"]
