"""Run tasks on any cluster of dask.distributed.

The cluster may be an existing one: an address, a client, a ``LocalCluster``, or a cluster object of dask-jobqueue or
dask-kubernetes, whose pilot jobs then run the tasks. Jobs are published as datasets in the scheduler, so they outlive
the leader, and the next leader finds them.

`run_job` runs in dask's workers. It starts toilfn's worker in a process of its own, so that the job can be killed.
`DaskLink` is the connection to the scheduler, and connects again if the scheduler was lost.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
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
    exit_cause,
)
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Capacity, Resources

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskCluster", "DaskLink", "kill_jobs", "run_job"]

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
        then takes one thread. It is an error to request more cores than any worker has threads, more memory than any
        worker's limit, or accelerators that no worker advertises.
    python : str, optional
        Python interpreter on the workers. Default: that of each worker.
    worker_command : sequence of str, optional
        Command that runs a batch; the store's URL and the name of the batch are appended.
    max_jobs : int, optional
        Maximum number of jobs in the scheduler at the same time.
    timeout : float
        Seconds to wait for the scheduler, at the start and after its loss.
    description : path, optional
        In place of `cluster`: a description file with ``kind: dask``, such as `toilfn cluster init` writes.
        dask-cloudprovider creates the machines when the run begins, and removes them when it ends.
    adapt : mapping, optional
        Adapt the number of workers to the run. The arguments are those of the cluster object's ``adapt``, such as
        ``{"minimum": 0, "maximum": 20}``. Workers are started for tasks that will be ready within five minutes, and as
        many as are needed to finish all tasks within ``target_duration``, by default half an hour. After the run,
        dask adapts the number by its own rule, with the same arguments.
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
        adapt: Mapping[str, Any] | None = None,
    ) -> None:
        if cluster is not None and description is not None:
            raise InputError("DaskCluster: cluster and description cannot be combined", hint="pass only one of them")
        if adapt is not None and not hasattr(cluster, "adapt"):
            raise InputError(
                "DaskCluster: adapt needs a cluster object, which can start and end workers",
                hint="pass the cluster object instead of its address",
            )
        self.max_jobs = max_jobs
        self._object = cluster
        self._adapt = adapt
        self._follows = False
        """Whether the number of the cluster object's workers is adapted to the run."""
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
        """The jobs that have not ended. `submit` adds jobs in another thread than `poll` and `kill`. No lock is needed,
        since all of them only use single operations of a dict, which are atomic."""
        self._lock = threading.Lock()
        """Guards `_unchecked`, which `poll` replaces while `submit` may add jobs to it."""
        self._unchecked: dict[JobId, Resources] = {}
        """Jobs that were submitted before the first worker advertised its resources."""
        self._next_check = 0.0
        self._ended: queue.SimpleQueue[JobId | None] = queue.SimpleQueue()
        """Jobs that have ended. Callbacks in the client's thread put them here; None only wakes `poll`."""

    def open(self, context: RunContext) -> None:
        """Connect to the scheduler. See `Cluster.open`."""
        if not context.workflow.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ClusterError(f"{context.workflow!r} is not valid in a job name")
        self._context = context
        try:
            if self._description is not None and self._machines is None:
                self._create(self._description, context.store)
            self._link.client()
            if self._adapt is not None:
                import_module("toilfn.cloud.adaptive").follow(self._object, context.store, self._adapt, self._names)
                self._follows = True
        except ImportError as error:
            raise ClusterError(
                f"DaskCluster needs an optional package: {error}", hint="pip install distributed"
            ) from error

    def _create(self, description: str | os.PathLike[str], store: str) -> None:
        """Create the machines of a description.

        The module is imported by name, since clusters must not import `toilfn.cloud`.
        """
        created = import_module("toilfn.cloud.dask").create(description, store, self._names)
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
        updates = self._end_impossible_jobs()
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
        follows, self._follows = self._follows, False
        try:
            if follows and self._object.status.name == "running":
                self._object.adapt(**self._adapt or {})
            self._link.close()
        finally:
            if machines is not None:
                machines.close()

    def wake(self) -> None:
        """Wake a waiting `poll`."""
        self._ended.put(None)

    def _end_impossible_jobs(self) -> list[Update]:
        """End the jobs whose requirements no worker can satisfy.

        Jobs that were submitted before there were any workers could not be checked then, so they are checked here.
        """
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
                updates += self._give_up(job, str(error))
        return updates

    def _give_up(self, job: JobId, why: str) -> list[Update]:
        if job not in self._futures:
            return []
        self.kill([job])
        del self._futures[job]
        return [Update(job, JobState.ENDED, Cause.ERROR, why)]

    def nodes(self) -> dict[str, int] | None:
        """Count the machines that have workers."""
        try:
            return {"running": len({worker["host"] for worker in self._workers()})}
        except (OSError, TimeoutError):  # the scheduler does not answer
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


_TAIL = 1000
"""Number of bytes of a job's output to keep."""

_AFTER_LINE = 'read -r REPLY && exec "$0" "$@" < /dev/null'
"""A script that waits for a line on standard input before it runs the job. If the dask worker dies first, it exits."""

