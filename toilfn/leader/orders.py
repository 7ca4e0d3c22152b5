"""What cluster and worker are told of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from toilfn import protocol
from toilfn.ids import TaskId
from toilfn.leader.tasks import Tasks
from toilfn.model import records
from toilfn.model.records import BlobRef, encode
from toilfn.model.values import Values
from toilfn.protocol import Run, limits
from toilfn.resources import Resources
from toilfn.scheduler.events import Submit

__all__ = ["Orders"]


@dataclass
class Orders:
    """Makes the orders for batches.

    Attributes
    ----------
    tasks : Tasks
    values : Values
        What tasks need from others.
    attempts : mapping
        How often each task has failed so far.
    shape : callable
        Returns what a task asks for now.
    worker_memory : int
        The bytes that a job asks for on top of its tasks' memory.
    """

    tasks: Tasks
    values: Values
    attempts: Mapping[TaskId, int]
    shape: Callable[[TaskId], Resources]
    worker_memory: int = 0

    def resources(self, submit: Submit) -> Resources:
        """Return what the job asks for: what the largest of its tasks does and its worker needs, for as long as all of
        them need."""
        shape, walltime = submit.shape, submit.walltime
        if walltime is None and not self.worker_memory:
            return shape
        memory = shape.memory + self.worker_memory
        return replace(shape, memory=memory, walltime=shape.walltime if walltime is None else walltime)

    def message(self, submit: Submit, *, is_watched: bool) -> bytes:
        """Build the message for the worker; `is_watched`: whether the cluster sees to each task's walltime itself."""
        within = set(submit.ids)
        tasks, needs, functions = [], [], {}
        for id_ in submit.ids:
            data = self.tasks.encoded(id_)
            task = records.decode(data)
            assert isinstance(task, records.Task)
            tasks.append((data, self.attempts.get(id_, 0) + 1, limits(self.shape(id_))))
            needs += [need for need in task.needs if need not in within]
            functions[task.function] = self.tasks.function(task)
        walltime = None if is_watched else submit.walltime
        functions_used = [encode(function) for function in functions.values()]
        return protocol.encode(Run(tasks, self.values.closure(needs), functions_used, walltime))

    def functions(self, submit: Submit) -> set[BlobRef]:
        """List the blobs that a batch's functions are in."""
        return {self.tasks.function(self.tasks.get(id_)).payload for id_ in submit.ids}

    def label(self, submit: Submit) -> str:
        """Name a batch for people."""
        first = self.tasks.name(submit.ids[0])
        return first if len(submit.ids) == 1 else f"{first} and {len(submit.ids) - 1} more"

    def is_service(self, submit: Submit) -> bool:
        """Return whether a batch is a service: that is alone in its batch."""
        return self.tasks.is_service(submit.ids[0])
