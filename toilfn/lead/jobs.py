"""The batches that the cluster has."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from toilfn import records
from toilfn.clusters.base import Batch, Cluster, JobId
from toilfn.events import BatchId, Submit, TaskId
from toilfn.lead.committer import Committer
from toilfn.lead.mailbox import Answers
from toilfn.lead.orders import Orders
from toilfn.records import encode

__all__ = ["Jobs", "Out"]

_MOST, _MUCH = 16, 256 * 1024
"""How many messages are kept together at most, and how many bytes are enough: each worker reads all of them."""


@dataclass(slots=True)
class Out:
    """A batch that the cluster has."""

    id: BatchId
    name: str
    job: JobId
    running: TaskId | None = None
    """The task that its worker has been at for a while."""
    service: TaskId | None = None
    """The service that it runs."""
    dead_service: TaskId | None = None
    """The service whose death is the reason why it was killed."""
    kept: TaskId | None = None
    """The newest task that its worker went on with by itself."""
    is_queued: bool = False
    """Whether the cluster says that it waits in its queue."""
    is_withdrawn: bool = False
    """Whether it was cancelled while it waited there, since nothing more is to be started."""
    owed: set[TaskId] | None = None
    """The tasks that it may still speak of, after a roll-back; None: any."""


class Jobs:
    """Sends batches to the cluster, and knows which are out.

    Parameters
    ----------
    cluster : Cluster
        Opened.
    committer : Committer
    answers : Answers
        For a cluster that is not direct.
    orders : Orders
    name : str
        What batches' names begin with: unique to this leader.

    Attributes
    ----------
    newest : str
        The name of the batch that was sent last.
    """

    def __init__(self, cluster: Cluster, committer: Committer, answers: Answers, orders: Orders, name: str) -> None:
        self._cluster = cluster
        self._committer = committer
        self._answers = answers
        self._orders = orders
        self._name = name
        self._outs: dict[BatchId, Out] = {}
        self._by_job: dict[JobId, Out] = {}
        self.newest = f"{name}-0"

    def __bool__(self) -> bool:
        return bool(self._outs)

    def __iter__(self) -> Iterator[Out]:
        return iter(self._outs.values())

    def names(self) -> Collection[JobId]:
        """Give the cluster's names of the jobs that are out."""
        return self._by_job.keys()

    def of(self, job: JobId) -> Out | None:
        """Find the batch that a job runs."""
        return self._by_job.get(job)

    def batch(self, id_: BatchId) -> Out:
        """Find a batch by the scheduler's number."""
        return self._outs[id_]

    def submit(self, submits: Sequence[Submit]) -> None:
        """Send batches to the cluster, in one go."""
        batches = list(self._prepare(submits))
        jobs = self._cluster.submit(batches)
        for submit, batch, job in zip(submits, batches, jobs, strict=True):
            service = submit.ids[0] if batch.is_service else None
            self.add(Out(submit.batch, batch.name, job, service=service), submit.ids)

    def _prepare(self, submits: Iterable[Submit]) -> Iterator[Batch]:
        """Make batches, and keep the messages of a few together: each object that is written may cost money."""
        group: list[Submit] = []
        messages: list[bytes] = []
        for submit in submits:
            group.append(submit)
            messages.append(self._orders.message(submit, is_watched=self._cluster.capabilities.direct))
            if len(group) == _MOST or sum(map(len, messages)) > _MUCH:
                yield from self._group(group, messages)
                group, messages = [], []
        if group:
            yield from self._group(group, messages)

    def _group(self, group: Sequence[Submit], messages: Sequence[bytes]) -> Iterator[Batch]:
        name = f"{self._name}-{group[0].batch}"
        direct = self._cluster.capabilities.direct
        if not direct:
            self._answers.put(name, messages, set().union(*map(self._orders.functions, group)))
        for place, (submit, message) in enumerate(zip(group, messages, strict=True)):
            self.newest = f"{name}-{place}"
            yield Batch(
                self.newest,
                self._orders.label(submit),
                self._orders.resources(submit),
                message if direct else b"",
                self._orders.is_service(submit),
            )

    def add(self, out: Out, ids: Sequence[TaskId]) -> None:
        """Take in a batch that the cluster has, and write down which tasks it is at."""
        self._outs[out.id] = self._by_job[out.job] = out
        self._committer.add(encode(records.Started(tuple(ids), out.job, time.time())))

    def remove(self, out: Out) -> None:
        """Forget a batch that has ended."""
        del self._outs[out.id], self._by_job[out.job]

    def kill(self, id_: BatchId, service: TaskId | None) -> None:
        """End a batch; `service` is the service whose death is the reason, if that is it."""
        self._outs[id_].dead_service = service
        self._cluster.kill([self._outs[id_].job])

    def recall(self, id_: BatchId) -> None:
        """Ask a batch to give back what it has not started."""
        self._cluster.recall(self._outs[id_].job)

    def restrict(self, left: Callable[[BatchId], Sequence[TaskId]], void: set[TaskId]) -> None:
        """Have the batches that are out speak only of what they still have to do, and of what that leads to.

        Parameters
        ----------
        left : callable
            Gives the tasks that a batch still has to answer for.
        void : set of TaskId
            Tasks that were rolled back.
        """
        for out in self:
            out.owed = set(left(out.id)) - void
