"""Parasol, the batch system of the UCSC Genome Browser group.

This module follows the usage text of ``parasol`` and the fields of its results files (``jobResult`` in its source
code). A Parasol batch is a group of jobs with one results file. Parasol judges nodes by the failures within a batch, so
each shape gets a Parasol batch of its own. Parasol splits commands at spaces and supports no quoting, so paths cannot
contain spaces. The parsers skip lines that do not describe jobs, and never raise an exception.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from toilfn.clusters.base import Capabilities, JobId, JobState, RunContext, exit_cause
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ListedJob", "ParasolCluster", "ParasolSettings", "listed", "results"]


class ParasolSettings(JobSettings, total=False):
    """Settings of `ParasolCluster` besides those of `JobSettings`.

    Parameters
    ----------
    parasol_command : str
        Name or path of the command. Default: ``parasol``.
    max_batches : int
        Maximum number of shapes of jobs, each of which is a Parasol batch. Default: 1000.
    """

    parasol_command: str
    max_batches: int


class ParasolCluster(CommandCluster):
    """Runs tasks as Parasol jobs; see `JobSettings` and `ParasolSettings` for the settings.

    Parasol considers cores and memory when it places jobs, but enforces no limits.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    settings_type: ClassVar[type] = ParasolSettings
    name = "parasol"
    prefix = "# parasol:"
    answer = r"your job (\d+)"
    marks = ("\n", "")  # there are no arrays, and no id contains a line break
    kill_limit = 1
    away = "Couldn't connect|Couldn't send|Hub didn't acknowledge|Connection refused|timed out"

    def __init__(self, **settings: Unpack[ParasolSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict
        self._command: str = self.settings.get("parasol_command", "parasol")
        self.kill_command = (self._command, "remove", "job")

    def open(self, context: RunContext) -> None:
        """Prepare to run batches, and check the log directory; see `Cluster.open`."""
        self.commands.expect((self._command,))
        super().open(context)
        if re.search(r"\s", str(self.log_directory)):
            raise InputError(
                f"log directory {self.log_directory}: Parasol supports no spaces in paths", hint="set log_directory"
            )

    def directives(self, submission: Submission) -> list[str]:
        """Return the parasol options for a shape."""
        resources = submission.resources
        return [f"-cpu={math.ceil(resources.cores)}", f"-ram={max(1, resources.memory)}"]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the parasol command line; the script is the job's command, so that listings show its name."""
        options = self.directives(submission)
        shape = hashlib.blake2b(" ".join(options).encode(), digest_size=4).hexdigest()
        results = self.log_directory / f"shape-{shape}.results"
        most = self.settings.get("max_batches", 1000)
        if not results.exists() and len(list(self.log_directory.glob("shape-*.results"))) >= most:
            raise ClusterError(
                f"too many distinct resource shapes: at most {most} Parasol batches", hint="set max_batches"
            )
        results.touch()
        where = [f"-results={results}", f"-dir={self.log_directory}"]
        return [self._command, "-verbose", *options, *where, *self.submit_args(), "add", "job", str(script)]

    def element(self, base: str, number: int) -> JobId:
        """Return the id unchanged, since there are no arrays."""
        return JobId(base)

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Return the id without a number, since there are no arrays."""
        return str(job), None

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query all jobs."""
        return {JobId(job): row.found for job, row in listed(self._list()).items()}

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Read the results files."""
        return {JobId(job): found for job, (found, _) in self._results().items()}

    def names(self) -> dict[JobId, str]:
        """Return the names of all jobs, without ``.sh``. Jobs of toilfn have the names of their scripts."""
        return {JobId(job): row.name for job, row in listed(self._list()).items()}

    def arrived(self, name: str) -> str:
        """Search for a submission by its name, even if it has ended."""
        if live := super().arrived(name):
            return live
        return next((job for job, (_, called) in self._results().items() if called == name), "")

    def _list(self) -> str:
        return self.commands.ask([self._command, "list", "jobs"])

    def _results(self) -> dict[str, tuple[JobReport, str]]:
        known: dict[str, tuple[JobReport, str]] = {}
        for file in self.log_directory.glob("shape-*.results"):
            known |= results(file.read_text(errors="replace"))
        return known


_WAITING = "none"
"""The text that ``parasol list jobs`` shows in place of the machine of a job that waits."""

_LISTED = re.compile(r"^(\d{1,18}) +(\S+) +\S+ +\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (\S+)", re.MULTILINE)
_RESULT = re.compile(r"^(-?\d{1,9}) (\S+) (\d{1,18}) (\S+) -?\d+ -?\d+ \d+ \d+ \d+ \S+ \S+", re.MULTILINE)


class ListedJob(NamedTuple):
    """A live job: its state, and the name of its command without ``.sh``."""

    found: JobReport
    name: str


def listed(text: str) -> dict[str, ListedJob]:
    """Parse the output of ``parasol list jobs``: ``4711 machine user 2009/07/23 10:54:09 command``."""
    return {
        job: ListedJob(_live(machine), PurePosixPath(command).name.removesuffix(".sh"))
        for job, machine, command in _LISTED.findall(text)
    }


def results(text: str) -> dict[str, tuple[JobReport, str]]:
    """Parse a results file: how each job ended, and the name of its command without ``.sh``."""
    return {
        job: (_ended(int(status), host), PurePosixPath(command).name.removesuffix(".sh"))
        for status, host, job, command in _RESULT.findall(text)
    }


def _live(machine: str) -> JobReport:
    return JobReport(JobState.QUEUED if machine == _WAITING else JobState.RUNNING, None, f"on {machine}")


def _ended(status: int, host: str) -> JobReport:
    """Interpret a status of wait(2)."""
    if status < 0:
        return JobReport(JobState.ENDED, Cause.LOST, f"no exit status, on {host}")
    code, signal = status >> 8, status & 127
    words = f"signal {signal}" if signal else f"exit status {code}"
    return JobReport(JobState.ENDED, exit_cause(code, signal), f"{words}, on {host}")
