"""Build batches from the scheduler's commands: the message to the worker, and the description for the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from toilfn import protocol
from toilfn.clusters.base import Batch
from toilfn.graph.values import Values
from toilfn.ids import TaskId
from toilfn.leader.loading import TaskRecords
from toilfn.leader.mailbox import Mailbox
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.protocol import Run, limits
from toilfn.resources import Resources
from toilfn.scheduler.events import Submit

__all__ = ["BatchBuilder", "Names", "resources"]

_MOST, _MUCH = 16, 256 * 1024
"""How many messages are kept together at most, and how many bytes are enough: each worker reads all of them."""


class Names(NamedTuple):
    """The name of this workflow's jobs on the cluster, and the prefix of the names of this leader's batches."""

    workflow: str
    batches: str


@dataclass
class BatchBuilder:
    """Builds the batches of a leader, with their messages.

    Attributes
    ----------
    tasks : TaskRecords
    values : Values
        The values of tasks, for the tasks that need them.
    attempts : mapping
        How often each task has failed so far.
    shape : callable
        Returns the resources that a task requests now.
    mailbox : Mailbox
        Gets the messages if the cluster does not carry them.
    name : str
        The beginning of the names of batches: unique to this leader.
    is_direct : bool
        Whether the cluster carries messages itself; it sees to each task's walltime then, too.
    worker_memory : int
        The bytes that a job requests on top of its tasks' memory.
    newest : str
        The name of the batch that was built last.
    """

    tasks: TaskRecords
    values: Values
    attempts: Mapping[TaskId, int]
    shape: Callable[[TaskId], Resources]
    mailbox: Mailbox
    name: str
    is_direct: bool
    worker_memory: int
    newest: str = field(init=False)

    def __post_init__(self) -> None:
        self.newest = f"{self.name}-0"

    def build(self, submits: Iterable[Submit]) -> Iterator[Batch]:
        """Build batches, and keep the messages of several in one object, since stores may charge for each object."""
        group: list[Submit] = []
        messages: list[bytes] = []
        for submit in submits:
            group.append(submit)
            messages.append(self._message(submit))
            if len(group) == _MOST or sum(map(len, messages)) > _MUCH:
                yield from self._named(group, messages)
                group, messages = [], []
        if group:
            yield from self._named(group, messages)

    def _named(self, group: Sequence[Submit], messages: Sequence[bytes]) -> Iterator[Batch]:
        """Name the batches of a group; put their messages into the store if the cluster does not carry them."""
        name = f"{self.name}-{group[0].batch}"
        if not self.is_direct:
            functions = (self.tasks.function(self.tasks.get(id_)) for submit in group for id_ in submit.ids)
            self.mailbox.put(name, messages, {function.payload for function in functions})
        for place, (submit, message) in enumerate(zip(group, messages, strict=True)):
            self.newest = f"{name}-{place}"
            yield Batch(
                self.newest,
                self._label(submit),
                resources(submit, self.worker_memory),
                message if self.is_direct else b"",
                self.tasks.is_service(submit.ids[0]),  # a service is alone in its batch
            )

    def _message(self, submit: Submit) -> bytes:
        """Build the message for the worker: records, values from outside the batch, and functions."""
        within = set(submit.ids)
        tasks, needs, functions = [], [], {}
        for id_ in submit.ids:
            data = self.tasks.encoded(id_)
            task = records.decode(data)
            assert isinstance(task, records.TaskRecord)
            tasks.append((data, self.attempts.get(id_, 0) + 1, limits(self.shape(id_))))
            needs += [need for need in task.needs if need not in within]
            functions[task.function] = self.tasks.function(task)
        walltime = None if self.is_direct else submit.walltime
        functions_used = [encode(function) for function in functions.values()]
        return protocol.encode(Run(tasks, self.values.closure(needs), functions_used, walltime))

    def _label(self, submit: Submit) -> str:
        """Name a batch for people."""
        first = self.tasks.name(submit.ids[0])
        return first if len(submit.ids) == 1 else f"{first} and {len(submit.ids) - 1} more"


def resources(submit: Submit, worker_memory: int) -> Resources:
    """Return what a job requests: what the largest of its tasks does and its worker needs, for as long as all of them
    need."""
    shape, walltime = submit.shape, submit.walltime
    if walltime is None and not worker_memory:
        return shape
    memory = shape.memory + worker_memory
    return replace(shape, memory=memory, walltime=shape.walltime if walltime is None else walltime)
