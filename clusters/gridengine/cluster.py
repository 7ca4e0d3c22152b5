"""Grid Engine: SGE, Son of Grid Engine, Univa and Altair Grid Engine.

This module follows the manual pages of submit(1) (qsub, qdel), qstat(1), qacct(1) and accounting(5).
"""

from __future__ import annotations

import logging
import math
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from toilfn.clusters.base import Capabilities, JobId
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import AwayError
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings
from toilfn.clusters.gridengine.answers import queue_rows, queue_state, records
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["GridEngineCluster", "GridEngineSettings"]


_log = logging.getLogger(__name__)


class GridEngineSettings(JobSettings, total=False):
    """Settings of `GridEngineCluster` besides those of `JobSettings`.

    Parameters
    ----------
    parallel_environment : str
        Parallel environment for jobs with more than one core. Default: ``TOILFN_GRIDENGINE_PE``, else ``smp``.
    memory_resources : sequence of str
        Complexes with which memory is requested. Default: ``h_vmem``. If empty, no memory is requested (like Toil's
        ``--manualMemArgs``), and `submit_args` should request it instead.
    memory_is_per_slot : bool
        Whether these complexes count per slot, as consumables do. Default: true.
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

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query all jobs of this user with qstat, which cannot be limited to some jobs."""
        return {job: queue_state(state) for job, state, _ in self._jobs() if "z" not in state}  # z: finished

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query submissions with qacct one by one, since it accepts no list."""
        known: dict[JobId, Found] = {}
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
        output = self.commands.ask(["qstat", "-xml", "-g", "d", "-s", "prs", "-u", _user()])
        rows = queue_rows(output)
        if rows is None:
            raise AwayError(f"qstat -xml returned invalid XML: {output[:300]!r}")
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


def _user() -> str:
    """Return the user's name from the password database, since LOGNAME may name another user; ``*`` if it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "*"
