"""Threads that communicate with the Kubernetes API: `Watcher` reports changes, and `Sender` creates jobs.

Both put events into a queue that the cluster reads in the leader's thread, so the leader need not wait for the API.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, NamedTuple

from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.kubernetes.connection import Connection, ExpiredError, QuotaError, Stream
from toilfn.clusters.kubernetes.verdict import QUOTA_TOO_SMALL, exceeds_whole_quota
from toilfn.errors import ClusterError

__all__ = ["Answer", "Changed", "Gone", "Listed", "News", "NotSent", "QuotaFull", "Sender", "Sent", "Watcher"]

_SHORTEST_PAUSE, _LONGEST_WATCHING_PAUSE, _LONGEST_SENDING_PAUSE = 0.1, 10.0, 30.0
_STREAM = 300
"""Seconds after which a stream is restarted, so that a lost connection stays undetected for at most this long."""
_STEADY = 5.0
"""Seconds after which an open stream counts as working even without any events."""


class Listed(NamedTuple):
    """The answer to a list request: all objects that existed then."""

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
"""An event; None has no content, and only wakes the receiver."""


class Watcher:
    """Watches the jobs or pods with some labels.

    A stream that ends is resumed where it ended. If the server no longer has the changes since then (410), or ended the
    stream with an error, all objects are listed again. The pause between attempts grows with each consecutive failure;
    `trouble` returns when the first of these failures was.

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
        """Return the time of the first consecutive failure (monotonic) and the last error; None if the watch works.

        The leader's thread calls this. It reads single attributes that the watcher's thread replaces, so it needs no
        lock.
        """
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
        self._pause = min(self._pause * 2, _LONGEST_WATCHING_PAUSE)


class Sent(NamedTuple):
    """The API has accepted a job."""

    name: str
    at: float
    """The monotonic time of its answer."""


class NotSent(NamedTuple):
    """The API has refused a job permanently, or the job was withdrawn."""

    name: str
    why: str
    is_doubtful: bool = False
    """Whether the API may nevertheless have accepted the job, because an answer was lost."""


class QuotaFull(NamedTuple):
    """The namespace's quota has no room for a job at present."""

    why: str


Answer = Sent | NotSent | QuotaFull


class Sender:
    """Sends jobs to the API one after another, so that the leader does not have to wait.

    Each queued job eventually results in `Sent` or `NotSent`. A job keeps its name, so that one whose answer was lost
    is not created twice.

    Parameters
    ----------
    connection : Connection
    news : queue
        The queue for the results.
    pause : float
        Seconds after which a refused job is sent again; longer while the API does not answer.
    """

    def __init__(self, connection: Connection, news: queue.SimpleQueue[Any], pause: float) -> None:
        self._connection, self._news = connection, news
        self._pause = self._next_pause = max(pause, _SHORTEST_PAUSE)
        self._waiting: dict[str, dict[str, Any]] = {}
        self._doubtful: set[str] = set()
        self._current = ""
        """The job that is being sent."""
        self._trouble: tuple[float, ClusterError] | None = None
        self._changed = threading.Condition()
        """Guards `_waiting`, `_current` and `_is_stopped`. It is not held during a request, so `put` never waits."""
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="toilfn-sender", daemon=True)
        self._thread.start()

    def put(self, name: str, manifest: dict[str, Any]) -> None:
        """Send a job as soon as possible."""
        with self._changed:
            self._waiting[name] = manifest
            self._changed.notify()

    def withdraw(self, name: str) -> None:
        """Withdraw a job. The result is `NotSent`, or `Sent` if it is too late."""
        with self._changed:
            if self._waiting.pop(name, None) is not None and name != self._current:
                self._news.put(NotSent(name, "killed", name in self._doubtful))

    def trouble(self) -> tuple[float, ClusterError] | None:
        """Return the time (monotonic) and the text of the first error since the last success; None if there is none."""
        return self._trouble

    def stop(self) -> None:
        """End the thread after the current request; queued jobs are not sent."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._choose():
            is_taken = self._send(self._current)
            with self._changed:
                self._current = ""
                if not is_taken and not self._is_stopped:
                    self._changed.wait_for(lambda: self._is_stopped or not self._waiting, self._next_pause)

    def _choose(self) -> bool:
        """Wait for a job to send; return whether there is one."""
        with self._changed:
            if not self._waiting:
                self._trouble = None
            self._changed.wait_for(lambda: self._is_stopped or self._waiting)
            if not self._is_stopped:
                self._current = next(iter(self._waiting))
            return not self._is_stopped

    def _send(self, name: str) -> bool:
        """Send a job; return whether its result is known."""
        with self._changed:
            manifest = self._waiting.get(name)
        if manifest is None:  # withdrawn after it was chosen
            self._news.put(NotSent(name, "killed", name in self._doubtful))
            return True
        try:
            self._connection.create_job(manifest)
        except UnavailableError as error:
            self._doubtful.add(name)
            self._trouble = self._trouble or (time.monotonic(), error)
            self._next_pause = min(2 * self._next_pause, max(self._pause, _LONGEST_SENDING_PAUSE))
            return self._is_settled(name)
        except QuotaError as error:
            self._trouble, self._next_pause = None, self._pause
            if not exceeds_whole_quota(str(error)):
                self._news.put(QuotaFull(str(error)))
                return self._is_settled(name)
            answer: Sent | NotSent = NotSent(name, f"{error}; {QUOTA_TOO_SMALL}")
        except Exception as error:  # whatever the error, it must be reported, or the job's batches would wait forever
            answer = NotSent(name, str(error) or type(error).__name__)
        else:
            answer = Sent(name, time.monotonic())
        self._trouble, self._next_pause = None, self._pause
        self._doubtful.discard(name)
        with self._changed:
            self._waiting.pop(name, None)
        self._news.put(answer)
        return True

    def _is_settled(self, name: str) -> bool:
        """Return whether a job without a final answer was withdrawn during the request; if so, report that."""
        with self._changed:
            if name in self._waiting:
                return False
        self._news.put(NotSent(name, "killed", name in self._doubtful))
        return True
