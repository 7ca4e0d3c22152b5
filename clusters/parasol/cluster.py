"""Parasol, the batch system of the UCSC Genome Browser group.

Follows the usage text of ``parasol`` and the fields of its results files (``jobResult`` in its sources). A Parasol
batch is a results file: here one for each shape, because Parasol judges nodes by the failures within a batch.
Parasol separates words by spaces and has no quoting, so paths must not have spaces.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from toilfn.clusters.base import Capabilities, JobId, RunContext
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings
from toilfn.clusters.parasol.answers import listed, results
from toilfn.errors import ClusterError, InputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ParasolCluster", "ParasolSettings"]


class ParasolSettings(JobSettings, total=False):
    """Settings of `ParasolCluster` besides those of `JobSettings`.

    Parameters
    ----------
    parasol_command : str
        The command's name or path; ``parasol`` by default.
    max_batches : int
        The most shapes of jobs, as each is a batch of Parasol's; 1000 by default.
    """

    parasol_command: str
    max_batches: int


class ParasolCluster(CommandCluster):
    """Run tasks as Parasol jobs; see `JobSettings` and `ParasolSettings` for its settings.

    Parasol keeps to cores and memory when it places jobs, and limits neither memory nor time.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    settings_type: ClassVar[type] = ParasolSettings
    name = "parasol"
    prefix = "# parasol:"
    answer = r"your job (\d+)"
    marks = ("\n", "")  # there are no arrays
    kill_limit = 1
    away = "Couldn't connect|Couldn't send|Hub didn't acknowledge|Connection refused|timed out"

    def __init__(self, **settings: Unpack[ParasolSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict
        self._command: str = self.settings.get("parasol_command", "parasol")
        self.killer = (self._command, "remove", "job")

    def open(self, context: RunContext) -> None:
        """Get ready, in a folder whose name Parasol can handle."""
        self.commands.expect((self._command,))
        super().open(context)
        if re.search(r"\s", str(self.log_directory)):
            raise InputError(f"Parasol cannot handle the spaces in {self.log_directory}", hint="set log_directory")

    def directives(self, submission: Submission) -> list[str]:
        """Return parasol's options for a shape."""
        resources = submission.resources
        return [f"-cpu={math.ceil(resources.cores)}", f"-ram={max(1, resources.memory)}"]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return parasol's command line: the script is the job's command, so that lists show its name."""
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
        """Return the id: there are no arrays."""
        return JobId(base)

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read an id: there are no arrays."""
        return str(job), None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask for all jobs."""
        return {JobId(job): row.found for job, row in listed(self._list()).items()}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Read the results files."""
        return {JobId(job): found for job, (found, _) in self._results().items()}

    def names(self) -> dict[JobId, str]:
        """Ask for all jobs; ours are named by their scripts."""
        return {JobId(job): row.name for job, row in listed(self._list()).items()}

    def arrived(self, name: str) -> str:
        """Ask for a submission by its name, also when it has ended."""
        if live := super().arrived(name):
            return live
        return next((job for job, (_, called) in self._results().items() if called == name), "")

    def _list(self) -> str:
        return self.commands.ask([self._command, "list", "jobs"])

    def _results(self) -> dict[str, tuple[Found, str]]:
        known: dict[str, tuple[Found, str]] = {}
        for file in self.log_directory.glob("shape-*.results"):
            known |= results(file.read_text(errors="replace"))
        return known
