"""The batches that the cluster has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from toilfn import protocol
from toilfn.clusters.base import Batch, Cluster, JobId, JobState, Update
from toilfn.clusters.common.output import LOG_LIMIT
from toilfn.graph.values import Values
from toilfn.ids import BatchId, TaskId
from toilfn.leader.committer import Committer
from toilfn.leader.loading import TaskRecords
from toilfn.leader.mailbox import Mailbox
from toilfn.leader.submitting import Parcel, Refused, Sent, Submitting
from toilfn.model import records
from toilfn.model.records import BlobRef, encode
from toilfn.protocol import Run, limits
from toilfn.resources import Resources
from toilfn.scheduler.events import Submit

__all__ = ["BatchMessages", "Jobs", "Names", "SubmittedBatch"]


class Names(NamedTuple):
    """Names on the cluster: of this workflow's jobs, and the beginning of the names of this leader's batches."""

    workflow: str
    batches: str


@dataclass
class BatchMessages:
    """Builds the messages to workers, and the description of each batch for the cluster.

    Attributes
    ----------
    tasks : TaskRecords
    values : Values
        The values of tasks, for the tasks that need them.
    attempts : mapping
        How often each task has failed so far.
    shape : callable
        Returns the resources that a task requests now.
    worker_memory : int
        The bytes that a job requests on top of its tasks' memory.
    """

    tasks: TaskRecords
    values: Values
    attempts: Mapping[TaskId, int]
    shape: Callable[[TaskId], Resources]
    worker_memory: int = 0

    def resources(self, submit: Submit) -> Resources:
        """Return what the job requests: what the largest of its tasks does and its worker needs, for as long as all of
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
            assert isinstance(task, records.TaskRecord)
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


_MOST, _MUCH = 16, 256 * 1024
"""How many messages are kept together at most, and how many bytes are enough: each worker reads all of them."""


@dataclass(slots=True)
class SubmittedBatch:
    """A batch that the cluster has."""

    id: BatchId
    name: str
    job: JobId | None
    """None until the cluster has taken it."""
    running: TaskId | None = None
    """The task that its worker has been at for a while."""
    service: TaskId | None = None
    """The service that it runs."""
    dead_service: TaskId | None = None
    """The service whose death is the reason why it was killed."""
    tail_call: TaskId | None = None
    """The newest task that its worker started on its own."""
    is_unwanted: bool = False
    """Whether to kill it as soon as the cluster has accepted it."""
    is_queued: bool = False
    """Whether the cluster says that it waits in its queue."""
    is_held: bool = False
    """Whether it will not start until the user or an administrator changes something."""
    reason: str = ""
    """Why it waits there, in the system's words."""
    queued_since: float = 0.0
    """Since when it has waited for that reason."""
    is_withdrawn: bool = False
    """Whether it was cancelled while it waited there, since nothing more may start."""
    owed: set[TaskId] | None = None
    """The tasks that it may still report on after a roll-back; None: any."""
    printed: tuple[TaskId, bytes] | None = None
    """The task that its worker last sent output of, and the end of that output."""

    @property
    def state(self) -> str:
        """A word for where its job is: ``"sending"``, ``"queued"``, ``"held"`` or ``"running"``."""
        if self.job is None:
            return "sending"
        return "held" if self.is_held else "queued" if self.is_queued else "running"

    def note_output(self, id_: TaskId, text: bytes) -> None:
        """Keep the output of a task, in case the rest of it is lost."""
        self.printed = id_, (self.output_of(id_) + text)[-LOG_LIMIT:]

    def output_of(self, id_: TaskId) -> bytes:
        """Return the end of a task's output, as far as the worker has sent it."""
        return self.printed[1] if self.printed is not None and self.printed[0] == id_ else b""

    def note(self, update: Update, now: float) -> None:
        """Record the system's report about the job."""
        is_queued = update.state is JobState.QUEUED
        if is_queued and not (self.is_queued and self.reason == update.detail):
            self.queued_since = now
        self.is_queued, self.is_held, self.reason = is_queued, update.is_held, update.detail


