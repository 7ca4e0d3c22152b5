"""Any cluster of dask.distributed: its workers start toilfn's workers, each in a process of its own.

The cluster may be an existing one: an address, a client, a ``LocalCluster``, or a cluster object of dask-jobqueue or
dask-kubernetes, whose pilot jobs then run the tasks. Jobs are published as datasets in the scheduler, so they outlive
the leader, and its successor finds them.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict
from uuid import uuid4

from toilfn.clusters import base
from toilfn.clusters.base import (
    Batch,
    Capabilities,
    Cluster,
    JobId,
    JobState,
    Refusal,
    RunContext,
    SubmissionError,
    Update,
)
from toilfn.clusters.common.verdicts import exit_cause
from toilfn.clusters.dask.jobs import kill_jobs, run_job
from toilfn.clusters.dask.link import DaskLink
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Capacity, Resources

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["DaskCluster"]

_NAMES = {"cores": "cores", "memory": "memory", "disk": "disk", "gpu": "GPU"}
"""toilfn's names of resources, and the names under which dask workers usually advertise them."""


class DaskSettings(TypedDict, total=False):
    """Settings of `DaskCluster` in files and as flags.

    Parameters
    ----------
    cluster : str
        Address of the scheduler. Default: ``scheduler-address`` in dask's configuration.
    resources : mapping of str to str
        Names under which the workers advertise resources.
    python : str
        Python interpreter on the workers. Default: that of each worker.
    worker_command : sequence of str
        Command that runs a batch; the store's URL and the name of the batch are appended.
    max_jobs : int
        Maximum number of jobs in the scheduler at the same time.
    timeout : float
        Seconds to wait for the scheduler. Default: 30.
    description : str
        File that describes machines in a cloud. They are created for the run and removed at its end.
    """

    cluster: str
    resources: Mapping[str, str]
    python: str
    worker_command: Sequence[str]
    max_jobs: int
    timeout: float
    description: str


