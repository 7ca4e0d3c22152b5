"""Slurm.

This module follows the manual pages of sbatch(1), squeue(1), sacct(1) and scancel(1) of Slurm 20.11 and newer.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.base import Capabilities, JobId
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings, word
from toilfn.clusters.slurm.answers import accounting_answer, names_answer, node_of_lost, queue_answer, reclaimed_answer
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SlurmCluster", "SlurmSettings"]

_log = logging.getLogger(__name__)


class SlurmSettings(JobSettings, total=False):
    """Settings of `SlurmCluster` besides those of `JobSettings`.

    Parameters
    ----------
    partition : str or mapping
        A partition, or several with their time limits, such as ``{"short": "1h", "long": "7d"}``, from which a job gets
        the shortest that its walltime fits. A synonym of `queue`.
    parallel_partition : str
        Partition of jobs with more than one core. Default: ``TOILFN_SLURM_PE``.
    gpu_partition : str
        Partition of jobs with accelerators.
    preemptible_partition : str
        Partition of preemptible jobs.
    qos, gpu_qos : str
        Quality of service of all jobs, and of jobs with accelerators.
    constraint : str
        Features that nodes must have.
    memory_per : str
        Unit of memory requests: ``"node"`` (the default), ``"cpu"``, or ``"none"`` to request no memory.
    exclusive : bool
        Whether each job gets a node of its own, with the memory that it requests.
    whole_node : bool
        Whether each job gets a node of its own, with all memory of the node.
    signal : str
        Signal to send before the time limit, such as ``"B:TERM@60"``.
    clusters : str
        Clusters that jobs may be sent to, separated by commas. Default: those of ``-M`` in `submit_args`, else the
        environment variable ``SLURM_CLUSTERS``.
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
    clusters: str


