"""Tasks with ``local=True``: processes of the leader's machine, whatever the cluster.

`ProcessCluster` runs each batch in a process of its own, which outlives the leader. `BesideCluster` passes the batches
of tasks with ``local=True`` to a `ProcessCluster`, and all others to the run's cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import IO, Any, ClassVar, NamedTuple
from uuid import uuid4

import psutil

from toilfn.clusters import base
from toilfn.clusters.base import (
    Batch,
    Capabilities,
    Cluster,
    JobId,
    JobState,
    RunContext,
    Update,
    exit_cause,
    read_output,
)
from toilfn.clusters.common.polled import JobReport, LiveJob, PolledCluster
from toilfn.clusters.local import machine
from toilfn.resources import Capacity

__all__ = ["BesideCluster", "ProcessCluster"]

_VARIABLE = "TOILFN_PROCESS"
"""The environment variable that `ProcessCluster` sets for each process: its workflow, job and batch, separated by
spaces. A later leader on this machine finds the processes by it."""
_TAIL = 1000
"""Number of bytes of a failed process's output to show."""
_INTERVAL = 0.1
"""Seconds between two checks of the processes. While there are any, a poll of the main cluster waits no longer."""
_EXIT_TIME = 10.0
"""Seconds between asking a worker to end and killing it."""


class _Running(NamedTuple):
    process: psutil.Process
    output: IO[bytes] | None
    """The file with the output; None for a process that an earlier leader started."""


class ProcessCluster(PolledCluster[LiveJob]):
    """Runs a limited number of batches at a time, and queues the others. Of their limits, it enforces only walltimes.

    Parameters
    ----------
    most : int, optional
        Maximum number of processes at the same time; by default one per core.
    worker_command : sequence of str, optional
        Command that runs a batch; the store's URL and the name of the batch are appended.
    poll_interval : float
        Seconds between two checks of the processes.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(walltime_limits=True)
    unknown: ClassVar[str] = "no such process"

    def __init__(
        self, most: int | None = None, *, worker_command: Sequence[str] = (), poll_interval: float = _INTERVAL
    ) -> None:
        super().__init__({"poll_interval": poll_interval})
        self._most = most or max(1, int(machine.cores()))
        self._command = tuple(worker_command) or base.worker_command(sys.executable)
        self._waiting: deque[tuple[JobId, str]] = deque()
        self._running: dict[JobId, _Running] = {}
        self._ending: dict[JobId, float] = {}
        """For each process that was asked to end: when to kill it."""

    @property
    def is_idle(self) -> bool:
        """Whether there are no live jobs."""
        return not self._live

    def capacity(self) -> Capacity:
        """Return no limit, since batches are queued here."""
        return Capacity(total=None)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start processes, or queue them. See `Cluster.submit`."""
        jobs = [JobId(f"process-{uuid4().hex}") for _ in batches]
        for job, batch in zip(jobs, batches, strict=True):
            self._live[job] = LiveJob(walltime=batch.resources.walltime)
            self._waiting.append((job, batch.name))
        self._start()
        return jobs

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Check which processes have ended, and start others; see `PolledCluster.look`."""
        for job, limit in self._ending.items():
            if limit < time.monotonic() and job in self._running:
                _signal(self._running[job].process, signal.SIGKILL)
        found = {job: self._judge(job) for job in self._running.keys() & set(jobs)}
        self._start()
        return {job: JobReport(JobState.QUEUED) for job, _ in self._waiting} | found

    def end(self, jobs: Sequence[JobId]) -> None:
        """Ask processes to end; see `PolledCluster.end`."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in jobs)
        for job in jobs:
            if job in self._running and job not in self._ending:
                self._ending[job] = time.monotonic() + _EXIT_TIME
                _signal(self._running[job].process, signal.SIGTERM)

    def ended(self, job: JobId, live: LiveJob, found: JobReport) -> JobReport:
        """Add the output of a failed process; see `PolledCluster.ended`."""
        self._ending.pop(job, None)
        running = self._running.pop(job, None)
        if running is None or running.output is None:
            return found
        _reap(running.process)
        with running.output as output:
            log = read_output(output.fileno(), 0)
        if not found.cause:
            return found
        text = log[-_TAIL:].decode(errors="replace").strip()
        return found._replace(detail=f"{found.detail}; its output ends with: {text}" if text else found.detail, log=log)

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the processes that an earlier leader on this machine started for the store, and adopt them."""
        found: dict[JobId, str] = {}
        for process in psutil.process_iter():
            owner, _, rest = _mark(process).partition(" ")
            if owner == workflow:
                job, _, found[JobId(job)] = rest.partition(" ")
                self._running.setdefault(JobId(job), _Running(process, None))
                self._live.setdefault(JobId(job), LiveJob())
        return found

    def close(self) -> None:
        """End all processes, and wait for them."""
        running = list(self._running.values())
        super().close()
        _, alive = psutil.wait_procs([one.process for one in running], _EXIT_TIME)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, _EXIT_TIME)
        for one in running:
            if one.output is not None:
                _reap(one.process)

    def leave(self) -> None:
        """Let running processes continue; queued batches are not started."""
        super().leave()
        self._waiting.clear()
        for one in self._running.values():
            if one.output is not None:
                one.output.close()
        self._running.clear()
        self._ending.clear()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._most:
            job, name = self._waiting.popleft()
            output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
            mark = f"{self.context.workflow} {job} {name}"
            process = psutil.Popen(
                [*self._command, self.context.store, name],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **self.context.environment, _VARIABLE: mark}, start_new_session=True,
            )  # fmt: skip
            self._running[job] = _Running(process, output)

    def _judge(self, job: JobId) -> JobReport:
        """Return the state of a process. The exit status of an earlier leader's process cannot be known."""
        process, output = self._running[job]
        if output is None:
            return JobReport(JobState.RUNNING if _is_alive(process) else JobState.ENDED)
        try:
            status = _exit_status(process)
        except psutil.TimeoutExpired:
            return JobReport(JobState.RUNNING)
        if status is None:  # other code has reaped the process; the worker's answers in the store show how it ended
            return JobReport(JobState.ENDED)
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return JobReport(JobState.ENDED, exit_cause(max(0, status), max(0, -status)), f"the worker ended with {how}")


def _mark(process: psutil.Process) -> str:
    """Return the environment variable that `ProcessCluster` sets for its processes; empty for any other process."""
    try:
        is_first = os.getsid(process.pid) == process.pid  # its children inherit the variable
        return str(process.environ().get(_VARIABLE, "")) if is_first else ""
    except (OSError, psutil.Error):  # the process is gone, or belongs to another user
        return ""


def _reap(process: psutil.Process) -> None:
    """Let the subprocess module record that a process has ended; only psutil has waited for it.

    Otherwise the module would warn that the process is still running.
    """
    if isinstance(process, psutil.Popen):
        process.poll()


def _exit_status(process: psutil.Process) -> int | None:
    """Return a child's exit status, negative for a signal; None if other code in this process has reaped it."""
    return process.wait(timeout=0)


def _is_alive(process: psutil.Process) -> bool:
    """Return whether a process is still running. A zombie has ended, but only its parent can remove it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _signal(process: psutil.Process, number: int) -> None:
    """Send a signal to a process and its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


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

    def nodes(self) -> dict[str, int] | None:
        """Count the nodes of the main cluster."""
        return self._main.nodes()

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
