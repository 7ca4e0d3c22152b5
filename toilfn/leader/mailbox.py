"""Messages between leader and workers that go through the store, for clusters that do not carry them.

`ServiceMessages` are about services that start and stop, `OutputMessages` about the output and the warnings of tasks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from toilfn import protocol
from toilfn.clusters.base import Cluster, JobId, Update
from toilfn.graph.serialize import dumps
from toilfn.ids import Cause, TaskId
from toilfn.model import records
from toilfn.model.records import BlobRef, TaskRecord, decode
from toilfn.protocol import STOP, Log, Started, Warnings, is_done
from toilfn.stores import MissingObjectError, Store, is_local
from toilfn.worker.passed import WRONG_VERSIONS
from toilfn.worker.payloads import BlobCache
from toilfn.worker.services import stop_flag

if TYPE_CHECKING:
    from toilfn.leader.jobs import SubmittedBatch

__all__ = ["LateAnswers", "LostJobAnswers", "Mailbox", "OutputMessages", "ServiceMessages", "StoreMailbox", "never_ran"]

_LATE = 60.0
"""Seconds within which answers must be seen: NFS may know a directory's old state for so long (acdirmax, nfs(5))."""

_LOOK = 0.5
"""Seconds between two looks."""

_LOOK_AGAIN = 10.0
"""Seconds between two looks for answers from jobs that were lost."""


class LateAnswers:
    """Delays the ends of successful jobs until all their answers are there.

    Parameters
    ----------
    store : str
        The store's URL.
    limit : float
        Seconds after which a successful job without an answer counts as lost.
    """

    def __init__(self, store: str, limit: float = _LATE) -> None:
        self._store = store
        self._limit = limit
        self._since: dict[JobId, float] = {}
        self._waiting: dict[JobId, Update] = {}
        self._looked = 0.0

    def is_late(self, update: Update, answers: Sequence[bytes]) -> bool:
        """Return whether a job's end has to wait for its answers; `due` then returns it again."""
        if update.cause is not None or is_done(answers):
            self._since.pop(update.job, None)
            return False
        self._since.setdefault(update.job, time.monotonic())
        self._waiting[update.job] = update
        return True

    def due(self) -> list[Update]:
        """Return the ends to look at again; jobs whose time is up count as lost."""
        now = time.monotonic()
        if not self._waiting or now - self._looked < _LOOK:
            return []
        self._looked = now
        updates, self._waiting = list(self._waiting.values()), {}
        return [self._lost(update) if now - self._since[update.job] > self._limit else update for update in updates]

    def _lost(self, update: Update) -> Update:
        detail = f"the job succeeded, but its results were not in the store after {self._limit:g} s{self._hint()}"
        return replace(update, cause=Cause.LOST, detail=detail)

    def explained(self, update: Update, answers: Sequence[bytes]) -> Update:
        """Add a likely reason to the failure of a job that sent no answers."""
        if answers or update.cause is not Cause.ERROR:
            return update
        return replace(update, detail=f"{update.detail}{_missing_package(update.detail) or self._hint(update.detail)}")

    def _hint(self, said: str = "") -> str:
        """Return a hint that the node may not see the store, unless the worker has reported what is wrong."""
        if not is_local(self._store) or "Traceback" in said or WRONG_VERSIONS in said:
            return ""
        return f"; if its node cannot see the directory {self._store}, use a store that the leader and the nodes share"


def _missing_package(said: str) -> str:
    """Return a hint if a worker has not started because a package is missing."""
    found = re.search(r"No module named '?([\w.]+)", said)
    if found is None:
        return ""
    from toilfn import __version__

    name = found[1].partition(".")[0]
    wanted = f"toilfn {__version__}" if name == "toilfn" else f"the package {name}"
    return f". The Python of the job lacks {wanted}: install it there, or name another interpreter (python=...)"


