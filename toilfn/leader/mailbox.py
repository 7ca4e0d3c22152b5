"""Messages between leader and workers that go through the store, for clusters that do not carry them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toilfn import protocol
from toilfn.ids import TaskId
from toilfn.leader.latecomers import Latecomers
from toilfn.model.records import BlobRef, Task, decode
from toilfn.stores import MissingObjectError, Store, is_local
from toilfn.worker.payloads import BlobCache
from toilfn.worker.services import stop_flag

__all__ = ["Answers", "StoreAnswers"]

_SMALL = 64 * 1024
"""The largest blob that goes with messages, in bytes."""

_TOGETHER = 400
"""How many batches are deleted together. What is left by a leader that dies before, the next one reads in vain."""


class Answers:
    """Where a cluster that is not direct leaves messages: none for a direct one.

    Attributes
    ----------
    late : Latecomers or None
        Puts off the ends of jobs whose answers are not all there.
    is_near : bool
        Whether the messages are on this machine, or on a file system that it mounts.
    """

    late: Latecomers | None = None
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
        """Read what a batch has answered, from the `start`-th answer on."""
        return ()

    def stop(self, name: str) -> None:
        """Tell the service of a batch to stop."""

    def forget(self, name: str, count: int) -> None:
        """Delete a batch's message and its answers, sooner or later: what they say is durable."""

    def close(self) -> None:
        """Delete what is still to be deleted."""


class StoreAnswers(Answers):
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
        self.late = Latecomers(store.url)
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
        """Return the tasks of a batch, from its message; none if that is gone."""
        if not name:
            return ()
        try:
            order = protocol.expect(protocol.Run, self._store.get_batch(name)[0])
        except MissingObjectError:
            return ()
        return tuple(record.id for record in (decode(data) for data, *_ in order.tasks) if isinstance(record, Task))

    def so_far(self, name: str, start: int = 0) -> Sequence[bytes]:
        """Read what a batch has answered, from the `start`-th answer on."""
        found = []
        for message in self._store.answers(name, start):
            found.append(message)
            if protocol.is_done((message,)):  # the next one would be asked for in vain
                break
        return found

    def stop(self, name: str) -> None:
        """Put up the flag that a batch's service looks for."""
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
        """Delete what is still to be deleted; also groups of earlier leaders, who alone knew their sizes."""
        if self._over:
            self._delete([group for group, left in self._left.items() if left <= 0])

    def _delete(self, groups: Sequence[str]) -> None:
        self._store.delete_batches(groups, self._over)
        self._over = {}
        for group in groups:
            del self._left[group]
