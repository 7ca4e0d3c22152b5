"""A leader as a job of a batch system: submitted, found again, and ended.

The store has a note of the leader's job: the command line that it runs, its directory, and how to find it. The job
runs `toilfn.cli.submit.lead`, as a worker runs its batch. Its name differs from those of the jobs that it submits.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toilfn.clusters.base import Batch, Cluster, JobId, JobState, RunContext
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.resume import make_again, make_from, name_of, recipe_of
from toilfn.errors import ClusterError, StoreLockedError
from toilfn.leader.cluster_context import StoredNotes, check_shared, jobs_name
from toilfn.resources import Resources
from toilfn.stores import Store, is_local
from toilfn.stores.lease import living
from toilfn.stores.options import worker_variables
from toilfn.worker.passed import ENVIRONMENT_VARIABLE, VERSIONS_VARIABLE, pack_environment, versions, write_ref

__all__ = [
    "LeaderJob",
    "Shape",
    "describe_leader",
    "end_leader_job",
    "has_leader_job",
    "leader_job_of",
    "leading_cluster",
    "resources_of",
    "submit_leader",
]  # fmt: skip

_NOTE = "leader-job"
_BATCH = "leader"
_START = "import sys; sys.path[:] = filter(None, sys.path); from toilfn.cli.submit import lead; sys.exit(lead())"


@dataclass(frozen=True, slots=True)
class Shape:
    """The request of the job of a leader.

    Attributes
    ----------
    cores : float
    memory : int
        Bytes.
    walltime : float or None
        Seconds; None is the default of the cluster.
    arguments : str
        More arguments for the submit command, as a shell would read them.
    """

    cores: float = 1
    memory: int = 2 << 30
    walltime: float | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class LeaderJob:
    """A leader that runs as a job of a cluster: how to start it, and how to find it.

    Attributes
    ----------
    words : tuple of str
        The command line of `toilfn`.
    directory : str
        Where it is run.
    cluster : str
        The name of the cluster.
    recipe : dict
        Its settings.
    shape : Shape
    logs : str
        The folder for job scripts and job output; empty means the cluster's default.
    address : dict
        How to find the job; see `Cluster.address`.
    job : str
        Empty until the job is submitted.
    log : str
        The file with the output of the leader.
    submitted : float
        In seconds since the epoch.
    """

    words: tuple[str, ...]
    directory: str
    cluster: str
    recipe: dict[str, Any]
    shape: Shape
    logs: str = ""
    address: dict[str, Any] = field(default_factory=dict)
    job: str = ""
    log: str = ""
    submitted: float = 0.0


def leader_job_of(store: Store) -> LeaderJob | None:
    """Return the newest leader job of a store; None if the store never had one."""
    note = store.get_note(_NOTE)
    if not note:
        return None
    found = json.loads(note)
    return LeaderJob(**{**found, "words": tuple(found["words"]), "shape": Shape(**found["shape"])})


def describe_leader(words: Sequence[str], directory: str, cluster: Cluster, shape: Shape, logs: str = "") -> LeaderJob:
    """Describe a leader that is to run as a job of a cluster.

    Raises
    ------
    ClusterError
        If the cluster's jobs are not started by a command, so that a leader could not be one of them.
    """
    return LeaderJob(tuple(words), directory, name_of(_checked(cluster)), recipe_of(cluster), shape, logs)


def submit_leader(store: Store, place: str, leader_job: LeaderJob, environment: dict[str, str]) -> LeaderJob:
    """Submit a leader, and return its description with the id of the job.

    Parameters
    ----------
    store : Store
    place : str
        The store as the user named it.
    leader_job : LeaderJob
    environment : dict
        The variables that the leader gets, except secrets.

    Raises
    ------
    StoreLockedError
        If the store has a leader, or the job of one that waits.
    ClusterError
        If the cluster does not accept the job, or other machines could not see the store.
    """
    if (held := living(store)) is not None:
        raise StoreLockedError(
            f"job store {place} is in use by process {held.pid} on {held.host}",
            hint=f"wait until it finishes: toilfn status {place} --wait, or stop it: toilfn kill {place}",
        )
    cluster = leading_cluster(make_from(leader_job.cluster, leader_job.recipe), leader_job.shape, _START)
    cluster.open(_context(store, leader_job, _variables(store, environment)))
    try:
        check_shared(cluster, store.url, place)
        if waiting := cluster.list(_name(store)):
            raise StoreLockedError(
                f"job {', '.join(waiting)} of {leader_job.cluster} is already queued or running "
                f"as the leader of {place}",
                hint=f"wait until it finishes, or cancel it: toilfn kill {place}",
            )
        leader_job = replace(leader_job, address=cluster.address(), job="", submitted=time.time())
        _write(store, leader_job)  # first, so that the job can be found even if this process dies now
        (job,) = cluster.submit([Batch(_BATCH, _BATCH, resources_of(leader_job.shape))])
        leader_job = replace(leader_job, job=job, log=_log_of(cluster, job))
        _write(store, leader_job)
        return leader_job
    finally:
        cluster.leave()


def has_leader_job(store: Store) -> bool:
    """Return whether the job of a leader is there, in the queue or running, by asking its cluster."""
    leader_job = leader_job_of(store)
    if leader_job is None:
        return False
    with _reached(store, leader_job) as cluster:
        return bool(cluster.list(_name(store)))


def end_leader_job(store: Store, timeout: float) -> int:
    """End the job of a leader, if there is one, and return how many there were.

    Raises
    ------
    ClusterError
        If the cluster cannot be asked, or does not end the job in time.
    """
    leader_job = leader_job_of(store)
    if leader_job is None:
        return 0
    with _reached(store, leader_job) as cluster:
        left = set(cluster.list(_name(store)))
        count = len(left)
        cluster.kill(left)
        deadline = time.monotonic() + timeout
        while left:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"job {', '.join(left)} of {leader_job.cluster} is still running after {timeout:g} s"
                )
            left -= {update.job for update in cluster.poll(1.0) if update.state is JobState.ENDED}
        return count


def _checked(cluster: Cluster) -> CommandCluster:
    if not isinstance(cluster, CommandCluster):
        raise ClusterError(
            f"a leader cannot be a job of the cluster {name_of(cluster)}",
            hint="choose slurm, gridengine, lsf, pbs, torque, htcondor or parasol, as in --lead-on slurm",
        )
    return cluster


def leading_cluster(cluster: Cluster, shape: Shape, start: str) -> CommandCluster:
    """Build a cluster like another one, whose jobs run leaders instead of workers.

    Parameters
    ----------
    cluster : Cluster
    shape : Shape
    start : str
        Python code; the store's URL and the batch's name are the last words of the command line.

    Raises
    ------
    ClusterError
        If the cluster's jobs are not started by a command, so that a leader could not be one of them.
    """
    checked = _checked(cluster)
    args, settings = checked.constructor_arguments
    own: dict[str, Any] = {
        **settings,
        "worker_command": [checked.settings.get("python", sys.executable), "-c", start],
        "submit_args": [*checked.submit_args(), *shlex.split(shape.arguments)],
        "keep_output": True,
    }
    return type(checked)(*args, **own)


def resources_of(shape: Shape) -> Resources:
    """Return the requirements of the job of a leader."""
    return Resources(cores=shape.cores, memory=shape.memory, disk=1 << 20, walltime=shape.walltime)


@contextmanager
def _reached(store: Store, leader_job: LeaderJob) -> Iterator[CommandCluster]:
    cluster = _checked(make_again(leader_job.cluster, leader_job.address))
    cluster.open(_context(store, leader_job, {}))
    try:
        yield cluster
    finally:
        cluster.leave()


def _context(store: Store, leader_job: LeaderJob, variables: dict[str, str]) -> RunContext:
    return RunContext(store.url, _name(store), variables, StoredNotes(store), leader_job.logs)


def _variables(store: Store, environment: dict[str, str]) -> dict[str, str]:
    passed = store.put_blob(pack_environment(environment, {}))
    meta = {} if is_local(store.url) else store.worker_variables()
    return {
        **worker_variables(store.url, private=False), **meta, ENVIRONMENT_VARIABLE: write_ref(passed),
        VERSIONS_VARIABLE: versions(), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def _name(store: Store) -> str:
    return f"{jobs_name(store)}-leader"


def _log_of(cluster: CommandCluster, job: JobId) -> str:
    (name,) = cluster.submission_names().values()
    number = cluster.split(job)[1]
    suffix = "" if number is None else f".{number}"
    return str(cluster.log_directory / f"{name}{suffix}.log")


def _write(store: Store, leader_job: LeaderJob) -> None:
    store.put_note(_NOTE, json.dumps(asdict(leader_job)).encode())