class LostJobAnswers:
    """Batches whose jobs were lost: a worker that could not be found may still have done its work.

    Parameters
    ----------
    read : callable
        Reads the answers of a batch, from the n-th on.
    """

    def __init__(self, read: Callable[[str, int], Sequence[bytes]]) -> None:
        self._read = read
        self._heard: dict[str, int] = {}
        self._next = 0.0

    def add(self, name: str, heard: int) -> None:
        """Listen to a batch from now on; its first `heard` answers are known."""
        self._heard[name] = heard

    def news(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Look periodically for further answers."""
        if not self._heard or now < self._next:
            return
        self._next = now + _LOOK_AGAIN
        for name, heard in list(self._heard.items()):
            answers = self._read(name, heard)
            self._heard[name] = heard + len(answers)
            yield from ((name, answer) for answer in answers)

    def drop(self) -> dict[str, int]:
        """Stop listening; return how many answers of each batch were heard."""
        heard, self._heard = self._heard, {}
        return heard


_SMALL = 64 * 1024
"""The largest blob that goes with messages, in bytes."""

_TOGETHER = 400
"""How many batches are deleted together. If a leader dies before it deletes them, the next one reads them in vain."""


class Mailbox:
    """The messages of a cluster that is not direct; this base class, for a direct one, has none.

    Attributes
    ----------
    late : LateAnswers or None
        Puts off the ends of jobs whose answers are not all there.
    is_near : bool
        Whether the messages are on this machine, or on a file system that it mounts.
    """

    late: LateAnswers | None = None
    is_near: bool = True

    def put(self, name: str, group: Sequence[bytes], functions: Iterable[BlobRef]) -> None:
        """Keep the messages of batches NAME-0, NAME-1, ... for their workers; `functions` are blobs of code."""

    def left(self) -> dict[str, int]:
        """Count the answers of each batch that earlier leaders have not read."""
        return {}

    def tasks(self, name: str) -> tuple[TaskId, ...]:
        """Return the tasks of a batch, from its message."""
        return ()

    def so_far(self, name: str, start: int = 0) -> Sequence[bytes]:
        """Read the answers of a batch, from the `start`-th on."""
        return ()

    def stop(self, name: str) -> None:
        """Ask the service of a batch to stop."""

    def forget(self, name: str, count: int) -> None:
        """Delete a batch's message and its answers, now or later: their content is durable."""

    def close(self) -> None:
        """Delete the rest."""


class StoreMailbox(Mailbox):
    """Batches and their answers in a store.

    Parameters
    ----------
    store : Store
    always : iterable of BlobRef
        The blobs that every worker reads.
    """

    def __init__(self, store: Store, always: Iterable[BlobRef] = ()) -> None:
        self._store = store
        self._always = tuple(always)
        self._blobs = BlobCache(store.get_blob)
        self._stopped: set[str] = set()
        self._over: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self.late = LateAnswers(store.url)
        self.is_near = is_local(store.url)

    def put(self, name: str, group: Sequence[bytes], functions: Iterable[BlobRef]) -> None:
        """Keep batches' messages, and with them the small blobs that each worker would have to ask for."""
        small = [ref for ref in (*self._always, *functions) if ref.size <= _SMALL]
        self._store.put_batches(name, group, {ref: self._blobs.get(ref) for ref in small})
        self._left[name] = len(group)

    def left(self) -> dict[str, int]:
        """Count the answers of each batch that earlier leaders have not read."""
        return self._store.list_answers()

    def tasks(self, name: str) -> tuple[TaskId, ...]:
        """Return the tasks of a batch, from its message; none if the message no longer exists."""
        if not name:
            return ()
        try:
            order = protocol.expect(protocol.Run, self._store.get_batch(name)[0])
        except MissingObjectError:
            return ()
        return tuple(
            record.id for record in (decode(data) for data, *_ in order.tasks) if isinstance(record, TaskRecord)
        )

    def so_far(self, name: str, start: int = 0) -> Sequence[bytes]:
        """Read the answers of a batch, from the `start`-th on."""
        found = []
        for message in self._store.answers(name, start):
            found.append(message)
            if protocol.is_done((message,)):  # no answer follows
                break
        return found

    def stop(self, name: str) -> None:
        """Create the flag that a batch's service looks for."""
        self._stopped.add(name)
        self._store.set_flag(stop_flag(name))

    def forget(self, name: str, count: int) -> None:
        """Delete a batch, its answers and its flag; many batches together, since object stores take 1,000 at once."""
        if name in self._stopped:
            self._stopped.discard(name)
            self._store.clear_flag(stop_flag(name))
        self._over[name] = count
        group = name.rpartition("-")[0]
        self._left[group] = self._left.get(group, 0) - 1
        if len(self._over) >= _TOGETHER:
            self._delete([group for group, left in self._left.items() if left == 0])

    def close(self) -> None:
        """Delete the rest, including groups of earlier leaders, whose sizes this leader does not know."""
        if self._over:
            self._delete([group for group, left in self._left.items() if left <= 0])

    def _delete(self, groups: Sequence[str]) -> None:
        self._store.delete_batches(groups, self._over)
        self._over = {}
        for group in groups:
            del self._left[group]


_LOOK_FOR_SERVICES = 1.0
"""Seconds between two looks at what services that start have put in the store."""


class ServiceMessages:
    """Talks to the workers of services.

    Parameters
    ----------
    cluster : Cluster
    mailbox : Mailbox
        For clusters that are not direct.
    """

    def __init__(self, cluster: Cluster, mailbox: Mailbox) -> None:
        self._cluster = cluster
        self._mailbox = mailbox
        self._stopped: set[str] = set()
        self._heard: set[str] = set()
        self._looked = 0.0

    def stop(self, batch: SubmittedBatch) -> None:
        """Ask the service of a batch to stop, once."""
        if batch.name in self._stopped:
            return
        self._stopped.add(batch.name)
        if self._cluster.capabilities.direct and batch.job is not None:
            self._cluster.tell(batch.job, STOP)
        else:
            self._mailbox.stop(batch.name)

    def stop_the_last(self, batches: Iterable[SubmittedBatch]) -> None:
        """Stop all services when nothing else runs."""
        if all(batch.service for batch in batches):
            for batch in batches:
                self.stop(batch)

    def news(self, batches: Iterable[SubmittedBatch]) -> Iterator[tuple[SubmittedBatch, bytes]]:
        """Look periodically for services that have started, if their workers cannot send messages."""
        if self._cluster.capabilities.direct or time.monotonic() - self._looked < _LOOK_FOR_SERVICES:
            return
        self._looked = time.monotonic()
        for batch in [batch for batch in batches if batch.service and batch.name not in self._heard]:
            for message in self._mailbox.so_far(batch.name):
                if isinstance(protocol.decode(message), Started):
                    self._heard.add(batch.name)
                    yield batch, message

    def deadlock(self, names: Sequence[str]) -> str:
        """Return the message that running services leave no room for a task."""
        return (
            f"the cluster can never run it at the same time as its services: {', '.join(names)}. "
            "Reduce their requests, raise max_service_tasks, or use a larger cluster"
        )


def never_ran(id_: TaskId) -> records.Outcome:
    """Build the outcome of a service that never ran, because its users are complete without it."""
    return records.Outcome(id_, 0, dumps(None)[0], (), (), (), (), (), b"", records.Stats())


_LOOK_FOR_OUTPUT = 2.0
"""Seconds between two looks for output of tasks."""

_LOOK_FOR_WARNINGS, _LOOK_FOR_FAR_WARNINGS = 5.0, 60.0
"""The same where only warnings are wanted, in a store on this machine and in another one, where each look costs."""


class OutputMessages:
    """Reads the answers of batches that run, for messages about tasks' output.

    Parameters
    ----------
    mailbox : Mailbox
    is_wanted : bool
        Whether the output of tasks is shown, not only their warnings.
    """

    def __init__(self, mailbox: Mailbox, *, is_wanted: bool) -> None:
        self._mailbox = mailbox
        period = _LOOK_FOR_WARNINGS if mailbox.is_near else _LOOK_FOR_FAR_WARNINGS
        self._period = _LOOK_FOR_OUTPUT if is_wanted else period
        self._heard: dict[str, int] = {}
        self._looked = time.monotonic()

    def news(self, batches: Iterable[SubmittedBatch]) -> Iterator[tuple[SubmittedBatch, bytes]]:
        """Look periodically for new messages about output."""
        if time.monotonic() - self._looked < self._period:
            return
        self._looked = time.monotonic()
        counts = self._mailbox.left()
        for batch in list(batches):
            heard = self._heard.get(batch.name, 0)
            if counts.get(batch.name, 0) > heard:
                new = self._mailbox.so_far(batch.name, heard)
                self._heard[batch.name] = heard + len(new)
                yield from ((batch, message) for message in new if _is_output(message))

    def rest(self, name: str, answers: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the answers of a batch that has ended, except those that `news` has yielded."""
        heard = self._heard.pop(name, 0)
        return (message for n, message in enumerate(answers) if n >= heard or not _is_output(message))


def _is_output(message: bytes) -> bool:
    return isinstance(protocol.decode(message), Log | Warnings)
