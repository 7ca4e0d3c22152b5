"""PBS: Torque, and PBS Professional or OpenPBS.

Follows the manual pages of qsub, qstat and qdel of both, Torque's "Job Exit Status" and the PBS Professional
Reference Guide, "Job Exit Status Codes". Neither has an accounting query for users: ended jobs are seen as long
as the server keeps them (``keep_completed`` of Torque, ``job_history_enable`` of PBS Professional).
"""

from __future__ import annotations

import json
import math
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from xml.etree import ElementTree as ET

from toilfn.clusters.base import Capabilities, JobId, JobState
from toilfn.clusters.commandline import CommandCluster
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.jobscript import Submission
from toilfn.clusters.jobsettings import JobSettings
from toilfn.clusters.polled import Found
from toilfn.errors import ClusterError
from toilfn.events import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["PBSCluster", "TorqueCluster", "TorqueSettings"]

STATES: dict[str, JobState] = {
    "Q": JobState.QUEUED,
    "H": JobState.QUEUED,
    "W": JobState.QUEUED,
    "T": JobState.QUEUED,
    "M": JobState.QUEUED,
    "B": JobState.QUEUED,
    "R": JobState.RUNNING,
    "E": JobState.RUNNING,
    "S": JobState.RUNNING,
    "U": JobState.RUNNING,
    "C": JobState.ENDED,
    "F": JobState.ENDED,
    "X": JobState.ENDED,
}
"""Letters of qstat's states and ours."""

TORQUE_EXITS: dict[int, Cause] = {-10: Cause.MEMORY, -11: Cause.WALLTIME, -12: Cause.WALLTIME}
"""Exit statuses that Torque makes up, and our cause; other negative ones are failures to start a job."""

PBS_EXITS: dict[int, Cause] = {
    -11: Cause.PREEMPTED,  # rerun
    -14: Cause.PREEMPTED,
    -26: Cause.MEMORY,
    -27: Cause.MEMORY,
    -28: Cause.WALLTIME,
    -29: Cause.WALLTIME,
}
"""The same for PBS Professional."""


class TorqueSettings(JobSettings, total=False):
    """What `TorqueCluster` and `PBSCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    requirements : str
        More of what ``-l`` takes, such as ``"walltime=1:00:00"``; by default that of ``TOILFN_TORQUE_REQS``.
    """

    requirements: str


class _PBS(CommandCluster):
    """What the two have in common."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = TorqueSettings
    prefix = "#PBS"
    array_limit = 1000
    away = (
        "cannot connect to server|Connection refused|Communication failure|End of File|Expired credential|timed? ?out"
    )
    exits: ClassVar[Mapping[int, Cause]]
    array_option: ClassVar[str]

    def __init__(self, **settings: Unpack[TorqueSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    @abstractmethod
    def _request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Give the values of ``-l``."""

    @abstractmethod
    def _status(self, *arguments: str) -> Iterator[tuple[JobId, Mapping[str, str]]]:
        """Run qstat and give each job's attributes."""

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
            *(f"-l {request}" for request in self._request(submission.resources, self.walltime(submission.resources))),
            *([f"-l {more}"] if more else []),
            *([f"-q {given['queue']}"] if "queue" in given else []),
            *([f"-A {given['account']}"] if "account" in given else []),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give qsub's command line; qsub reads the script from its input."""
        return ["qsub", *self.submit_args()]

    def submitted(self, output: str) -> str:
        """Read ``4711.server`` or ``4711[].server``."""
        match = re.search(r"^\d+(\[\])?(\.\S+)?$", output, re.MULTILINE)
        if match is None:
            raise ClusterError(f"qsub answered {output!r}, which has no job id")
        return match[0]

    def element(self, base: str, number: int) -> JobId:
        """Give ``4711[3].server``."""
        return JobId(base.replace("[]", f"[{number}]"))

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read ``4711[3].server``."""
        match = re.search(r"\[(\d+)\]", job)
        return (job.replace(match[0], "[]"), int(match[1])) if match else (str(job), None)

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask qstat for all jobs and elements."""
        return {job: self._found(attributes) for job, attributes in self._status(*bases)}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Know nothing more than qstat."""
        return {}

    def kill_command(self, jobs: Sequence[str]) -> list[str]:
        """Give qdel's command line."""
        return ["qdel", *jobs]

    def names(self) -> dict[JobId, str]:
        """Ask qstat for all live jobs; the job's own name may be cut, so a variable carries it."""
        jobs = {
            job: attributes for job, attributes in self._status() if self._found(attributes).state is not JobState.ENDED
        }
        carried = {job: re.search(r"\bTOILFN_JOB=([\w.-]+)", a.get("Variable_List", "")) for job, a in jobs.items()}
        return {job: match[1] for job, match in carried.items() if match and "[]" not in job}

    def _found(self, attributes: Mapping[str, str]) -> Found:
        letter = attributes.get("job_state", "")
        state = STATES.get(letter, JobState.UNKNOWN)
        if state is not JobState.ENDED:
            return Found(state, None, f"state {letter}")
        text = attributes.get("Exit_status", attributes.get("exit_status"))
        if text is None:
            return Found(state, Cause.LOST, "deleted before it started")
        status = int(text)
        # Over 256 stands for a signal; shells inside the job use 128.
        cause = exit_cause(status % 256, status - 256) if status > 256 else exit_cause(status)
        cause = self.exits.get(status, Cause.ERROR) if status < 0 else cause
        comment = attributes.get("comment", attributes.get("sched_hint", ""))
        return Found(state, cause, ", ".join(filter(None, (f"exit status {status}", comment))))


