"""Grid Engine: SGE, Son of Grid Engine, Univa and Altair Grid Engine.

Follows the manual pages of submit(1) (qsub, qdel), qstat(1), qacct(1) and accounting(5).
"""

from __future__ import annotations

import getpass
import math
import os
import re
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
from toilfn.errors import ClusterError, InputError
from toilfn.events import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["GridEngineCluster", "GridEngineSettings"]

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "E": (JobState.ENDED, Cause.ERROR),
    "d": (JobState.RUNNING, None),
    "r": (JobState.RUNNING, None),
    "t": (JobState.RUNNING, None),
    "s": (JobState.RUNNING, None),
    "S": (JobState.RUNNING, None),
    "T": (JobState.RUNNING, None),
    "w": (JobState.QUEUED, None),
    "q": (JobState.QUEUED, None),
    "h": (JobState.QUEUED, None),
}
"""Letters of qstat's states and ours; the first of these that a state has decides. No letter means that it ended."""

FAILED: dict[int, Cause] = {
    19: Cause.LOST,  # no exit status: the execution daemon or the node died
    21: Cause.LOST,  # the execution host is not known any more
    22: Cause.LOST,
    25: Cause.PREEMPTED,  # rescheduled
    24: Cause.PREEMPTED,  # migrated
    37: Cause.WALLTIME,  # qmaster enforced h_rt, h_cpu or h_vmem
}
"""Numbers of ``failed`` in accounting records (accounting(5), sge_status(5)); others are errors of starting the job."""

_AFTER_JOB = 100
"""``failed`` of a job that a signal ended."""


class GridEngineSettings(JobSettings, total=False):
    """What `GridEngineCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    parallel_environment : str
        What jobs of more than one core ask for; by default that of ``TOILFN_GRIDENGINE_PE``, else ``smp``.
    memory_resources : sequence of str
        The complexes that memory is asked for with; by default ``h_vmem``. Empty to ask for none
        (Toil's ``--manualMemArgs``); then `submit_args` should say something instead.
    memory_is_per_slot : bool
        Whether these count for each slot, as consumables do. True by default.
    accelerator_resource : str
        The complex that accelerators are asked for with; ``gpu`` by default.
    """

    parallel_environment: str
    memory_resources: Sequence[str]
    memory_is_per_slot: bool
    accelerator_resource: str


