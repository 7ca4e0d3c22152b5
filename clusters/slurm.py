"""Slurm.

Follows the manual pages of sbatch(1), squeue(1), sacct(1) and scancel(1). Written for Slurm 20.11 and newer.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from toilfn.clusters.base import Capabilities, JobId, JobState
from toilfn.clusters.commandline import CommandCluster
from toilfn.clusters.commands import AwayError
from toilfn.clusters.jobscript import Submission
from toilfn.clusters.jobsettings import JobSettings
from toilfn.clusters.polled import Found
from toilfn.clusters.words.slurm import HOPELESS, accounting_row, queue_row
from toilfn.errors import ClusterError, InputError
from toilfn.events import Cause
from toilfn.resources import Accelerator, Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SlurmCluster", "SlurmSettings"]

_log = logging.getLogger(__name__)


class SlurmSettings(JobSettings, total=False):
    """What `SlurmCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    partition : str or mapping
        A partition; or several with the longest time of each, such as ``{"short": "1h", "long": "7d"}``, of which a
        job gets the first that its walltime fits in. The same as `queue`.
    parallel_partition : str
        The partition of jobs with more than one core; by default that of ``TOILFN_SLURM_PE``.
    gpu_partition : str
        The partition of jobs with accelerators.
    preemptible_partition : str
        The partition of preemptible jobs.
    qos, gpu_qos : str
        The quality of service of all jobs, and of those with accelerators.
    constraint : str
        Features that nodes must have.
    memory_per : str
        ``"node"`` (the default), ``"cpu"``, or ``"none"`` to ask for no memory.
    exclusive : bool
        Give each job a node of its own, and on it the memory that it asks for.
    whole_node : bool
        Give each job a node of its own, with all its memory.
    signal : str
        A signal before the time limit, such as ``"B:TERM@60"``.
    """

    partition: str | Mapping[str, str | float]
    parallel_partition: str
    gpu_partition: str
    preemptible_partition: str
    qos: str
    gpu_qos: str
    constraint: str
    memory_per: str
    exclusive: bool
    whole_node: bool
    signal: str


class SlurmCluster(CommandCluster):
    """Run tasks as Slurm jobs; see `JobSettings` and `SlurmSettings` for what it can be told."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    settings_type: ClassVar[type] = SlurmSettings
    name = "slurm"
    prefix = "#SBATCH"
    index = "SLURM_ARRAY_TASK_ID"
    answer = r"^(\d+)(;\S+)?$"
    marks = ("_", "")
    killer = ("scancel", "--quiet")
    room = 0.0  # it counts in minutes, and looks twice a minute
    away = (
        "Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted|Connection refused"
        "|temporarily unable|temporarily unavailable|controller .*not responding|Transport endpoint"
    )
    log_causes: ClassVar[Mapping[str, Cause]] = {
        r"^slurmstepd\S*: error: .*(exceeded .*memory limit|oom[-_]kill)": Cause.MEMORY,
        r"^slurmstepd\S*: error: .*DUE TO PREEMPTION": Cause.PREEMPTED,
        r"^slurmstepd\S*: error: .*DUE TO TIME LIMIT": Cause.WALLTIME,
        r"^slurmstepd\S*: error: .*DUE TO NODE FAILURE": Cause.LOST,
    }

    def __init__(self, **settings: Unpack[SlurmSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict
        self._warned: set[str] = set()

    def directives(self, submission: Submission) -> list[str]:
        """Give sbatch's options for a shape."""
        resources, given = submission.resources, self.settings
        walltime = self.walltime(resources)
        count = len(submission.batches)
        return [
            f"--job-name={submission.name}",
            *([f"--array=0-{count - 1}"] if submission.is_array else []),
            "--no-requeue",  # who runs again is the leader's decision
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={math.ceil(resources.cores)}",
            *self._memory(resources),
            *([f"--time={math.ceil(walltime / 60)}"] if walltime is not None else []),
            *([f"--gres={','.join(map(_gres, resources.accelerators))}"] if resources.accelerators else []),
            *self._places(resources, walltime),
            *self.given(account="--account={}", constraint="--constraint={}", signal="--signal={}"),
            *(["--exclusive"] if given.get("exclusive") or given.get("whole_node") else []),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give sbatch's command line: a path with any character is safe here, and not in a directive."""
        number = ".%a" if submission.is_array else ""
        log = submission.log.replace("%", "%%") + f"{number}.log" if self.keeps_output else "/dev/null"
        return ["sbatch", "--parsable", f"--output={log}", *self.submit_args(), str(script)]

    def output_word(self, submission: Submission) -> str | None:
        """Leave the output to sbatch: what slurmstepd writes there tells why a job was killed."""
        if "\\" in submission.log:
            raise InputError(f"Slurm cannot write to a folder with a backslash in its name: {submission.log}")
        return None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask squeue, which knows ended jobs for some minutes (MinJobAge)."""
        fields = "JobArrayID:64,State:32,exit_code:16,NodeList:64,Reason:256"
        # squeue fails for a single id that it does not know; the second one makes it a list.
        wanted = ",".join((*bases, bases[0]))
        command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={wanted}", f"--Format={fields}"]
        output = self.commands.run(command, accept=(0, 1))
        found = dict(queue_row(line) for line in output.splitlines() if line.strip())
        self._warn(found)
        return found

    def _warn(self, found: Mapping[JobId, Found]) -> None:
        """Tell of submissions that may wait for ever, once."""
        for job, said in found.items():
            base = self.split(job)[0]
            if said.state is JobState.QUEUED and said.detail.endswith(HOPELESS) and base not in self._warned:
                self._warned.add(base)
                _log.warning(
                    "Slurm job %s may never start: it is %s, see JOB REASON CODES in squeue's manual", job, said.detail
                )

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask sacct. Where there is no accounting, nothing is known of jobs that slurmctld forgot (MinJobAge)."""
        fields = "JobID,State,ExitCode,NodeList"
        command = ["sacct", "--noheader", "--allocations", "--parsable2", f"--format={fields}"]
        try:
            output = self.commands.run([*command, f"--jobs={','.join(bases)}"])
        except AwayError:
            raise
        except ClusterError as error:
            if "accounting storage is disabled" not in str(error):
                raise
            return {}
        return dict(accounting_row(line) for line in output.splitlines() if line.count("|") == 3)

    def names(self) -> dict[JobId, str]:
        """Ask squeue for all live jobs of this user."""
        command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--Format=JobArrayID:64,Name:256"]
        rows = (line.split(maxsplit=1) for line in self.commands.run(command).splitlines() if line.strip())
        return {JobId(job): name.strip() for job, name in rows}

    def site_array_limit(self) -> int:
        """Ask for MaxArraySize: the first number that an element cannot have."""
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", self.commands.run(["scontrol", "show", "config"]), re.MULTILINE)
        return int(match[1]) if match else self.array_limit

    def _memory(self, resources: Resources) -> list[str]:
        given = self.settings
        if given.get("whole_node"):
            return ["--mem=0"]
        per = given.get("memory_per", "node")
        megabytes = max(1, math.ceil(resources.memory / 2**20))
        match per:
            case "node":
                return [f"--mem={megabytes}M"]
            case "cpu":
                return [f"--mem-per-cpu={math.ceil(megabytes / math.ceil(resources.cores))}M"]
            case "none":
                return []
        raise InputError(f"memory_per={per!r}: write 'node', 'cpu' or 'none'")

    def _places(self, resources: Resources, walltime: float | None) -> list[str]:
        """Choose partition and quality of service."""
        given = self.settings
        partition = _fitting(given.get("partition", given.get("queue")), walltime)
        qos = given.get("qos")
        if resources.cores > 1:
            partition = given.get("parallel_partition", os.environ.get("TOILFN_SLURM_PE", partition))
        if resources.preemptible:
            partition = given.get("preemptible_partition", partition)
        if resources.accelerators:
            partition, qos = given.get("gpu_partition", partition), given.get("gpu_qos", qos)
        return [f"--{key}={value}" for key, value in (("partition", partition), ("qos", qos)) if value]


def _fitting(partition: str | Mapping[str, str | float] | None, walltime: float | None) -> str | None:
    if partition is None or isinstance(partition, str):
        return partition
    longest = sorted(partition.items(), key=lambda item: parse_duration(item[1]))
    fits = [name for name, limit in longest if walltime is not None and walltime <= parse_duration(limit)]
    return (fits or [longest[-1][0]])[0]


def _gres(accelerator: Accelerator) -> str:
    model = f":{accelerator.model}" if accelerator.model else ""
    return f"{accelerator.kind}{model}:{accelerator.count}"
