"""Slurm: the cluster, its settings, and parsers for the output of squeue, sacct and sinfo.

This module follows the manual pages of sbatch(1), squeue(1), sacct(1) and scancel(1) of Slurm 20.11 to 25.05; each row
of a table names its page. The parsers skip other lines, such as notices of the site, and never raise an exception.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from toilfn.clusters.base import Capabilities, JobId, JobState, exit_cause
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission, word
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "REASONS", "SIGNALS", "SPOT_FEATURES", "STATES", "SlurmCluster", "SlurmSettings", "State", "accounting_answer",
    "names_answer", "node_of_lost", "queue_answer", "reclaimed_answer",
]  # fmt: skip

_log = logging.getLogger(__name__)


class SlurmSettings(JobSettings, total=False):
    """Settings of `SlurmCluster` besides those of `JobSettings`.

    Parameters
    ----------
    partition : str or mapping
        A partition, or several with their time limits, such as ``{"short": "1h", "long": "7d"}``: a job then gets the
        one with the shortest limit that is enough for its walltime. A synonym of `queue`.
    parallel_partition : str
        Partition of jobs with more than one core. Default: ``TOILFN_SLURM_PE``.
    gpu_partition : str
        Partition of jobs with accelerators.
    preemptible_partition : str
        Partition of preemptible jobs.
    qos : str
        Quality of service of jobs.
    gpu_qos : str
        Quality of service of jobs with accelerators. Default: that of the other jobs.
    constraint : str
        Features that nodes must have.
    memory_per : str
        Unit of memory requests: ``"node"`` (the default), ``"cpu"``, or ``"none"`` to request no memory.
    exclusive : bool
        Whether each job gets a whole node, but only the memory that it requests.
    whole_node : bool
        Whether each job gets a whole node with all its memory.
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
    walltime_margin = 0.0  # Slurm rounds up to minutes, and checks every 30 seconds
    absent = "Invalid job id specified|Job/step already completing or completed"
    no_accounting = "accounting storage is disabled"
    lost_nodes = "^(NODE_FAIL|BOOT_FAIL)|NodeDown|DUE TO NODE FAILURE"
    # Variables that set options of submissions and queries, and those of the Slurm job in which the leader itself may
    # run, would change the behaviour of the commands. Those that locate Slurm's servers are kept.
    cleared = (
        r"(SBATCH|SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO|SRUN|SALLOC|SLURMD)_.*"
        r"|SLURM_(?!(CONF|CONF_SERVER|CLUSTERS|JWT|SACK_SOCKET|SACK_KEY)$).*"
    )
    options = "(SBATCH|SALLOC)_.*(?<!_BIND)(?<!_BIND_LIST)(?<!_BIND_TYPE)(?<!_BIND_VERBOSE)(?<!_BIND_PREFER)"
    # Messages of the commands, the controllers, the database and munge that say nothing about the request itself.
    # An outage whose message is missing here counts as a refusal and fails tasks, so the list is long on purpose.
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
        """Return None: sbatch redirects the output, so that slurmstepd can write into it why it killed a job."""
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

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query jobs with squeue, which reports ended jobs for some minutes (MinJobAge)."""
        fields = "JobArrayID:64,State:32,exit_code:16,NodeList:64,Reason:256"
        found: dict[JobId, JobReport] = {}
        for cluster, ids in _by_cluster(bases).items():
            # squeue fails for a single unknown id, but not for a list; so the first id is repeated.
            wanted = ",".join((*ids, ids[0]))
            command = [*_squeue(cluster), "--array", "--states=all", f"--jobs={wanted}", f"--Format={fields}"]
            found |= self._whole(queue_answer(self.commands.ask(command)), cluster)
        return found

    def _whole(self, found: Mapping[JobId, JobReport], cluster: str) -> dict[JobId, JobReport]:
        """Add the cluster to ids, and apply a row for a whole array to all its elements without rows of their own."""
        whole = {JobId(f"{job};{cluster}" if cluster else job): said for job, said in found.items()}
        rest = {self.split(job)[0]: said for job, said in whole.items() if self.split(job)[1] is None}
        if rest:
            for job in self._live:
                if job not in whole and self.split(job)[0] in rest:
                    whole[job] = rest[self.split(job)[0]]
        return whole

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query jobs with sacct; without accounting, nothing is known about jobs that slurmctld has purged."""
        found: dict[JobId, JobReport] = {}
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

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Query the queue and the accounting, and check whether a cloud has reclaimed the nodes of lost jobs."""
        found = super().look(jobs)
        lost = {job: node for job, said in found.items() if (node := node_of_lost(said))}
        # Slurm reports a node that a cloud has reclaimed as failed. Its jobs were preempted, and preemption has a retry
        # limit of its own, so they must not count as lost.
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
        hosts = set(self.commands.consult(["sinfo", "--noheader", "--Node", "--Format=NodeHost:256"]).lower().split())
        here = socket.gethostname().lower()
        return bool(hosts - {here, here.partition(".")[0]}) if hosts else None

    def nodes(self) -> dict[str, int] | None:
        """Count the nodes by state, such as idle, mixed, allocated, drained or down, from sinfo."""
        fields = "NodeList:256|,StateLong:64"
        lines = self.commands.consult(["sinfo", "--noheader", "--Node", f"--Format={fields}"]).splitlines()
        states = dict(line.split("|", 1) for line in lines if "|" in line)  # sinfo lists a node once per partition
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
    """Return the partition with the shortest sufficient limit; the one with the longest limit if none suffices."""
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


_QUEUED, _RUNNING, _ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED

_SQUEUE = "squeue(1), JOB STATE CODES"
_FLAGS = "job_state_codes.html, Job flags"
_WHY = "job_reason_codes.html"


class State(NamedTuple):
    """The meaning of a state."""

    code: str
    """The short form that ``squeue`` prints; empty if there is none."""
    state: JobState
    cause: Cause | None
    page: str
    is_held: bool = False
    is_ending: bool = False
    is_stuck: bool = False


STATES: dict[str, State] = {
    "PENDING": State("PD", _QUEUED, None, _SQUEUE),
    "CONFIGURING": State("CF", _QUEUED, None, _SQUEUE),
    "POWER_UP_NODE": State("", _QUEUED, None, _FLAGS),
    "EXPEDITING": State("", _QUEUED, None, _FLAGS),
    "REQUEUED": State("RQ", _QUEUED, None, _SQUEUE),
    "REQUEUE_FED": State("RF", _QUEUED, None, _SQUEUE),
    "REQUEUE_HOLD": State("RH", _QUEUED, None, _SQUEUE, is_held=True),
    "RESV_DEL_HOLD": State("RD", _QUEUED, None, _SQUEUE, is_held=True),
    "SPECIAL_EXIT": State("SE", _QUEUED, None, _SQUEUE, is_held=True),
    "RUNNING": State("R", _RUNNING, None, _SQUEUE),
    "RESIZING": State("RS", _RUNNING, None, _SQUEUE),
    "SIGNALING": State("SI", _RUNNING, None, _SQUEUE),
    "STOPPED": State("ST", _RUNNING, None, _SQUEUE),
    "SUSPENDED": State("S", _RUNNING, None, _SQUEUE),
    "UPDATE_DB": State("", _RUNNING, None, _FLAGS),
    "COMPLETING": State("CG", _RUNNING, None, _SQUEUE, is_ending=True),
    "STAGE_OUT": State("SO", _RUNNING, None, _SQUEUE, is_ending=True),
    "COMPLETED": State("CD", _ENDED, None, _SQUEUE),
    "FAILED": State("F", _ENDED, Cause.ERROR, _SQUEUE),
    "OUT_OF_MEMORY": State("OOM", _ENDED, Cause.MEMORY, _SQUEUE),
    "TIMEOUT": State("TO", _ENDED, Cause.WALLTIME, _SQUEUE),
    "DEADLINE": State("DL", _ENDED, Cause.LOST, _SQUEUE),  # from --deadline, which is a date and not a time limit
    "PREEMPTED": State("PR", _ENDED, Cause.PREEMPTED, _SQUEUE),
    "NODE_FAIL": State("NF", _ENDED, Cause.LOST, _SQUEUE),
    "BOOT_FAIL": State("BF", _ENDED, Cause.LOST, _SQUEUE),
    "CANCELLED": State("CA", _ENDED, Cause.LOST, _SQUEUE),
    "REVOKED": State("RV", _ENDED, Cause.LOST, _SQUEUE, is_stuck=True),  # a sibling may be alive in another cluster
    "LAUNCH_FAILED": State("", _ENDED, Cause.LOST, _FLAGS, is_stuck=True),
    "RECONFIG_FAIL": State("", _ENDED, Cause.LOST, _FLAGS, is_stuck=True),
}
"""The states and flags of Slurm, and their meanings."""

_CODES = {row.code: word for word, row in STATES.items() if row.code}

REASONS: tuple[tuple[str, bool, str], ...] = (
    ("JobHeldAdmin|JobHeldUser|JobHoldMaxRequeue", True, _WHY),
    ("DependencyNeverSatisfied|BadConstraints|DeadLine|BurstBufferOperation", True, _WHY),
    ("AccountNotAllowed|InvalidAccount|InvalidQOS|QOSNotAllowed|AccountingPolicy", True, _WHY),
    ("PartitionConfig|PartitionDown|PartitionInactive|PartitionNodeLimit|PartitionTimeLimit", True, _WHY),
    ("ReservationDeleted|RequiresReservation|MaxMemPerLimit|QOSMin.*", True, _WHY),
    ("(Assoc|QOS)Max.*Per(Job|Node)(Limit)?", True, _WHY),
    (r".*\bheld\b.*", True, "squeue(1), ReasonList: a job that was requeued and held"),
    (r"Nodes required for job are DOWN.*|ReqNodeNotAvail, ?UnavailableNodes.*", True, "squeue(1), JOB REASON CODES"),
    ("(Assoc|QOS)(Grp|Max).*|Max.*PerAccount|Association(Job|Resource|Time)Limit|QOS.*(Limit|Threshold)", False, _WHY),
    ("BeginTime|Dependency|Priority|Resources|Licenses|Reservation|Constraints|JobArrayTaskLimit", False, _WHY),
    ("Burst.*|Cleaning|FedJobLock|FrontEndDown|InactiveLimit|NodeDown|Prolog|ReqNodeNotAvail.*", False, _WHY),
    ("Power.*|Reboot.*|Sched.*|WaitingForScheduling|None|SystemFailure|JobLaunchFailure", False, _WHY),
    ("NonZeroExitCode|RaisedSignal.*|OutOfMemory|TimeLimit", False, _WHY),
)
"""Reasons why a job waits: a pattern, whether the job waits until a user or an administrator acts, and the source. The
first matching pattern decides."""

_ENDS: dict[str, Cause] = {
    "OutOfMemory": Cause.MEMORY,
    "TimeLimit": Cause.WALLTIME,
    "SystemFailure": Cause.LOST,
    "NodeDown": Cause.LOST,
    "InactiveLimit": Cause.LOST,
}
"""Reasons (job_reason_codes.html) that are more specific than the state FAILED."""

SIGNALS: dict[int, Cause] = {
    125: Cause.MEMORY,  # SIG_OOM of src/common/slurm_protocol_defs.h, truncated to seven bits
    53: Cause.LOST,  # slurmd could not set up the job, for example because it could not open the output
}
"""Signal numbers with a special meaning in Slurm (``ExitCode`` of sacct(1))."""

_UNSAID = ("", "None", "null", "JobLaunchFailure", "NonZeroExitCode")

SPOT_FEATURES = frozenset({"spot", "preemptible"})
"""Features of preemptible nodes; `toilfn cluster launch` and other launchers set the first one."""

_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]?))?")

_MOST = 1_000_000
"""Maximum number of elements to expand in an expression. No site allows so many, so a larger number is not real."""


def queue_answer(text: str) -> dict[JobId, JobReport]:
    """Parse lines of ``squeue --Format`` with columns of 64, 32, 16, 64 and 256 characters."""
    return _joined(_queue_row(line) for line in text.splitlines())


def accounting_answer(text: str) -> dict[JobId, JobReport]:
    """Parse lines of ``sacct --parsable2``: job, state, exit status and signal, nodes."""
    return _joined(_accounting_row(line) for line in text.splitlines())


def names_answer(text: str) -> Iterator[tuple[JobId, str, str]]:
    """Parse lines of job, cluster and name, separated by bars, and yield them for each job and array element."""
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        cluster, bar, name = rest.partition("|")
        match = _ID.fullmatch(job.strip())
        if match and bar:
            for one in _elements(match) or [JobId(match[1])]:
                yield one, cluster.strip(), name.strip()


def node_of_lost(found: JobReport) -> str:
    """Return the node of a job that was lost with its node, or was killed by a signal; empty for a cancelled job.

    A range such as ``n[1-3]`` is ignored, since a job of one task has only one node.
    """
    killed = r"FAILED, .*(?:signal (?:9|15)|exit status (?:137|143))\b"
    match = re.fullmatch(rf"(?:NODE_FAIL|{killed}).*, on ([\w.-]+)", found.detail)
    return match[1] if match and found.cause is Cause.LOST else ""


def reclaimed_answer(text: str) -> dict[str, str]:
    """Return the nodes that a cloud has reclaimed or could not provide, from lines of node, features and reason.

    The columns are separated by bars. The values of the result are the reasons that toilfn has set; for a node in a
    pool of spot machines, the value is empty.
    """
    found = {}
    for line in text.splitlines():
        node, features, reason = (part.strip() for part in (*line.split("|"), "", "")[:3])
        own = reason if reason.startswith("toilfn: ") else ""
        if own or SPOT_FEATURES & set(features.split(",")):
            found[node] = own
    return found


def _queue_row(line: str) -> tuple[re.Match[str], JobReport] | None:
    job, state, code, nodes, reason = (
        line[a:b].strip() for a, b in ((0, 64), (64, 96), (96, 112), (112, 176), (176, None))
    )
    inside = re.fullmatch(r"\((.*)\)", reason)  # as in the default format of squeue
    return _row(job, state, code, nodes, inside[1] if inside and ")" not in inside[1] else reason)


def _accounting_row(line: str) -> tuple[re.Match[str], JobReport] | None:
    job, state, code, nodes, *_ = (part.strip() for part in (*line.split("|"), "", "", "", ""))
    return _row(job, state, code, nodes, "")


def _row(job: str, state: str, code: str, nodes: str, reason: str) -> tuple[re.Match[str], JobReport] | None:
    match = _ID.fullmatch(job)
    word = _word(state)
    return (match, _found(word, _exit(code), nodes, reason)) if match and word else None


def _joined(rows: Iterable[tuple[re.Match[str], JobReport] | None]) -> dict[JobId, JobReport]:
    """Expand expressions such as ``19_[1,3-5%2]``; a row for a single element takes precedence.

    If an expression was truncated, the elements that are missing from it are represented by the id of the array.
    """
    singles: dict[JobId, JobReport] = {}
    several: dict[JobId, JobReport] = {}
    for row in rows:
        if row is None:
            continue
        match, found = row
        if match[3] is None:
            singles[JobId(match[0])] = found
            continue
        elements = _elements(match)
        several |= dict.fromkeys(elements, found)
        if not elements or "..." in match[3] or not match[0].endswith("]"):
            several[JobId(match[1])] = found
    return several | singles


def _elements(match: re.Match[str]) -> list[JobId]:
    """Return the elements of an id; for a truncated expression, only those that are certain."""
    if match[3] is None:
        return [JobId(match[0])]
    numbers: list[int] = []
    parts = match[3].partition("%")[0].split(",")
    if not match[0].endswith("]") or "..." in match[3]:
        parts.pop()  # the last number may be truncated
    for part in parts:
        span = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", part.strip())
        if span is None:
            continue
        found = range(int(span[1]), int(span[2] or span[1]) + 1, max(1, int(span[3] or 1)))
        if len(numbers) + len(found) > _MOST:
            return []
        numbers += found
    return [JobId(f"{match[1]}_{number}") for number in numbers]


def _word(text: str) -> str:
    """Return the name of the state in ``CANCELLED by 1000``, ``OUT_OF_ME+``, ``CG`` or ``COMPLETED,COMPLETING``.

    A flag takes precedence over the state before it. An unknown name is returned unchanged; the result is empty if the
    text is not a state.
    """
    first = text.partition(" ")[0].upper()
    if not re.fullmatch(r"[A-Z][A-Z_,]*\+?", first):
        return ""
    word = first.rstrip("+,").split(",")[-1]
    if first.endswith("+") and word not in STATES:
        longer = [name for name in STATES if name.startswith(word)]
        return longer[0] if len(longer) == 1 else word
    return _CODES.get(word, word)


def _exit(code: str) -> tuple[int, int] | None:
    """Parse ``1:9``, or the wait(2) status that squeue prints; None if it is neither."""
    match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", code)
    if match is None:
        return None
    if match[2] is not None:
        return int(match[1]), int(match[2])
    return int(match[1]) >> 8, int(match[1]) & 127


def _found(word: str, code: tuple[int, int] | None, nodes: str, reason: str) -> JobReport:
    row = STATES.get(word)
    if row is None or row.state is not JobState.ENDED:
        state = row.state if row else JobState.UNKNOWN
        said = "" if reason in ("None", "null") else reason
        is_held = row is not None and (row.is_held or (state is JobState.QUEUED and _is_held(said)))
        return JobReport(state, None, f"{word} {said}".strip(), is_held=is_held, is_ending=bool(row and row.is_ending))
    status, signal = code or (0, 0)
    cause = row.cause
    if word == "FAILED":
        cause = _failed(code, reason)
    elif word == "COMPLETED" and (status or signal):
        cause = exit_cause(status, signal)
    parts = [word, f"exit status {status}" if status else "", f"signal {signal}" if signal else ""]
    parts += ["" if reason in _UNSAID else reason]
    parts += ["before it started" if nodes in ("", "(null)", "None assigned") else f"on {nodes}"]
    return JobReport(row.state, cause, ", ".join(part for part in parts if part), is_stuck=row.is_stuck)


def _failed(code: tuple[int, int] | None, reason: str) -> Cause:
    """Return the cause for a job that Slurm reports as failed, even if its exit status is 0."""
    if reason in _ENDS:
        return _ENDS[reason]
    if code is None or (code == (0, 0) and reason == "NonZeroExitCode"):
        return Cause.ERROR
    status, signal = code
    if reason == "JobLaunchFailure" and not signal:  # also the reason for scripts that a signal has ended
        return Cause.LOST
    # Without an exit status it is the "other failure condition" of squeue(1), such as a failed launch.
    return SIGNALS.get(signal) or exit_cause(status, signal) or Cause.LOST


def _is_held(reason: str) -> bool:
    return next((is_held for pattern, is_held, _ in REASONS if re.fullmatch(pattern, reason)), False)