class TorqueCluster(_PBS):
    """Run tasks as Torque jobs; see `JobSettings` and `TorqueSettings` for what it can be told."""

    name = "torque"
    index = "PBS_ARRAYID"
    array_option = "-t"
    exits = TORQUE_EXITS

    def _request(self, resources: Resources, walltime: float | None) -> list[str]:
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        nodes = f"nodes=1:ppn={math.ceil(resources.cores)}" + (f":gpus={gpus}" if gpus else "")
        return [nodes, f"mem={_kilobytes(resources)}kb", *_walltime(walltime)]

    def _status(self, *arguments: str) -> Iterator[tuple[JobId, Mapping[str, str]]]:
        output = self.commands.run(["qstat", "-t", "-f", "-x", *arguments], accept=(0, 153))
        try:
            root = ET.fromstring(output or "<Data/>")  # noqa: S314  # it comes from the scheduler that runs our code
        except ET.ParseError as error:
            raise ClusterError(f"qstat -x answered what is not XML ({error}): {output[:300]}") from None
        for job in root.iter("Job"):
            attributes = {child.tag: child.text or "" for child in job}
            yield JobId(attributes["Job_Id"]), attributes


class PBSCluster(_PBS):
    """Run tasks as jobs of PBS Professional or OpenPBS; see `JobSettings` and `TorqueSettings`."""

    name = "pbs"
    index = "PBS_ARRAY_INDEX"
    array_option = "-J"
    exits = PBS_EXITS

    def _request(self, resources: Resources, walltime: float | None) -> list[str]:
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        chunk = f"select=1:ncpus={math.ceil(resources.cores)}:mem={_kilobytes(resources)}kb"
        return [chunk + (f":ngpus={gpus}" if gpus else ""), *_walltime(walltime)]

    def _status(self, *arguments: str) -> Iterator[tuple[JobId, Mapping[str, str]]]:
        # 35: all are finished; 153: some are not known. What is known is in the answer all the same.
        output = self.commands.run(["qstat", "-x", "-t", "-f", "-F", "json", *arguments], accept=(0, 35, 153))
        try:
            jobs = json.loads(output or "{}").get("Jobs", {})
        except ValueError as error:
            raise ClusterError(f"qstat -F json answered what is not JSON ({error}): {output[:300]}") from None
        for job, attributes in jobs.items():
            variables = attributes.pop("Variable_List", {})
            listed = ",".join(f"{name}={value}" for name, value in variables.items())
            yield JobId(job), {name: str(value) for name, value in attributes.items()} | {"Variable_List": listed}


def _kilobytes(resources: Resources) -> int:
    return max(1, math.ceil(resources.memory / 2**10))


def _walltime(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"walltime={math.ceil(seconds)}"]
