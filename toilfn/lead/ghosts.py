"""The jobs that a leader left behind when it died."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from toilfn.clusters.again import make_again
from toilfn.clusters.base import Cluster, JobId, JobState
from toilfn.clusters.beside import BesideCluster
from toilfn.errors import ClusterError
from toilfn.lead.index import Index
from toilfn.lead.terms import jobs_name, terms
from toilfn.records import Run
from toilfn.stores import Store

__all__ = ["end_jobs"]


def end_jobs(store: Store, timeout: float = 60.0) -> int:
    """End what leaders that died have left in batch systems, and wait until it has ended.

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
    """Give the runs whose leader did not come to write down their end, one for each cluster."""
    seen = []
    for run in index.runs:
        place = [run.settings.get(name) for name in ("cluster", "cluster_address", "batch_logs")]
        if run.number not in index.ended and _outlives_leaders(run) and place not in seen:
            seen.append(place)
            yield run


def _outlives_leaders(run: Run) -> bool:
    """Whether the jobs of a run's cluster may go on when its leader dies."""
    is_far = run.settings.get("cluster") not in (None, "local", "inline")
    return is_far and run.settings.get("cluster_address", {}) is not None


def _end_jobs_of(run: Run, store: Store, timeout: float) -> int:
    name = run.settings["cluster"]
    try:
        with closing(BesideCluster(make_again(name, run.settings.get("cluster_address") or {}))) as cluster:
            cluster.open(terms(store, run.settings))
            jobs = cluster.list(jobs_name(store)).keys()
            cluster.kill(jobs)
            _await_end(cluster, set(jobs), timeout)
            return len(jobs)
    except (ClusterError, OSError) as error:
        raise ClusterError(
            f"jobs of {store.url} may be left on the cluster {name!r}, which cannot be asked to end them: {error}\n"
            f"Try again where it can be; their names begin with {jobs_name(store)}"
        ) from error


def _await_end(cluster: Cluster, jobs: set[JobId], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while jobs:
        if time.monotonic() > deadline:
            raise ClusterError(f"{len(jobs)} jobs still run after {timeout:g} s")
        jobs -= {update.job for update in cluster.poll(1.0) if update.state is JobState.ENDED}