class Jobs:
    """Sends batches to the cluster, and knows which are submitted.

    Parameters
    ----------
    cluster : Cluster
        Opened.
    committer : Committer
    mailbox : Mailbox
        For a cluster that is not direct.
    batch_messages : BatchMessages
    name : str
        The beginning of the names of batches: unique to this leader.

    Attributes
    ----------
    newest : str
        The name of the batch that was sent last.
    """

    def __init__(
        self, cluster: Cluster, committer: Committer, mailbox: Mailbox, batch_messages: BatchMessages, name: str
    ) -> None:
        self._cluster = cluster
        self._committer = committer
        self._mailbox = mailbox
        self._messages = batch_messages
        self._name = name
        # Every batch from its submission to its end is in `_submitted`. It is in `_by_job` as well as soon as the
        # cluster has returned a job for it, and in `_ids` until then.
        self._submitted: dict[BatchId, SubmittedBatch] = {}
        self._ids: dict[BatchId, tuple[TaskId, ...]] = {}
        """The tasks of batches that the cluster has not taken yet."""
        self._by_job: dict[JobId, SubmittedBatch] = {}
        self._submitting = Submitting(cluster)
        self.newest = f"{name}-0"

    def __bool__(self) -> bool:
        return bool(self._submitted)

    def __iter__(self) -> Iterator[SubmittedBatch]:
        return iter(self._submitted.values())

    def states(self) -> Counter[str]:
        """Count the submitted batches by their state; another thread may call this."""
        counts = Counter(dict.fromkeys(("sending", "queued", "held", "running"), 0))
        counts.update(submitted.state for submitted in list(self._submitted.values()))
        return counts

    def names(self) -> Collection[JobId]:
        """Return the cluster's names of the jobs that are submitted."""
        return self._by_job.keys()

    def of(self, job: JobId) -> SubmittedBatch | None:
        """Find the batch that a job runs."""
        return self._by_job.get(job)

    def batch(self, id_: BatchId) -> SubmittedBatch:
        """Find a batch by the scheduler's number."""
        return self._submitted[id_]

    def submit(self, submits: Sequence[Submit]) -> None:
        """Send batches to the cluster, in one go."""
        batches = list(self._prepare(submits))
        for submit, batch in zip(submits, batches, strict=True):
            service = submit.ids[0] if batch.is_service else None
            self._submitted[submit.batch] = SubmittedBatch(submit.batch, batch.name, None, service=service)
            self._ids[submit.batch] = submit.ids
        parcels = [Parcel(submit.batch, batch) for submit, batch in zip(submits, batches, strict=True)]
        beside = [parcel for parcel in parcels if self._cluster.submits_beside and not parcel.batch.resources.local]
        if now := [parcel for parcel in parcels if parcel not in beside]:
            for parcel, job in zip(now, self._cluster.submit([parcel.batch for parcel in now]), strict=True):
                self._arrived(parcel, job)
        self._submitting.put(beside)

    def send(self, now: float) -> list[Refused]:
        """Submit waiting batches without waiting for the result; return those that the cluster will never accept."""
        refused = []
        for answer in self._submitting.work(now, len(self._by_job)):
            if isinstance(answer, Sent):
                self._arrived(answer.parcel, answer.job)
            else:
                refused.append(answer)
        return refused

    @property
    def is_submitting(self) -> bool:
        """Whether the cluster is being given batches, and may know jobs that we do not know."""
        return self._submitting.is_under_way

    @property
    def limit(self) -> int | None:
        """How many jobs the system took at most, where it has refused more."""
        return self._submitting.limit

    def withdraw(self) -> list[SubmittedBatch]:
        """Cancel the jobs that have not begun; return the batches that were not even sent."""
        waiting = [
            submitted
            for submitted in self
            if submitted.job is not None and submitted.is_queued and not submitted.is_withdrawn
        ]
        for submitted in waiting:
            submitted.is_withdrawn = True
        if waiting:
            self._cluster.kill([submitted.job for submitted in waiting if submitted.job is not None])
        return [self._submitted[parcel.id] for parcel in self._submitting.withdraw()]

    def close(self) -> None:
        """Wait until the cluster knows all jobs that it was given."""
        self._submitting.close()

    def _arrived(self, parcel: Parcel, job: JobId) -> None:
        submitted = self._submitted[parcel.id]
        submitted.job = job
        self.add(submitted, self._ids.pop(parcel.id))
        if submitted.is_unwanted:
            self._cluster.kill([job])

    def _prepare(self, submits: Iterable[Submit]) -> Iterator[Batch]:
        """Build batches, and store the messages of several in one object, since stores may charge for each object."""
        group: list[Submit] = []
        messages: list[bytes] = []
        for submit in submits:
            group.append(submit)
            messages.append(self._messages.message(submit, is_watched=self._cluster.capabilities.direct))
            if len(group) == _MOST or sum(map(len, messages)) > _MUCH:
                yield from self._group(group, messages)
                group, messages = [], []
        if group:
            yield from self._group(group, messages)

    def _group(self, group: Sequence[Submit], messages: Sequence[bytes]) -> Iterator[Batch]:
        name = f"{self._name}-{group[0].batch}"
        direct = self._cluster.capabilities.direct
        if not direct:
            self._mailbox.put(name, messages, set().union(*map(self._messages.functions, group)))
        for place, (submit, message) in enumerate(zip(group, messages, strict=True)):
            self.newest = f"{name}-{place}"
            yield Batch(
                self.newest,
                self._messages.label(submit),
                self._messages.resources(submit),
                message if direct else b"",
                self._messages.is_service(submit),
            )

    def add(self, submitted: SubmittedBatch, ids: Sequence[TaskId]) -> None:
        """Add a batch that the cluster has, and record its job and tasks in the log."""
        assert submitted.job is not None
        self._submitted[submitted.id] = self._by_job[submitted.job] = submitted
        self._committer.add(encode(records.Started(tuple(ids), submitted.job, time.time())))

    def remove(self, submitted: SubmittedBatch) -> None:
        """Forget a batch that has ended."""
        del self._submitted[submitted.id]
        self._ids.pop(submitted.id, None)
        if submitted.job is not None:
            del self._by_job[submitted.job]

    def kill(self, id_: BatchId, service: TaskId | None) -> None:
        """End a batch; `service` is the service whose death is the reason, if that is it."""
        submitted = self._submitted[id_]
        submitted.dead_service = service
        if submitted.job is None:
            submitted.is_unwanted = True
        else:
            self._cluster.kill([submitted.job])

    def recall(self, id_: BatchId) -> None:
        """Ask a batch to return the tasks that it has not started."""
        if (job := self._submitted[id_].job) is not None:
            self._cluster.recall(job)

    def restrict(self, left: Callable[[BatchId], Sequence[TaskId]], void: set[TaskId]) -> None:
        """Ignore reports of submitted batches, except on tasks that they still have to run and on their descendants.

        Parameters
        ----------
        left : callable
            Gives the tasks that a batch still has to answer for.
        void : set of TaskId
            Tasks that were rolled back.
        """
        for submitted in self:
            submitted.owed = set(left(submitted.id)) - void
