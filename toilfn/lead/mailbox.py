"""Messages between leader and workers that go through the store, for clusters that do not carry them."""

from __future__ import annotations

from collections.abc import Sequence

from toilfn.events import TaskId
from toilfn.lead import messages
from toilfn.lead.latecomers import Latecomers
from toilfn.records import Task, decode
from toilfn.stores import MissingObjectError, Store
from toilfn.work.services import stop_flag

__all__ = ["Answers", "StoreAnswers"]


class Answers:
    """Where a cluster that is not direct leaves messages: none for a direct one.

    Attributes
    ----------
    late : Latecomers or None
        Puts off the ends of jobs whose answers are not all there.
    """

    late: Latecomers | None = None

    def put(self, name: str, message: bytes) -> None:
        """Keep a batch's message for its worker."""

    def left(self) -> dict[str, int]:
        """Count the answers of each batch that earlier leaders have not read."""
        return {}

    def tasks(self, name: str) -> tuple[TaskId, ...]:
        """Give the tasks of a batch, from its message."""
        return ()

    def so_far(self, name: str, start: int = 0) -> Sequence[bytes]:
        """Read what a batch has answered, from the `start`-th answer on."""
        return ()

    def stop(self, name: str) -> None:
        """Tell the service of a batch to stop."""

    def forget(self, name: str, count: int) -> None:
        """Delete a batch's message and its answers: what they say is durable."""


class StoreAnswers(Answers):
    """Batches and their answers in a store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.late = Latecomers(store.url)

    def put(self, name: str, message: bytes) -> None:
        """Keep a batch's message for its worker."""
        self._store.put_batch(name, message)

    def left(self) -> dict[str, int]:
        """Count the answers of each batch that earlier leaders have not read."""
        return self._store.list_answers()

    def tasks(self, name: str) -> tuple[TaskId, ...]:
        """Give the tasks of a batch, from its message; none if that is gone."""
        if not name:
            return ()
        try:
            _, (tasks, *_) = messages.read(self._store.get_batch(name))
        except MissingObjectError:
            return ()
        return tuple(record.id for record in (decode(data) for data, *_ in tasks) if isinstance(record, Task))

    def so_far(self, name: str, start: int = 0) -> Sequence[bytes]:
        """Read what a batch has answered, from the `start`-th answer on."""
        return self._store.get_answers(name, start)

    def stop(self, name: str) -> None:
        """Put up the flag that a batch's service looks for."""
        self._store.set_flag(stop_flag(name))

    def forget(self, name: str, count: int) -> None:
        """Delete a batch, its answers and its flag."""
        self._store.clear_flag(stop_flag(name))
        self._store.delete_batch(name, count)