_processes: dict[str, subprocess.Popen[bytes]] = {}
"""The processes of the jobs in this dask worker."""


def run_job(job: str, command: list[str], arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a job; return its exit status, or the negative number of a signal, and the end of its output."""
    program = command[0] or sys.executable
    with tempfile.TemporaryFile() as output, _life_pipe() as read_end:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _AFTER_LINE, program, *command[1:], *arguments],
            env=os.environ | environment, stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True, pass_fds=[read_end],
        )  # fmt: skip
        _processes[job] = process
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin as go:
                _kill_with_this_process(read_end, process.pid)
                go.write(b"\n")
            status = process.wait()
        finally:
            del _processes[job]
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
        return status, output.read().decode(errors="replace").strip()


@contextmanager
def _life_pipe() -> Iterator[int]:
    """Create a pipe, and yield its read end. Only this process has the write end, so the pipe closes when it dies."""
    read_end, ours = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(ours)


def _kill_with_this_process(read_end: int, group: int) -> None:
    """Have the kernel kill a job and its descendants when this dask worker dies for any reason.

    When the write end of the pipe closes, the kernel sends SIGKILL, chosen by F_SETSIG, to the owner of the read end.
    """
    if sys.platform == "linux":
        fcntl.fcntl(read_end, fcntl.F_SETOWN, -group)
        fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)


def kill_jobs(jobs: list[str]) -> None:
    """Kill those of the jobs that run in this dask worker, with all their descendants."""
    for job in jobs:
        process = _processes.get(job)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


_PAUSE = 0.1


class DaskLink:
    """A connection to a scheduler, through a client of its own or the user's.

    Parameters
    ----------
    place : str, distributed.Client, cluster object or None
        The scheduler; None means the configured ``scheduler-address``.
    timeout : float
        Seconds to wait for the scheduler, at the start and after its loss.
    """

    def __init__(self, place: Any, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._client: Client | None = None
        self._loop: _Loop | None = None
        self._lock = threading.RLock()
        """Guards the client: `submit` runs in another thread than `poll`. Reentrant, since `client` calls `close`."""

    @property
    def is_up(self) -> bool:
        """Whether the client is connected, as far as the client knows; a lost scheduler is noticed late."""
        return self._client is not None and self._client.status == "running"

    def client(self) -> Client:
        """Return a connected client.

        Raises
        ------
        ClusterError
            If the scheduler does not answer in time.
        """
        with self._lock:
            if self._client is None or not self.is_up:
                self.close()
                self._client = self._users_client() or self._own_client()
            return self._client

    def address(self) -> dict[str, Any] | None:
        """Return the argument for finding the scheduler from another process; None if it ends with this one."""
        if self._place is None:
            return {}
        if isinstance(self._place, str):
            return {"cluster": self._place}
        from distributed import Client

        return {"cluster": self._address()} if isinstance(self._place, Client) else None

    def close(self) -> None:
        """Disconnect, but leave a user's client open. May be called twice."""
        with self._lock:
            client, loop = self._client, self._loop
            self._client = self._loop = None
        if loop is not None:
            try:
                if client is not None:
                    with suppress(OSError, TimeoutError):  # the scheduler is gone
                        client.close(timeout=self._timeout)
            finally:
                loop.stop()

    def _users_client(self) -> Client | None:
        """Return the user's client, if there is one, after waiting until it is connected."""
        from distributed import Client

        if not isinstance(self._place, Client):
            return None
        end = time.monotonic() + self._timeout
        while self._place.status == "connecting" and time.monotonic() < end:
            time.sleep(_PAUSE)
        if self._place.status != "running":
            raise ClusterError(f"dask client {self._place} is {self._place.status}: its scheduler was lost")
        return self._place

    def _own_client(self) -> Client:
        from distributed import Client

        address = self._address()
        self._loop = _Loop()
        try:
            return Client(
                address,
                timeout=self._timeout,
                set_as_default=False,
                security=getattr(self._place, "security", None),
                loop=self._loop.loop,
            )
        except (OSError, TimeoutError) as error:
            self.close()
            raise ClusterError(f"dask scheduler at {address} does not respond: {error}") from error
        except BaseException:
            self.close()
            raise

    def _address(self) -> str:
        import dask.config

        address = getattr(self._place, "scheduler_address", None)  # of a cluster object
        address = address or getattr(getattr(self._place, "scheduler", None), "address", self._place)  # of a client
        address = address or dask.config.get("scheduler-address", None)
        if not address:
            raise ClusterError(
                "no dask scheduler is set",
                hint="use DaskCluster('tcp://host:8786'), pass a client or a cluster object, or set"
                " DASK_SCHEDULER_ADDRESS",
            )
        return str(address)


class _Loop:
    """An event loop in a separate thread, for a client.

    A client that creates its own loop leaves the thread running if it loses its scheduler permanently. This loop can be
    stopped in any state of the client.
    """

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="toilfn-dask", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _run(self) -> None:
        from tornado.ioloop import IOLoop

        self.loop = IOLoop.current()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def stop(self) -> None:
        """End the thread, and all coroutines in it."""
        self.loop.add_callback(self._stop.set)
        self._thread.join()
