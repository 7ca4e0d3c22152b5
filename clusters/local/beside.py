"""Tasks that run beside the leader, whatever the cluster: those with ``local=True``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, RunContext, Update
from toilfn.clusters.local.processes import ProcessCluster
from toilfn.resources import Capacity

__all__ = ["BesideCluster"]

_INTERVAL = 0.1
"""Seconds for which the main cluster is listened to while there are processes here."""


class BesideCluster(Cluster):
    """Sends batches to a cluster, and those that are to run beside the leader to processes of this machine.

    Parameters
    ----------
    main : Cluster
        Not a direct one.
    most : int, optional
        How many processes run here at one time; by default one for each core.
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
        """Get ready to run batches."""
        self._main.open(context)
        self._here.open(context)

    def capacity(self) -> Capacity:
        """Return what the main cluster can run."""
        return self._main.capacity()

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Send each batch where it belongs."""
        near = [batch for batch in batches if batch.resources.local]
        far = [batch for batch in batches if not batch.resources.local]
        jobs = dict(zip([batch.name for batch in far], self._main.submit(far), strict=True)) if far else {}
        ours = self._here.submit(near)
        self._ours.update(ours)
        jobs |= zip([batch.name for batch in near], ours, strict=True)
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Listen to both."""
        if self._here.is_idle:
            return self._main.poll(timeout)
        return [*self._here.poll(0.0), *self._main.poll(min(timeout, _INTERVAL))]

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs."""
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
        """Let the jobs of both run on."""
        try:
            self._here.leave()
        finally:
            self._main.leave()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live jobs in both places."""
        here = self._here.list(workflow)
        self._ours.update(here)
        return self._main.list(workflow) | here

    def address(self) -> dict[str, Any] | None:
        """Return the main cluster's."""
        return self._main.address()

    def has_other_machines(self) -> bool | None:
        """Ask the main cluster."""
        return self._main.has_other_machines()

    def recall(self, job: JobId) -> None:
        """Ask a worker of the main cluster to give back what it has not started."""
        if job not in self._ours:
            self._main.recall(job)

    def tell(self, job: JobId, message: bytes) -> None:
        """Forward to the main cluster: processes here look into the store."""
        if job not in self._ours:
            self._main.tell(job, message)

    def wake(self) -> None:
        """Build a waiting `poll` return."""
        self._main.wake()
