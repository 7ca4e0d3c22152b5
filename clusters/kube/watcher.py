"""A thread that follows what happens to jobs or pods."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any, NamedTuple

from toilfn.clusters.commands import AwayError
from toilfn.clusters.kube.connection import Connection, ExpiredError, Stream
from toilfn.errors import ClusterError
from toilfn.units import format_duration

__all__ = ["Changed", "Gone", "Listed", "News", "Watcher"]

_log = logging.getLogger(__name__)
_STREAM = 300
"""Seconds after which a stream is begun anew: what an unnoticed break of the connection can cost."""
_LONGEST_PAUSE = 10.0


class Listed(NamedTuple):
    """All that there was at some time."""

    kind: str
    items: list[dict[str, Any]]
    began: float
    """The monotonic time at which the list was asked for."""


class Changed(NamedTuple):
    """A new or changed object."""

    kind: str
    item: dict[str, Any]


class Gone(NamedTuple):
    """An object that was deleted, as it last was."""

    kind: str
    item: dict[str, Any]


News = Listed | Changed | Gone | None
"""None is a reason to look up, and nothing more."""


class Watcher:
    """Follows jobs or pods with some labels, from now on.

    A stream that ends is resumed where it ended; when the server has forgotten what came since (410), all is listed
    anew. While the server does not answer, `check` says for how long.

    Parameters
    ----------
    connection : Connection
    kind : {"job", "pod"}
    selector : str
        Labels.
    news : queue
        Where news go, in order.
    """

    def __init__(self, connection: Connection, kind: str, selector: str, news: queue.SimpleQueue[News]) -> None:
        self._connection, self._kind, self._selector, self._news = connection, kind, selector, news
        self._version = ""
        self._stream: Stream | None = None
        self._trouble: tuple[float, str] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"toilfn-{kind}s", daemon=True)
        self._thread.start()

    def check(self, patience: float) -> None:
        """Find out whether the server has been away for too long.

        Raises
        ------
        ClusterError
            If it has not answered for `patience` seconds.
        """
        if self._trouble is not None and time.monotonic() - self._trouble[0] > patience:
            away = format_duration(time.monotonic() - self._trouble[0])
            raise ClusterError(f"{self._trouble[1]}\nNo answer for {away}. The jobs go on: resume the run later.")

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.end()
        self._thread.join()

    def _follow(self) -> None:
        pause = 0.1
        while not self._stopped.is_set():
            try:
                self._once()
                pause = 0.1
            except ExpiredError:
                self._version = ""
            except ClusterError as error:
                if self._stopped.is_set():
                    return
                pause = self._bear(error, pause)

    def _once(self) -> None:
        """List if need be, and follow one stream to its end."""
        if not self._version:
            began = time.monotonic()
            items, self._version = self._connection.list(self._kind, self._selector)
            self._news.put(Listed(self._kind, items, began))
        self._stream = self._connection.watch(self._kind, self._selector, self._version, _STREAM)
        self._trouble = None
        if self._stopped.is_set():  # perhaps before there was a stream to end
            self._stream.end()
        for event in self._stream:
            item = event["object"]
            self._version = item["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                self._news.put(Gone(self._kind, item))
            elif event["type"] != "BOOKMARK":
                self._news.put(Changed(self._kind, item))

    def _bear(self, error: ClusterError, pause: float) -> float:
        """Wait a while after an error; a stream that merely broke is none yet."""
        if self._trouble is None:
            self._trouble = time.monotonic(), str(error)
        elif not isinstance(error, AwayError):
            _log.warning("%s; asking again", error)
        self._news.put(None)
        self._stopped.wait(pause)
        return min(pause * 2, _LONGEST_PAUSE)
