"""Adopt or end the jobs that earlier leaders left behind, so that no job runs beside a copy of itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from toilfn.clusters.base import Cluster, JobId, JobState
from toilfn.clusters.common.polled import START_PATIENCE, PolledCluster
from toilfn.clusters.local.beside import BesideCluster
from toilfn.clusters.resume import make_again, make_from
from toilfn.config.settings import Settings
from toilfn.errors import ClusterError
from toilfn.ids import TaskId
from toilfn.leader.cluster_context import jobs_name, run_context
from toilfn.leader.jobs import Jobs, SubmittedBatch
from toilfn.leader.mailbox import Mailbox
from toilfn.model.index import Index
from toilfn.model.records import End, Epoch, Run, encode
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import Adopted, Submit
from toilfn.stores import Store

__all__ = ["Earlier", "adopt", "cluster_of", "end_jobs", "forget_jobs", "living_elsewhere", "outlives_leaders"]

_NAMED = 5
"""How many jobs a message names."""


def cluster_of(run: Run, place: str) -> Cluster | str | None:
    """Return the cluster on which to continue a run: the one that its record names, made again with its settings.

    Parameters
    ----------
    run : Run
    place : str
        The store as the user named it.

    Raises
    ------
    ClusterError
        If that cluster cannot be made again.
    """
    name = run.settings.get("cluster")
    if not isinstance(name, str) or "cluster_address" not in run.settings:
        return name if isinstance(name, str) else None
    try:
        return make_from(name, run.settings.get("cluster_recipe") or {})
    except (ClusterError, TypeError, ValueError) as error:
        raise ClusterError(
            f"the run used a cluster object of {name}, which cannot be built again: {error}",
            hint=f"name the cluster, as in: toilfn resume {place} --cluster slurm, or run the script again",
        ) from None


def living_elsewhere(index: Index, store: Store, settings: Settings, place: str) -> dict[JobId, str]:
    """Look for jobs of earlier runs on clusters that the new leader was not given.

    Parameters
    ----------
    index : Index
    store : Store
        Led by this process.
    settings : Settings
        Of the new leader.
    place : str
        The store as the user named it.

    Returns
    -------
    dict
        The living jobs on clusters of the new one's class, with their batches: it has to find them, too.

    Raises
    ------
    ClusterError
        If jobs live on another cluster, or no cluster can be asked whether some do.
    """
    new = settings.as_dict()
    found: dict[JobId, str] = {}
    for run in _unended(index):
        if _where(run.settings) == _where(new):
            continue
        living = _ask(run, store, place)
        name = run.settings["cluster"]
        if living and name != new["cluster"]:
            raise ClusterError(
                f"{_count(living)} of this store may still run on the cluster {name}: {_some(living)}",
                hint=f"resume there: toilfn resume {place}, or cancel them first: toilfn kill {place}",
            )
        found |= living
    return found


def _ask(run: Run, store: Store, place: str) -> dict[JobId, str]:
    """List the living jobs of a run's cluster, without taking them over."""
    try:
        with _reached(run, store) as cluster:
            return cluster.list(jobs_name(store))
    except (ClusterError, OSError) as error:
        raise ClusterError(
            f"jobs of this store may still run on the cluster {run.settings['cluster']}, which cannot be"
            f" queried: {error}",
            hint="resume from a machine that can reach the cluster; if you know that no job is left: toilfn"
            f" kill --leave-jobs {place}",
        ) from error


def _count(jobs: Mapping[JobId, str]) -> str:
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}"


def _some(jobs: Iterable[JobId]) -> str:
    names = sorted(jobs)
    return f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def forget_jobs(store: Store) -> None:
    """Note that no cluster has jobs of earlier runs any longer; the caller holds the store's lease."""
    index = Index.load(store.log)
    number = index.epoch.number + 1 if index.epoch else 1
    now = time.time()
    unended = (run for run in index.runs if run.number not in index.ended)
    ends = [End(run.number, "killed", now) for run in unended]
    if ends:
        epoch = Epoch(number, socket.gethostname(), os.getpid(), now)
        store.log.append([encode(epoch), *map(encode, ends)])