class SlurmCluster(CommandCluster):
    """Runs tasks as Slurm jobs; see `JobSettings` and `SlurmSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True, preemption=True
    )
    settings_type: ClassVar[type] = SlurmSettings
    name = "slurm"
    prefix = "#SBATCH"
    index = "SLURM_ARRAY_TASK_ID"
    answer = r"^\s*(\d+(?:;\S+)?)\s*$|^Submitted batch job (\d+)(?: on cluster (\S+))?\s*$"
    kill_command = ("scancel", "--quiet")
    needed = ("sbatch", "squeue", "scancel")
    room = 0.0  # Slurm rounds up to minutes, and checks every 30 seconds
    absent = "Invalid job id specified|Job/step already completing or completed"
    no_accounting = "accounting storage is disabled"
    lost_nodes = "^(NODE_FAIL|BOOT_FAIL)|NodeDown|DUE TO NODE FAILURE"
    # Options of submissions and queries, and the variables of the job in which the leader may run itself. They would
    # change what the commands do; those that say where Slurm is stay.
    cleared = (
        r"(SBATCH|SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO|SRUN|SALLOC|SLURMD)_.*"
        r"|SLURM_(?!(CONF|CONF_SERVER|CLUSTERS|JWT|SACK_SOCKET|SACK_KEY)$).*"
    )
    options = "(SBATCH|SALLOC)_.*(?<!_BIND)(?<!_BIND_LIST)(?<!_BIND_TYPE)(?<!_BIND_VERBOSE)(?<!_BIND_PREFER)"
    # What Slurm's commands, controllers, database and munge print when they say nothing about the request. Without its
    # entry here, an outage counts as a refusal and fails tasks, so the list is long on purpose.
    away = (
        "Unable to contact slurm|Socket timed out|Zero Bytes were transmitted|Connection (refused|reset|timed out)"
        "|temporarily un(able|available)|controller .*not responding|Transport endpoint|standby"
        "|Communication (connection|shutdown) failure|Message (receive|send) failure|Failed to send entire message"
        "|authentication error|authentication credential|Authentication (credential|does not apply)|munge"
        "|(Expired|Rewound|Replayed|Invalid) credential|Insane message length|Could not establish a configuration"
        "|fetch_config|failed to fetch config|SRV lookup|Incompatible versions? of client|header lengths"
        "|Unexpected (message|missing socket)|persist(ent)?[ _]conn|Database connection|Slurm(ctld)? is busy|backoff"
        "|No route to host|Network is unreachable|Broken pipe|Name or service not known|unable to resolve"
        "|Unable to (establish|process configuration)|Stale file handle|Input/output error|No clusters can be reached"
        "|shutting down|Shutdown in progress|Error connecting|Resource temporarily"
    )
    log_causes: ClassVar[Mapping[str, Cause]] = {
        r"^slurmstepd\S*: error: .*(exceeded .*memory limit|oom[-_]kill)": Cause.MEMORY,
        r"^slurmstepd\S*: error: .*DUE TO PREEMPTION": Cause.PREEMPTED,
        r"^slurmstepd\S*: error: .*DUE TO TIME LIMIT": Cause.WALLTIME,
        r"^slurmstepd\S*: error: .*DUE TO NODE FAILURE": Cause.LOST,
    }

    def __init__(self, **settings: Unpack[SlurmSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Return the sbatch options for a shape."""
        resources, given = submission.resources, self.settings
        walltime = self.walltime(resources)
        count = len(submission.batches)
        return [
            f"--job-name={submission.name}",
            *([f"--array=0-{count - 1}"] if submission.is_array else []),
            "--no-requeue",  # the leader decides what runs again
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={math.ceil(resources.cores)}",
            *self._memory(resources),
            *([f"--time={math.ceil(walltime / 60)}"] if walltime is not None else []),
            *([f"--gres={','.join(map(_gres, resources.accelerators))}"] if resources.accelerators else []),
            *self._places(resources, walltime),
            *self.setting_directives(account="--account={}", constraint="--constraint={}", signal="--signal={}"),
            *([f"--clusters={word('clusters', given['clusters'])}"] if given.get("clusters") else []),
            *(["--exclusive"] if given.get("exclusive") or given.get("whole_node") else []),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the sbatch command line, with the output path: unlike a directive, it can contain any character."""
        number = ".%a" if submission.is_array else ""
        log = submission.log.replace("%", "%%") + f"{number}.log" if self.keeps_output else "/dev/null"
        return ["sbatch", "--parsable", f"--output={log}", *self.submit_args(), str(script)]

    def output_word(self, submission: Submission) -> str | None:
        """Return None: sbatch redirects the output, so that slurmstepd can write there why it killed a job."""
        if "\\" in submission.log:
            raise InputError(f"log directory: Slurm does not support backslashes in paths: {submission.log}")
        return None

    def submitted(self, output: str) -> str:
        """Return the submission's id from the output of sbatch: ``12``, or ``12;cluster``."""
        found = {m[1] or (f"{m[2]};{m[3]}" if m[3] else m[2]) for m in re.finditer(self.answer, output, re.MULTILINE)}
        return found.pop() if len(found) == 1 else ""

    def element(self, base: str, number: int) -> JobId:
        """Return an id such as ``12_3`` or ``12_3;cluster``."""
        id_, bar, cluster = base.partition(";")
        return JobId(f"{id_}_{number}{bar}{cluster}")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Split an id such as ``12_3;cluster``."""
        id_, bar, cluster = job.partition(";")
        base, _, number = id_.partition("_")
        return f"{base}{bar}{cluster}", int(number) if number.isdecimal() else None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query jobs with squeue, which reports ended jobs for some minutes (MinJobAge)."""
        fields = "JobArrayID:64,State:32,exit_code:16,NodeList:64,Reason:256"
        found: dict[JobId, Found] = {}
        for cluster, ids in _by_cluster(bases).items():
            # squeue fails for a single unknown id, but not for a list; so the first id is repeated.
            wanted = ",".join((*ids, ids[0]))
            command = [*_squeue(cluster), "--array", "--states=all", f"--jobs={wanted}", f"--Format={fields}"]
            found |= self._whole(queue_answer(self.commands.ask(command)), cluster)
        return found

    def _whole(self, found: Mapping[JobId, Found], cluster: str) -> dict[JobId, Found]:
        """Add the cluster to ids, and apply a row for a whole array to all its elements without rows of their own."""
        whole = {JobId(f"{job};{cluster}" if cluster else job): said for job, said in found.items()}
        rest = {self.split(job)[0]: said for job, said in whole.items() if self.split(job)[1] is None}
        if rest:
            for job in self._live:
                if job not in whole and self.split(job)[0] in rest:
                    whole[job] = rest[self.split(job)[0]]
        return whole

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query jobs with sacct; without accounting, nothing is known about jobs that slurmctld has purged."""
        found: dict[JobId, Found] = {}
        for cluster, ids in _by_cluster(bases).items():
            command = [*_sacct(cluster), "--format=JobID,State,ExitCode,NodeList", f"--jobs={','.join(ids)}"]
            try:
                output = self.commands.ask(command)
            except ClusterError as error:
                if re.search(self.no_accounting, str(error)):
                    return {}
                raise
            found |= self._whole(accounting_answer(output), cluster)
        return found

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, Found]:
        """Query the queue and the accounting, and check whether a cloud has reclaimed the nodes of lost jobs."""
        found = super().look(jobs)
        lost = {job: node for job, said in found.items() if (node := node_of_lost(said))}
        # Slurm reports a node that a cloud has reclaimed as failed. Preemption has a budget of its own, so it must not
        # count as a lost node.
        if lost:
            nodes = ",".join(sorted(set(lost.values())))
            fields = "NodeList:256|,Features:256|,Reason:256"
            answer = self.commands.consult(["sinfo", "--noheader", "--Node", f"--nodes={nodes}", f"--Format={fields}"])
            reasons = reclaimed_answer(answer)
            for job, node in lost.items():
                if node in reasons:
                    detail = "; ".join(filter(None, (found[job].detail, reasons[node])))
                    found[job] = found[job]._replace(cause=Cause.PREEMPTED, detail=detail)
        return found

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs or whole submissions, in each cluster."""
        for cluster, ids in _by_cluster(jobs).items():
            self.commands.run([*self.kill_command, *([f"--clusters={cluster}"] if cluster else []), *ids])

    def has_other_machines(self) -> bool | None:
        """Return whether there are other nodes than this machine, from sinfo."""
        hosts = set(self.commands.consult(["sinfo", "--noheader", "--Node", "--Format=NodeHost:256"]).split())
        here = socket.gethostname()
        return bool(hosts - {here, here.partition(".")[0]}) if hosts else None

    def nodes(self) -> dict[str, int] | None:
        """Count the nodes by state, such as idle, mixed, allocated, drained or down, from sinfo."""
        fields = "NodeList:256|,StateLong:64"
        lines = self.commands.consult(["sinfo", "--noheader", "--Node", f"--Format={fields}"]).splitlines()
        states = dict(line.split("|", 1) for line in lines if "|" in line)  # a node is there for each partition
        return dict(Counter(state.strip().rstrip("*~#!%$@^-+") for state in states.values())) if states else None

    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user, from squeue."""
        return self._named([f"--user={os.getuid()}"])

    def arrived(self, name: str) -> str:
        """Search for a submission by its name with squeue and sacct, even if its jobs have ended."""
        queued = self._named([f"--name={name}", "--states=all"])
        if (job := next((job for job, called in queued.items() if called == name), None)) is not None:
            return self.split(job)[0]
        command = [*_sacct(self.clusters), f"--name={name}", "--starttime=now-1days", "--format=JobID,Cluster,JobName"]
        try:
            rows = names_answer(self.commands.ask(command))
        except ClusterError as error:
            _log.info("%s", error)
            return ""
        found = [self._in_cluster(job, cluster) for job, cluster, called in rows if called == name]
        return self.split(found[0])[0] if found else ""

    def _named(self, options: Sequence[str]) -> dict[JobId, str]:
        command = [*_squeue(self.clusters), "--array", *options, "--Format=JobArrayID:64|,Cluster:64|,Name:256"]
        rows = names_answer(self.commands.ask(command))
        return {self._in_cluster(job, cluster): name for job, cluster, name in rows}

    def _in_cluster(self, job: JobId, cluster: str) -> JobId:
        return JobId(f"{job};{cluster}") if self.clusters and cluster else job

    @property
    def clusters(self) -> str:
        """The names of the clusters that jobs may be sent to, separated by commas; empty for the local cluster."""
        words = self.submit_args()
        for place, one in enumerate(words):
            if match := re.fullmatch(r"--clusters?=(.+)|-M(.+)", one):
                return str(match[1] or match[2])
            if one in ("-M", "--clusters", "--cluster") and place + 1 < len(words):
                return words[place + 1]
        return str(self.settings.get("clusters") or os.environ.get("SLURM_CLUSTERS", ""))

    def address(self) -> dict[str, Any]:
        """Return the folder of the scripts, the prefix of job names, and the clusters."""
        return super().address() | ({"clusters": self.clusters} if self.clusters else {})

    def site_array_limit(self) -> int:
        """Return MaxArraySize, the first number that is too large for an element."""
        text = self.commands.consult(["scontrol", "show", "config"])
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
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
        raise InputError(f"memory_per={per!r} is unknown", hint="choose from 'node', 'cpu' and 'none'")

    def _places(self, resources: Resources, walltime: float | None) -> list[str]:
        """Choose the partition and the quality of service."""
        given = self.settings
        partition = _fitting(given.get("partition", given.get("queue")), walltime)
        qos = given.get("qos")
        if resources.cores > 1:
            partition = given.get("parallel_partition", os.environ.get("TOILFN_SLURM_PE", partition))
        if resources.preemptible:
            partition = given.get("preemptible_partition", partition)
        if resources.accelerators:
            partition, qos = given.get("gpu_partition", partition), given.get("gpu_qos", qos)
        return [f"--{key}={word(key, value)}" for key, value in (("partition", partition), ("qos", qos)) if value]


def _fitting(partition: str | Mapping[str, str | float] | None, walltime: float | None) -> str | None:
    if partition is None or isinstance(partition, str):
        return partition
    longest = sorted(partition.items(), key=lambda item: parse_duration(item[1]))
    fits = [name for name, limit in longest if walltime is not None and walltime <= parse_duration(limit)]
    return (fits or [longest[-1][0]])[0]


def _gres(accelerator: Accelerator) -> str:
    model = f":{accelerator.model}" if accelerator.model else ""
    return f"{accelerator.kind}{model}:{accelerator.count}"


def _squeue(clusters: str) -> list[str]:
    return ["squeue", "--noheader", *([f"--clusters={clusters}"] if clusters else [])]


def _sacct(clusters: str) -> list[str]:
    options = [f"--clusters={clusters}"] if clusters else []
    return ["sacct", "--noheader", "--allocations", "--parsable2", *options]


def _by_cluster(ids: Sequence[str]) -> dict[str, list[str]]:
    """Group ids such as ``12;cluster`` and ``12_3;cluster`` by their clusters."""
    found: dict[str, list[str]] = {}
    for id_ in ids:
        own, _, cluster = id_.partition(";")
        found.setdefault(cluster, []).append(own)
    return found
