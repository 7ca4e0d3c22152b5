"""Writes records to the log in groups, in a separate thread; and the leader's view of the store as one value."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toilfn.stores.log import Position

if TYPE_CHECKING:
    from toilfn.leader.intermediates import Intermediates
    from toilfn.leader.loading import Loader
    from toilfn.model.index import Index

__all__ = ["Committer", "Ledger"]

_LEAST_INTERVAL = 0.02
"""Seconds between two segments at first, so that a busy run makes at most fifty objects a second."""

_LONGEST = 2.0
"""The longest interval, in seconds: `status` shows, and the next leader knows, only what is written."""

_SLOWER = 1 / 2000
"""How much the interval grows with each segment, up to a second: a long run does not end with a million objects."""


class Committer:
    """A queue of records in front of a log.

    Records are written in the order in which they were added, many to a segment. A dependent may
    therefore start before its input's outcome is on disk: no outcome can ever be durable without
    the ones it came from.

    Parameters
    ----------
    append : callable
        Writes one segment, or raises.
    """

    def __init__(self, append: Callable[[Sequence[bytes]], Sequence[Position]]) -> None:
        self._append = append
        # All that follows changes under `_changed`. The thread never holds it while it writes or calls an action, so
        # the leader can always add. `_added - _written` counts the group that is being written as well.
        self._waiting: list[bytes] = []
        self._actions: list[Callable[[], None]] = []
        self._added = 0
        self._written = 0
        self._segments = 0
        self._syncing = False
        self._closed = False
        self._changed = threading.Condition()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="toilfn-committer", daemon=True)
        self._thread.start()

    @property
    def unwritten(self) -> int:
        """How many records are not in the store yet."""
        return self._added - self._written

    def add(self, record: bytes) -> None:
        """Queue a record."""
        with self._changed:
            self._waiting.append(record)
            self._added += 1
            self._changed.notify_all()

    def then(self, action: Callable[[], None]) -> None:
        """Call a function, in the committer's thread, when all records that were added so far are in the store."""
        with self._changed:
            self._actions.append(action)
            self._changed.notify_all()

    def sync(self) -> None:
        """Wait until all records that were added so far are in the store.

        Raises
        ------
        StoreError
            If it could not be written; nothing is written after that.
        """
        with self._changed:
            target, self._syncing = self._added, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= target or self.error is not None)
            self._syncing = False
        self.check()

    def check(self) -> None:
        """Raise the error that ended writing, if one did."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Write the waiting records and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            group, actions = work
            began = time.monotonic()
            try:
                if group:
                    self._append(group)
                for action in actions:
                    action()
            except BaseException as error:  # the leader raises it, in its own thread
                self._fail(error)
                return
            with self._changed:
                self._written += len(group)
                self._changed.notify_all()
            self._pause(time.monotonic() - began)

    def _next(self) -> tuple[list[bytes], list[Callable[[], None]]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._actions or self._closed)
            # Both are taken at once: an action belongs to the records that were added before it, never to later ones.
            work = self._waiting, self._actions
            self._waiting, self._actions = [], []
            return work if any(work) else None

    def _pause(self, took: float) -> None:
        """Let more records gather: writing takes about half of the time, unless a write takes very long."""
        with self._changed:
            self._segments += 1
            interval = min(1.0, _LEAST_INTERVAL + self._segments * _SLOWER)
            self._changed.wait_for(lambda: self._closed or self._syncing, min(max(interval - took, took), _LONGEST))

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The store as a leader sees it: its content, and the ways to add to it and to remove from it.

    Attributes
    ----------
    index : Index
        The content of the log.
    loader : Loader
        Brings tasks of the store to the scheduler.
    committer : Committer
        Writes records.
    remove : callable
        Deletes objects of the store by their names.
    intermediates : Intermediates, optional
        Knows which files are no longer needed; by default all are kept.
    """

    index: Index
    loader: Loader
    committer: Committer
    remove: Callable[[Iterable[str]], None]
    intermediates: Intermediates | None = None
