"""Any cluster of dask.distributed: its workers run toilfn's workers, each as a process of its own.

The engine may be one that people already have: an address, a client, a ``LocalCluster``, or a cluster object of
dask-jobqueue or dask-kubernetes, whose pilot jobs then run the tasks. Jobs are published in the scheduler, so they
outlive a leader that dies, and its successor finds them.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, Session, Update
from toilfn.clusters.exits import exit_cause
from toilfn.errors import ClusterError
from toilfn.events import Capacity, Cause
from toilfn.resources import Resources

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskCluster"]

_TAIL = 1000
"""How many bytes of a failed job's output are shown."""

_NAMES = {"cores": "cores", "memory": "memory", "disk": "disk", "gpu": "GPU"}
"""What we call a resource, and how dask workers usually advertise it."""


class DaskCluster(Cluster):
    """Run tasks on a cluster of dask.distributed.

    Parameters
    ----------
    cluster : str, distributed.Client or cluster object, optional
        Where: an address, a client, or a cluster object. By default the configured ``scheduler-address``.
    resources : mapping, optional
        How workers advertise what tasks ask for: by default ``{"cores": "cores", "memory": "memory",
        "disk": "disk", "gpu": "GPU"}``. What no worker advertises is not reserved: a job takes one thread. But cores
        beyond all workers' threads, memory beyond their limits, and accelerators that no worker advertises, are errors.
    python : str, optional
        The interpreter on the workers; by default that of each worker.
    worker_command : sequence of str, optional
        What runs a batch: the store's URL and the batch's name come after it.
    max_jobs : int, optional
        The most jobs to have in the scheduler at one time.
    timeout : float
        Seconds to wait for the scheduler.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(accelerators=True)

    def __init__(
        self,
        cluster: Any = None,
        *,
        resources: Mapping[str, str] | None = None,
        python: str | None = None,
        worker_command: Sequence[str] | None = None,
        max_jobs: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.max_jobs = max_jobs
        self._cluster = cluster
        self._names = _NAMES if resources is None else dict(resources)
        self._command = list(worker_command or (python or "", "-m", "toilfn.worker"))
        self._timeout = timeout
        self._client: Client | None = None
        self._session: Session | None = None
        self._futures: dict[JobId, Future[Any]] = {}
        self._ended: queue.SimpleQueue[JobId | None] = queue.SimpleQueue()

    def open(self, session: Session) -> None:
        """Connect. See `Cluster.open`."""
        if not session.workflow.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ClusterError(f"{session.workflow!r} cannot be part of a job's name")
        self._session = session
        self._connect()

    def capacity(self) -> Capacity:
        """Say that dask queues by itself; only `max_jobs` limits."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start one dask task for each batch. See `Cluster.submit`."""
        workers = self._workers()
        wanted = [self._asked(batch.resources, workers) for batch in batches]
        return [self._submit(batch, resources) for batch, resources in zip(batches, wanted, strict=True)]

    def poll(self, timeout: float) -> list[Update]:
        """Wait until a job ends. See `Cluster.poll`."""
        updates: list[Update] = []
        end = time.monotonic() + timeout
        with suppress(queue.Empty):
            job = self._ended.get(timeout=max(0.0, end - time.monotonic()))
            while job is not None:
                if job in self._futures:
                    updates.append(self._result(job, self._futures.pop(job)))
                job = self._ended.get_nowait()
        return updates

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs: those that wait are cancelled, the processes of others are killed. See `Cluster.kill`."""
        known = [job for job in jobs if job in self._futures]
        if not known or self._client is None or self._client.status != "running":
            return
        for job in known:
            self._forget(job)
        self._client.cancel([self._futures[job] for job in known], force=True)
        self._client.run(_kill, [str(job) for job in known], on_error="ignore")

    def close(self) -> None:
        """End all jobs and disconnect."""
        self.kill(list(self._futures))
        self._futures.clear()
        if self._client is not None and self._client is not self._cluster:
            self._client.close(timeout=self._timeout)
        self._client = None

    def wake(self) -> None:
        """Make a waiting `poll` return."""
        self._ended.put(None)

    def _connect(self) -> Client:
        """Give a client that works, a new one if the scheduler was lost."""
        if self._client is not None and self._client.status == "running":
            return self._client
        try:
            from distributed import Client
        except ImportError as error:
            raise ClusterError(f"DaskCluster needs the package distributed: {error}") from error
        if isinstance(self._cluster, Client):
            self._client = self._cluster
        else:
            self._client = self._new_client(Client)
        return self._client

    def _new_client(self, kind: type[Client]) -> Client:
        import dask.config

        place = self._cluster or dask.config.get("scheduler-address", None)
        if place is None:
            raise ClusterError(
                "there is no dask scheduler to talk to: write DaskCluster('tcp://host:8786'), give a client or a "
                "cluster object, or set DASK_SCHEDULER_ADDRESS"
            )
        try:
            return kind(place, timeout=self._timeout, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the dask scheduler at {place} does not answer: {error}") from error

    def _workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = list(self._connect().scheduler_info(n_workers=-1)["workers"].values())
        return found

    def _asked(self, resources: Resources, workers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Translate requirements into those of dask's that workers advertise.

        Raises
        ------
        ClusterError
            If no worker can ever give them. With no workers yet, there will be some that can.
        """
        asked: dict[str, float] = {"cores": resources.cores, "memory": resources.memory, "disk": resources.disk}
        for accelerator in resources.accelerators:
            asked[accelerator.kind] = asked.get(accelerator.kind, 0) + accelerator.count
        accelerators = {accelerator.kind for accelerator in resources.accelerators}
        offered = {name for worker in workers for name in worker["resources"]}
        named = {self._names.get(name, name): amount for name, amount in asked.items()}
        needed = {self._names.get(name, name) for name in accelerators}
        kept = {name: amount for name, amount in named.items() if name in offered or name in needed}
        if workers and not any(_suits(worker, resources, kept) for worker in workers):
            have = "; ".join(sorted({_described(worker) for worker in workers}))
            raise ClusterError(f"no dask worker can give {resources.cores:g} cores, {resources.memory} bytes of memory "
                               f"and {kept or 'nothing else'}: there are workers with {have}")  # fmt: skip
        return kept

    def _submit(self, batch: Batch, resources: dict[str, float]) -> JobId:
        if self._session is None:
            raise ClusterError("the cluster is not open")
        session, client = self._session, self._connect()
        job = JobId(f"toilfn/{session.workflow}/{uuid4().hex[:8]}/{batch.name}")
        future = client.submit(
            _run, str(job), self._command, [session.store, batch.name], session.environment,
            key=job, resources=resources or None, pure=False,
        )  # fmt: skip
        client.publish_dataset(future, name=job)
        self._watch(job, future)
        return job

    def _watch(self, job: JobId, future: Future[Any]) -> None:
        self._futures[job] = future
        future.add_done_callback(lambda _: self._ended.put(job))

    def _forget(self, job: JobId) -> None:
        if self._client is not None and self._client.status == "running":
            with suppress(KeyError):
                self._client.unpublish_dataset(job)

    def _result(self, job: JobId, future: Future[Any]) -> Update:
        """Tell how a job ended."""
        try:
            status, tail = future.result(timeout=self._timeout)
        except (CancelledError, TimeoutError) as error:
            return Update(job, JobState.ENDED, Cause.LOST, f"cancelled, or lost with its scheduler: {error}")
        except Exception as error:  # whatever dask has to say of a job that did not come back
            return Update(job, JobState.ENDED, Cause.LOST, f"{type(error).__name__}: {error}")
        finally:
            self._forget(job)
        if status == 0:
            return Update(job, JobState.ENDED)
        code, number = max(0, status), max(0, -status)
        words = f"signal {number}" if number else f"exit status {code}"
        return Update(job, JobState.ENDED, exit_cause(code, number), f"{words}; its output ends with:\n{tail}")

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the published jobs of a workflow, and take them over; polls tell of those that ended meanwhile, too."""
        client = self._connect()
        found: dict[JobId, str] = {}
        for job in client.list_datasets():
            if isinstance(job, str) and job.startswith(f"toilfn/{workflow}/"):
                self._watch(JobId(job), client.get_dataset(job))
                found[JobId(job)] = job.split("/", 3)[3]
        return found


_processes: dict[str, subprocess.Popen[bytes]] = {}
"""In a dask worker: the processes of the jobs that it runs."""


def _run(job: str, command: list[str], arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a job on a dask worker; give its exit status and the end of its output."""
    program = command[0] or sys.executable
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [program, *command[1:], *arguments],
            env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        _processes[job] = process
        try:
            status = process.wait()
        finally:
            del _processes[job]
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
        return status, output.read().decode(errors="replace").strip()


def _kill(jobs: list[str]) -> None:
    """End jobs of a dask worker and all that they started."""
    for job in jobs:
        process = _processes.get(job)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _suits(worker: Mapping[str, Any], resources: Resources, asked: Mapping[str, float]) -> bool:
    offered = worker["resources"]
    has_cores = "cores" in offered or resources.cores <= max(1, worker["nthreads"])
    has_memory = not worker["memory_limit"] or resources.memory <= worker["memory_limit"]
    return has_cores and has_memory and all(amount <= offered.get(name, 0) for name, amount in asked.items())


def _described(worker: Mapping[str, Any]) -> str:
    offered = worker["resources"] or "no resources"
    return f"{worker['nthreads']} threads, {worker['memory_limit']} bytes of memory and {offered}"