def end_jobs(store: Store, timeout: float = 60.0) -> int:
    """Cancel the jobs that dead leaders have left in batch systems, and wait until they have stopped.

    The caller holds the store's lease, so that no leader can adopt these jobs meanwhile.

    Parameters
    ----------
    store : Store
    timeout : float
        Seconds to wait for each batch system.

    Returns
    -------
    int
        How many jobs there were.

    Raises
    ------
    ClusterError
        If a batch system cannot be asked, or does not end jobs in time.
    """
    return sum(_end_jobs_of(run, store, timeout) for run in _unended(Index.load(store.log)))


def _unended(index: Index) -> Iterator[Run]:
    """Return the runs whose leader did not record that its jobs have ended, one for each cluster."""
    seen = []
    for run in index.runs:
        where = _where(run.settings)
        if run.number not in index.ended and outlives_leaders(run) and where not in seen:
            seen.append(where)
            yield run


def _where(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a key that distinguishes one cluster's jobs from those of another."""
    return settings.get("cluster"), settings.get("cluster_address") or {}, settings.get("batch_logs")


def outlives_leaders(run: Run) -> bool:
    """Return whether the jobs of a run's cluster may continue when its leader dies."""
    is_far = run.settings.get("cluster") not in (None, "local", "inline")
    return is_far and run.settings.get("cluster_address", {}) is not None


@contextmanager
def _reached(run: Run, store: Store) -> Iterator[Cluster]:
    """Open a cluster that finds a run's jobs."""
    address = run.settings.get("cluster_address") or {}
    main = make_again(run.settings["cluster"], address)
    if isinstance(main, PolledCluster):
        main.patience = min(main.patience, START_PATIENCE)  # someone waits for the answer
    cluster = BesideCluster(main)
    try:
        cluster.open(run_context(store, run.settings))
        yield cluster
    finally:
        cluster.leave()


def _end_jobs_of(run: Run, store: Store, timeout: float) -> int:
    try:
        with _reached(run, store) as cluster:
            jobs = cluster.list(jobs_name(store)).keys()
            cluster.kill(jobs)
            _await_end(cluster, set(jobs), timeout)
            return len(jobs)
    except (ClusterError, OSError) as error:
        raise ClusterError(
            f"jobs of {store.url} may still run on the cluster {run.settings['cluster']!r}; they could not"
            f" be cancelled: {error}",
            hint="try again from a machine that can reach the cluster; the names of the jobs begin with"
            f" {jobs_name(store)}",
        ) from error


def _await_end(cluster: Cluster, jobs: set[JobId], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while jobs:
        if time.monotonic() > deadline:
            raise ClusterError(f"{len(jobs)} jobs are still running after {timeout:g} s")
        jobs -= {update.job for update in cluster.poll(1.0) if update.state is JobState.ENDED}


class Earlier(NamedTuple):
    """Jobs and messages of earlier leaders, besides those that the cluster can list."""

    jobs: Mapping[JobId, str] = MappingProxyType({})
    """Living jobs, with their batches, that were given to the cluster with other settings."""
    mailbox: Mailbox | None = None
    """The mailbox with their workers' answers, if this leader's own workers use another one."""


def adopt(
    live: Mapping[JobId, str],
    mailbox: Mailbox,
    is_void: Callable[[TaskId, str], bool],
    scheduler: Scheduler,
    jobs: Jobs,
) -> list[JobId]:
    """Take over living jobs, and their batches, as if this leader had submitted them.

    Parameters
    ----------
    live : mapping
        The jobs of the workflow, and the names of their batches.
    mailbox : Mailbox
        Has the batches' messages.
    is_void : callable
        Whether the answers of a batch about a task are ignored.
    scheduler : Scheduler
    jobs : Jobs

    Returns
    -------
    list of JobId
        The jobs that are no longer needed.
    """
    return [job for job, name in live.items() if not _adopt(job, name, mailbox, is_void, scheduler, jobs)]


def _adopt(
    job: JobId,
    name: str,
    mailbox: Mailbox,
    is_void: Callable[[TaskId, str], bool],
    scheduler: Scheduler,
    jobs: Jobs,
) -> bool:
    tasks = mailbox.tasks(name)
    valid = tuple(id_ for id_ in tasks if not is_void(id_, name))
    adopted = scheduler.handle(Adopted(valid, time.monotonic()))
    for command in adopted:
        if isinstance(command, Submit):
            jobs.add(SubmittedBatch(command.batch, name, job, owed=None if valid == tasks else set(valid)), command.ids)
    return bool(adopted)