class GridEngineCluster(CommandCluster):
    """Run tasks as Grid Engine jobs; see `JobSettings` and `GridEngineSettings` for what it can be told."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = GridEngineSettings
    name = "gridengine"
    prefix = "#$"
    index = "SGE_TASK_ID"
    first = 1
    array_limit = 75000
    log_causes: ClassVar[Mapping[str, Cause]] = {r"^MemoryError\b": Cause.MEMORY}
    away = "commlib error|unable to contact qmaster|unable to send message to qmaster|got no response|got send error"

    def __init__(self, **settings: Unpack[GridEngineSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Give qsub's options for a shape."""
        resources, given = submission.resources, self.settings
        slots = math.ceil(resources.cores)
        environment = given.get("parallel_environment", os.environ.get("TOILFN_GRIDENGINE_PE", "smp"))
        walltime = self.walltime(resources)
        return [
            f"-N {submission.name}",
            *([f"-t 1-{len(submission.batches)}"] if submission.is_array else []),
            f"-S {given.get('shell', '/bin/sh')}",
            "-V",
            "-r n",  # who runs again is the leader's decision
            "-o /dev/null",
            "-j y",
            *([f"-pe {environment} {slots}"] if slots > 1 else []),
            *self._memory(resources, slots),
            *([f"-l h_rt={math.ceil(walltime)}"] if walltime is not None else []),
            *self._accelerators(resources, slots),
            *([f"-q {given['queue']}"] if "queue" in given else []),
            *([f"-P {given['account']}"] if "account" in given else []),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give qsub's command line; qsub reads the script from its input."""
        return ["qsub", "-terse", *self.submit_args()]

    def submitted(self, output: str) -> str:
        """Read ``4711`` or ``4711.1-20:1``."""
        match = re.search(r"^(\d+)(\.\S*)?$", output, re.MULTILINE)
        if match is None:
            raise ClusterError(f"qsub -terse answered {output!r}, which has no job id")
        return match[1]

    def element(self, base: str, number: int) -> JobId:
        """Give ``4711.3``."""
        return JobId(f"{base}.{number}")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read ``4711.3``."""
        base, _, number = job.partition(".")
        return base, int(number) if number else None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask qstat for all jobs of this user: it has no way to ask for some."""
        return {job: _state(job_list.findtext("state", "")) for job, job_list in self._jobs()}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask qacct, one submission at a time: it takes no list."""
        known: dict[JobId, Found] = {}
        for base in bases:
            output = self.commands.run(["qacct", "-j", base], accept=(0, 1))
            for record in filter(None, re.split(r"^=+$", output, flags=re.MULTILINE)):
                fields = dict(line.split(maxsplit=1) for line in record.splitlines() if len(line.split()) > 1)
                number = fields.get("taskid", "undefined").strip()
                job = self.element(base, int(number)) if number.isdigit() else JobId(base)
                known[job] = _accounted(fields)
        return known

    def kill_command(self, jobs: Sequence[str]) -> list[str]:
        """Give qdel's command line."""
        return ["qdel", *jobs]

    def names(self) -> dict[JobId, str]:
        """Ask qstat for all live jobs of this user."""
        return {job: job_list.findtext("JB_name", "") for job, job_list in self._jobs()}

    def site_array_limit(self) -> int:
        """Ask for max_aj_tasks."""
        match = re.search(r"^max_aj_tasks\s+(\d+)", self.commands.run(["qconf", "-sconf"]), re.MULTILINE)
        return int(match[1]) or self.array_limit if match else self.array_limit

    def _jobs(self) -> Iterator[tuple[JobId, ET.Element]]:
        output = self.commands.run(["qstat", "-xml", "-g", "d", "-u", getpass.getuser()])
        try:
            root = ET.fromstring(output)  # noqa: S314  # it comes from the scheduler that runs our code
        except ET.ParseError as error:
            raise ClusterError(f"qstat -xml answered what is not XML ({error}): {output[:300]}") from None
        for job_list in root.iter("job_list"):
            base, number = job_list.findtext("JB_job_number", ""), job_list.findtext("tasks")
            yield (self.element(base, int(number)) if number else JobId(base)), job_list

    def _memory(self, resources: Resources, slots: int) -> list[str]:
        shares = slots if self.settings.get("memory_is_per_slot", True) else 1
        kilobytes = max(1, math.ceil(resources.memory / shares / 2**10))
        return [f"-l {name}={kilobytes}K" for name in self.settings.get("memory_resources", ("h_vmem",))]

    def _accelerators(self, resources: Resources, slots: int) -> list[str]:
        count = sum(accelerator.count for accelerator in resources.accelerators)
        if count % slots:
            raise InputError(f"Grid Engine gives accelerators for each slot: {count} cannot be shared by {slots} cores")
        return [f"-l {self.settings.get('accelerator_resource', 'gpu')}={count // slots}"] if count else []


def _state(letters: str) -> Found:
    state, cause = next((STATES[letter] for letter in STATES if letter in letters), (JobState.UNKNOWN, None))
    return Found(state, cause, f"state {letters}", is_stuck=state is JobState.ENDED)


def _accounted(fields: Mapping[str, str]) -> Found:
    """Judge a record of qacct."""
    failed, status = _number(fields, "failed"), _number(fields, "exit_status")
    cause = exit_cause(status)
    if failed not in (0, _AFTER_JOB):
        cause = FAILED.get(failed, Cause.ERROR)
    elif cause is Cause.LOST and _number(fields, "ru_wallclock") >= _limit(fields, "h_rt"):
        cause = Cause.WALLTIME
    words = [f"failed {fields['failed'].strip()}"] if failed else []
    words += [f"exit status {status}", f"on {fields.get('hostname', 'no host').strip()}"]
    return Found(JobState.ENDED, cause, ", ".join(words))


def _number(fields: Mapping[str, str], name: str) -> int:
    match = re.match(r"\d+", fields.get(name, ""))
    return int(match[0]) if match else 0


def _limit(fields: Mapping[str, str], name: str) -> float:
    match = re.search(rf"\b{name}=(\d+)", fields.get("category", ""))
    return float(match[1]) if match else math.inf