class DaskCluster(Cluster):
    """Runs tasks on a cluster of dask.distributed.

    Parameters
    ----------
    cluster : str, distributed.Client or cluster object, optional
        The address of the scheduler, a client, or a cluster object. Default: the configured ``scheduler-address``.
    resources : mapping, optional
        Names under which workers advertise the resources that tasks request. Default: ``{"cores": "cores",
        "memory": "memory", "disk": "disk", "gpu": "GPU"}``. Resources that no worker advertises are not reserved; a job
        then takes one thread. Requests for more cores than any worker has threads, for more memory than any worker's
        limit, and for accelerators that no worker advertises are errors.
    python : str, optional
        Python interpreter on the workers. Default: that of each worker.
    worker_command : sequence of str, optional
        Command that runs a batch; the store's URL and the name of the batch are appended.
    max_jobs : int, optional
        Maximum number of jobs in the scheduler at the same time.
    timeout : float
        Seconds to wait for the scheduler, at the start and after its loss.
    description : path, optional
        In place of `cluster`: a file as `toilfn cluster init` writes it, with ``kind: dask``. Its machines are created
        when the run begins, by dask-cloudprovider, and removed when it ends.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(accelerators=True)
    holds_worker = False  # dask compares requests with advertised resources, and enforces no limits
    gather = 0.02
    submits_beside = True

    def __init__(
        self,
        cluster: Any = None,
        *,
        resources: Mapping[str, str] | None = None,
        python: str | None = None,
        worker_command: Sequence[str] | None = None,
        max_jobs: int | None = None,
        timeout: float = 30.0,
        description: str | os.PathLike[str] | None = None,
    ) -> None:
        if cluster is not None and description is not None:
            raise InputError("DaskCluster: name either a cluster or the description of one, not both")
        self.max_jobs = max_jobs
        self._description = description
        self._machines: Any = None
        self._expected: set[str] = set()
        """Names of the resources that workers will advertise."""
        self._link = DaskLink(cluster, timeout)
        self._names = _NAMES if resources is None else dict(resources)
        self._command = list(worker_command or base.worker_command(python or ""))
        self._timeout = timeout
        self._context: RunContext | None = None
        self._futures: dict[JobId, Future[Any]] = {}
        self._lock = threading.Lock()
        self._unchecked: dict[JobId, Resources] = {}
        """Jobs that were submitted before the first worker advertised its resources."""
        self._next_check = 0.0
        self._ended: queue.SimpleQueue[JobId | None] = queue.SimpleQueue()

    def open(self, context: RunContext) -> None:
        """Connect to the scheduler. See `Cluster.open`."""
        if not context.workflow.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ClusterError(f"{context.workflow!r} is not valid in a job name")
        self._context = context
        try:
            if self._description is not None and self._machines is None:
                self._create(self._description)
            self._link.client()
        except ImportError as error:
            raise ClusterError(
                f"DaskCluster needs an optional package: {error}", hint="pip install distributed"
            ) from error

    def _create(self, description: str | os.PathLike[str]) -> None:
        """Create the machines of a description. Its module is found by name: only this needs what knows clouds."""
        created = import_module("toilfn.cloud.dask").create(description)
        self._machines, self._expected = created.cluster, set(created.resources)
        self._link = DaskLink(self._machines, self._timeout)

    def capacity(self) -> Capacity:
        """Return no limit except `max_jobs`, since dask has its own queue."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start one dask task for each batch. See `Cluster.submit`."""
        workers = self._workers()
        jobs: dict[str, JobId] = {}
        for batch in batches:
            try:
                asked = self._request(batch.resources, workers)
            except ClusterError as error:
                raise SubmissionError(str(error), str(error), Refusal.FINAL, jobs) from error
            jobs[batch.name] = self._submit(batch, asked)
        if not workers:
            with self._lock:
                self._unchecked |= {jobs[batch.name]: batch.resources for batch in batches}
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Wait until a job ends. See `Cluster.poll`."""
        updates = self._impossible()
        end = time.monotonic() + (0.0 if updates else timeout)
        with suppress(queue.Empty):
            job = self._ended.get(timeout=max(0.0, end - time.monotonic()))
            while job is not None:
                if job in self._futures:
                    updates.append(self._result(job, self._futures.pop(job)))
                job = self._ended.get_nowait()
        return updates

    def kill(self, jobs: Iterable[JobId]) -> None:
        """Cancel jobs that wait, and kill the processes of the others. See `Cluster.kill`."""
        known = [job for job in jobs if job in self._futures]
        if not known or not self._link.is_up:
            return
        with suppress(OSError, TimeoutError):  # if the scheduler has just been lost, so have its jobs
            client = self._link.client()
            for job in known:
                self._forget(job)
            client.cancel([self._futures[job] for job in known], force=True)
            client.run(kill_jobs, [str(job) for job in known], on_error="ignore")

    def close(self) -> None:
        """End all jobs and disconnect."""
        try:
            self.kill(list(self._futures))
        finally:
            self.leave()

    def leave(self) -> None:
        """Disconnect. The scheduler keeps the published jobs, unless it was created for the run."""
        self._futures.clear()
        self._unchecked.clear()
        machines, self._machines = self._machines, None
        try:
            self._link.close()
        finally:
            if machines is not None:
                machines.close()

    def wake(self) -> None:
        """Wake a waiting `poll`."""
        self._ended.put(None)

    def _impossible(self) -> list[Update]:
        """End jobs that were submitted before the first workers, if the workers cannot run them."""
        if not self._unchecked or time.monotonic() < self._next_check or not self._link.is_up:
            return []
        self._next_check = time.monotonic() + self.poll_interval
        if not (workers := self._workers()):
            return []
        with self._lock:
            unchecked, self._unchecked = self._unchecked, {}
        updates = []
        for job, resources in unchecked.items():
            try:
                self._request(resources, workers)
            except ClusterError as error:
                updates += self._given_up(job, str(error))
        return updates

    def _given_up(self, job: JobId, why: str) -> list[Update]:
        if job not in self._futures:
            return []
        self.kill([job])
        del self._futures[job]
        return [Update(job, JobState.ENDED, Cause.ERROR, why)]

    def nodes(self) -> dict[str, int] | None:
        """Count the machines that have workers."""
        try:
            return {"running": len({worker["host"] for worker in self._workers()})}
        except (OSError, TimeoutError):  # the scheduler is away
            return None

    def _workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = list(self._link.client().scheduler_info(n_workers=-1)["workers"].values())
        return found

    def _request(self, resources: Resources, workers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Translate requirements into the resources that dask workers advertise.

        Raises
        ------
        ClusterError
            If no worker can satisfy them. Without any workers yet, the requirements are not checked.
        """
        asked: dict[str, float] = {"cores": resources.cores, "memory": resources.memory, "disk": resources.disk}
        for accelerator in resources.accelerators:
            asked[accelerator.kind] = asked.get(accelerator.kind, 0) + accelerator.count
        accelerators = {accelerator.kind for accelerator in resources.accelerators}
        offered = {name for worker in workers for name in worker["resources"]} | self._expected
        named = {self._names.get(name, name): amount for name, amount in asked.items()}
        needed = {self._names.get(name, name) for name in accelerators}
        kept = {name: amount for name, amount in named.items() if name in offered or name in needed}
        if workers and not any(_suits(worker, resources, kept) for worker in workers):
            have = "; ".join(sorted({_described(worker) for worker in workers}))
            raise ClusterError(f"no dask worker has {resources.cores:g} cores, {resources.memory} bytes of memory and"
f" {kept or 'nothing else'}; the workers have {have}")  # fmt: skip
        return kept

    def _submit(self, batch: Batch, resources: dict[str, float]) -> JobId:
        if self._context is None:
            raise ClusterError("the cluster is not open")
        context, client = self._context, self._link.client()
        job = JobId(f"toilfn/{context.workflow}/{uuid4().hex[:8]}/{batch.name}")
        future = client.submit(
            run_job, str(job), self._command, [context.store, batch.name], context.environment,
            key=job, resources=resources or None, pure=False,
        )  # fmt: skip
        client.publish_dataset(future, name=job)
        self._watch(job, future)
        return job

    def _watch(self, job: JobId, future: Future[Any]) -> None:
        self._futures[job] = future
        future.add_done_callback(lambda _: self._ended.put(job))

    def _forget(self, job: JobId) -> None:
        if self._link.is_up:
            with suppress(KeyError, OSError, TimeoutError):
                self._link.client().unpublish_dataset(job)

    def _result(self, job: JobId, future: Future[Any]) -> Update:
        """Build the update for a job that has ended."""
        try:
            status, tail = future.result(timeout=self._timeout)
        except (CancelledError, TimeoutError) as error:
            return Update(job, JobState.ENDED, Cause.LOST, f"cancelled, or lost with its scheduler: {error}")
        except Exception as error:  # dask raises various errors for a lost job
            return Update(job, JobState.ENDED, Cause.LOST, f"{type(error).__name__}: {error}")
        finally:
            self._forget(job)
        if status == 0:
            return Update(job, JobState.ENDED)
        code, number = max(0, status), max(0, -status)
        words = f"signal {number}" if number else f"exit status {code}"
        return Update(job, JobState.ENDED, exit_cause(code, number), f"{words}; its output ends with:\n{tail}")

    def address(self) -> dict[str, Any] | None:
        """Return the scheduler's address; None if it ends with this process."""
        return None if self._description is not None else self._link.address()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the published jobs of a workflow and adopt them; `poll` reports those that have ended, too."""
        client = self._link.client()
        found: dict[JobId, str] = {}
        for job in client.list_datasets():
            if isinstance(job, str) and job.startswith(f"toilfn/{workflow}/"):
                self._watch(JobId(job), client.get_dataset(job))
                found[JobId(job)] = job.split("/", 3)[3]
        return found


def _suits(worker: Mapping[str, Any], resources: Resources, asked: Mapping[str, float]) -> bool:
    offered = worker["resources"]
    has_cores = "cores" in offered or resources.cores <= max(1, worker["nthreads"])
    has_memory = not worker["memory_limit"] or resources.memory <= worker["memory_limit"]
    return has_cores and has_memory and all(amount <= offered.get(name, 0) for name, amount in asked.items())


def _described(worker: Mapping[str, Any]) -> str:
    offered = worker["resources"] or "no resources"
    return f"{worker['nthreads']} threads, {worker['memory_limit']} bytes of memory and {offered}"
