"""A thread that watches jobs or pods for changes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any, NamedTuple

from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.kubernetes.connection import Connection, ExpiredError, Stream
from toilfn.errors import ClusterError

__all__ = ["Changed", "Gone", "Listed", "News", "Watcher"]

_log = logging.getLogger(__name__)
_STREAM = 300
"""Seconds after which a stream is restarted: an undetected loss of the connection lasts at most this long."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_STEADY = 5.0
"""Seconds after which an open stream counts as working even without any events."""


class Listed(NamedTuple):
    """All objects at some time."""

    kind: str
    items: list[dict[str, Any]]
    began: float
    """The monotonic time at which the list was requested."""


class Changed(NamedTuple):
    """A new or changed object."""

    kind: str
    item: dict[str, Any]


class Gone(NamedTuple):
    """A deleted object, in its last state."""

    kind: str
    item: dict[str, Any]


News = Listed | Changed | Gone | None
"""An event; None only wakes the receiver."""


class Watcher:
    """Watches the jobs or pods with some labels.

    A stream that ends is resumed where it ended. If the server no longer has the changes since then (410), or ended the
    stream with an error, everything is listed again. The pause grows with each consecutive failure; `trouble` returns
    since when nothing has worked.

    Parameters
    ----------
    connection : Connection
    kind : {"job", "pod"}
    selector : str
        A label selector.
    news : queue
        The queue for events, in order.
    """

    def __init__(self, connection: Connection, kind: str, selector: str, news: queue.SimpleQueue[News]) -> None:
        self._connection, self._kind, self._selector, self._news = connection, kind, selector, news
        self._version = ""
        self._stream: Stream | None = None
        self._trouble: tuple[float, ClusterError] | None = None
        self._opened = float("inf")
        """The monotonic time at which the current stream was opened."""
        self._pause = _SHORTEST_PAUSE
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"toilfn-{kind}s", daemon=True)
        self._thread.start()

    def trouble(self) -> tuple[float, ClusterError] | None:
        """Return the last error and the monotonic time since which nothing has worked; None if the watch works."""
        if time.monotonic() - self._opened > _STEADY:
            self._works()
        return self._trouble

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.end()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._once()
            except ClusterError as error:
                if isinstance(error, ExpiredError) or not isinstance(error, UnavailableError):
                    self._version = ""
                self._pause_after(error)
            finally:
                self._opened = float("inf")

    def _once(self) -> None:
        """List the objects if necessary, and follow one stream to its end."""
        if not self._version:
            began = time.monotonic()
            items, self._version = self._connection.list(self._kind, self._selector)
            self._news.put(Listed(self._kind, items, began))
        self._stream = self._connection.watch(self._kind, self._selector, self._version, _STREAM)
        opened = self._opened = time.monotonic()
        if self._stopped.is_set():  # `stop` may have been called before there was a stream to end
            self._stream.end()
        is_empty = True
        for event in self._stream:
            is_empty = False
            self._works()
            item = event["object"]
            self._version = item["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                self._news.put(Gone(self._kind, item))
            elif event["type"] != "BOOKMARK":
                self._news.put(Changed(self._kind, item))
        if is_empty and time.monotonic() - opened < _STEADY:
            raise UnavailableError(f"watch streams of {self._kind}s end immediately")
        self._works()

    def _works(self) -> None:
        self._trouble, self._pause = None, _SHORTEST_PAUSE

    def _pause_after(self, error: ClusterError) -> None:
        """Record an error, and pause."""
        if self._stopped.is_set():
            return
        if self._trouble is None:
            self._trouble = time.monotonic(), error
        else:
            self._trouble = self._trouble[0], error
        self._news.put(None)
        self._stopped.wait(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
