"""The jobs that a leader left behind when it died."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from toilfn.clusters.again import make_again
from toilfn.clusters.base import Cluster, JobId, JobState, Session
from toilfn.errors import ClusterError
from toilfn.lead.index import Index
from toilfn.lead.notes import StoreNotes
from toilfn.records import Run
from toilfn.stores import Store

__all__ = ["end_jobs", "jobs_name"]


def jobs_name(store: Store) -> str:
    """Give the name under which clusters have the jobs of a store's workflow."""
    return f"toilfn-{store.id[:12]}"


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
    return sum(_end_on(name, address, store, timeout) for name, address in _clusters(Index.load(store.log)))


def _clusters(index: Index) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the clusters of runs whose leader did not come to write down their end, each once."""
    seen = []
    for run in index.runs:
        place = _place(run)
        if run.number not in index.ended and place is not None and place not in seen:
            seen.append(place)
            yield place


def _place(run: Run) -> tuple[str, dict[str, Any]] | None:
    """Say on which cluster a run was led; None where all jobs die with the leader."""
    name = run.settings.get("cluster")
    address = run.settings.get("cluster_address", {})
    return None if name in (None, "local", "inline") or address is None else (name, address)


def _end_on(name: str, address: dict[str, Any], store: Store, timeout: float) -> int:
    cluster = make_again(name, address)
    with closing(cluster):
        try:
            cluster.open(Session(store.url, jobs_name(store), notes=StoreNotes(store)))
            jobs = set(cluster.list(jobs_name(store)))
            cluster.kill(jobs)
            _await_end(cluster, set(jobs), name, timeout)
        except (ClusterError, OSError) as error:
            raise ClusterError(
                f"jobs of {store.url} may be left on the cluster {name!r}, which cannot be asked to end them: {error}\n"
                f"Try again where it can be; their names begin with {jobs_name(store)}"
            ) from error
    return len(jobs)


def _await_end(cluster: Cluster, jobs: set[JobId], name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while jobs:
        if time.monotonic() > deadline:
            raise ClusterError(f"{len(jobs)} jobs still run after {timeout:g} s")
        jobs -= {update.job for update in cluster.poll(1.0) if update.state is JobState.ENDED}
