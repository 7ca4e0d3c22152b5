"""The leader's own process as a cluster: for debuggers, and for quick tests of tasks."""

from __future__ import annotations

import importlib
import itertools
import queue
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, RunContext, Update
from toilfn.clusters.local import machine
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Capacity, Resources

__all__ = ["InlineCluster"]

_PATIENCE = 10.0
"""Seconds that a service may take to stop at the end of the run."""


class InlineCluster(Cluster):
    """Runs one task after another in the leader's process, in `poll`.

    No limits are enforced and no output is captured: breakpoints, prints and profilers work as in any script.
    Services run in threads.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(direct=True, accelerators=True, preemption=True)
    holds_worker = False

    def __init__(self) -> None:
        self._run: Any = None
        self._waiting: deque[tuple[JobId, Batch]] = deque()
        self._killed: list[JobId] = []
        self._numbers = itertools.count(1)
        self._services: dict[JobId, Any] = {}
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        """Updates of services, which their threads put here for `poll`."""

    def open(self, context: RunContext) -> None:
        """Open the store for the tasks. See `Cluster.open`."""
        # By name, since clusters must not import the core.
        self._run = importlib.import_module("toilfn.worker.inprocess").InProcess(context.store, context.environment)

    def capacity(self) -> Capacity:
        """Return the resources of the machine, for one batch at a time."""
        devices = len(machine.nvidia_devices())
        accelerators = (Accelerator(devices, brand="nvidia", api="cuda"),) if devices else ()
        total = Resources(machine.cores(), machine.memory(), machine.disk(), accelerators)
        return Capacity(total=total, largest=total, batches=1)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Queue batches; `poll` runs them."""
        jobs = [(JobId(str(next(self._numbers))), batch) for batch in batches]
        self._waiting += [job for job in jobs if not job[1].is_service]
        for id_, batch in jobs:
            if batch.is_service:
                self._serve(id_, batch)
        return [id_ for id_, _ in jobs]

    def _serve(self, id_: JobId, batch: Batch) -> None:
        """Start a service in a thread."""

        def send(message: bytes) -> None:
            self._updates.put(Update(id_, JobState.RUNNING, answers=(message,)))

        def end() -> None:
            self._updates.put(Update(id_, JobState.ENDED))

        self._services[id_] = self._run.serve(batch.message, send, end)

    def poll(self, timeout: float) -> list[Update]:
        """Run one batch; if none is queued, wait for messages of services."""
        updates = [Update(id_, JobState.ENDED, Cause.LOST, "killed on request") for id_ in self._killed]
        self._killed = []
        if self._waiting:
            id_, batch = self._waiting.popleft()
            updates.append(Update(id_, JobState.ENDED, answers=tuple(self._run(batch.message))))
        wait = self._services and not updates
        with suppress(queue.Empty):
            updates.append(self._updates.get(timeout=timeout) if wait and timeout else self._updates.get_nowait())
            while True:
                updates.append(self._updates.get_nowait())
        for update in updates:
            if update.state is JobState.ENDED:
                self._services.pop(update.job, None)
        return updates

    def tell(self, job: JobId, message: bytes) -> None:
        """Stop a service, whatever the message: no other message is sent to a running job."""
        if job in self._services:
            self._services[job].stop()

    def kill(self, jobs: Iterable[JobId]) -> None:
        """Remove batches from the queue, and stop services."""
        wanted = set(jobs)
        for id_ in wanted & self._services.keys():
            self._services[id_].stop()
        self._killed += [id_ for id_, _ in self._waiting if id_ in wanted]
        self._waiting = deque(job for job in self._waiting if job[0] not in wanted)

    def close(self) -> None:
        """Stop services, and remove temporary directories."""
        for service in self._services.values():
            service.stop()
        for service in self._services.values():
            service.join(_PATIENCE)
        self._services.clear()
        if self._run is not None:
            self._run.close()
        self._run = None
        self._waiting.clear()
