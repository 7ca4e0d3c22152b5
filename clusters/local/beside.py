"""Tasks with ``local=True``, which run on the leader's machine whatever the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, RunContext, Update
from toilfn.clusters.local.processes import ProcessCluster
from toilfn.resources import Capacity

__all__ = ["BesideCluster"]

_INTERVAL = 0.1
"""Seconds to wait for the main cluster while there are local processes."""


class BesideCluster(Cluster):
    """Sends batches to a cluster, except those with ``local=True``, which run in processes of this machine.

    Parameters
    ----------
    main : Cluster
        The cluster for all other batches; not a direct one.
    most : int, optional
        Maximum number of local processes at the same time; by default one per core.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(arrays=True)

    def __init__(self, main: Cluster, most: int | None = None) -> None:
        self._main = main
        self._here = ProcessCluster(most)
        self._ours: set[JobId] = set()
        self.gather = main.gather
        self.holds_worker = main.holds_worker
        self.submits_beside = main.submits_beside

    def open(self, context: RunContext) -> None:
        """Open both clusters. See `Cluster.open`."""
        self._main.open(context)
        self._here.open(context)

    def capacity(self) -> Capacity:
        """Return the capacity of the main cluster."""
        return self._main.capacity()

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Submit each batch to the cluster where it must run."""
        near = [batch for batch in batches if batch.resources.local]
        far = [batch for batch in batches if not batch.resources.local]
        jobs = dict(zip([batch.name for batch in far], self._main.submit(far), strict=True)) if far else {}
        ours = self._here.submit(near)
        self._ours.update(ours)
        jobs |= zip([batch.name for batch in near], ours, strict=True)
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Return the updates of both clusters."""
        if self._here.is_idle:
            return self._main.poll(timeout)
        return [*self._here.poll(0.0), *self._main.poll(min(timeout, _INTERVAL))]

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs in both clusters."""
        wanted = set(jobs)
        self._here.kill(wanted & self._ours)
        self._main.kill(wanted - self._ours)

    def close(self) -> None:
        """End all jobs of this leader."""
        try:
            self._here.close()
        finally:
            self._main.close()
            self.has_left_jobs = self._main.has_left_jobs

    def leave(self) -> None:
        """Leave both clusters; their jobs continue."""
        try:
            self._here.leave()
        finally:
            self._main.leave()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Return the live jobs of a workflow in both clusters."""
        here = self._here.list(workflow)
        self._ours.update(here)
        return self._main.list(workflow) | here

    def address(self) -> dict[str, Any] | None:
        """Return the address of the main cluster."""
        return self._main.address()

    def has_other_machines(self) -> bool | None:
        """Return whether jobs of the main cluster may run on other machines."""
        return self._main.has_other_machines()

    def recall(self, job: JobId) -> None:
        """Ask a worker of the main cluster to return the tasks it has not started."""
        if job not in self._ours:
            self._main.recall(job)

    def tell(self, job: JobId, message: bytes) -> None:
        """Forward a message to the main cluster. Local processes read the store instead."""
        if job not in self._ours:
            self._main.tell(job, message)

    def wake(self) -> None:
        """Wake a waiting `poll`."""
        self._main.wake()
