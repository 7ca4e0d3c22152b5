"""A thread that sends jobs to the API in order, and sends those again that are temporarily refused."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, NamedTuple

from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.kubernetes import verdict
from toilfn.clusters.kubernetes.connection import Connection, QuotaError
from toilfn.errors import ClusterError

__all__ = ["Answer", "NoRoom", "NotSent", "Sender", "Sent"]

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0


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


class NoRoom(NamedTuple):
    """The namespace's quota has no room for a job at present."""

    why: str


Answer = Sent | NotSent | NoRoom


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
        """Return the first error since the last success, and its monotonic time."""
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
        if manifest is None:  # just withdrawn
            self._news.put(NotSent(name, "killed", name in self._doubtful))
            return True
        try:
            self._connection.create_job(manifest)
        except UnavailableError as error:
            self._doubtful.add(name)
            self._trouble = self._trouble or (time.monotonic(), error)
            self._next_pause = min(2 * self._next_pause, max(self._pause, _LONGEST_PAUSE))
            return self._is_settled(name)
        except QuotaError as error:
            self._trouble, self._next_pause = None, self._pause
            if not verdict.is_final(str(error)):
                self._news.put(NoRoom(str(error)))
                return self._is_settled(name)
            answer: Sent | NotSent = NotSent(name, f"{error}; {verdict.QUOTA_TOO_SMALL}")
        except Exception as error:  # any error must end the job's batches, or they would wait forever
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
        """Return whether a refused job has been withdrawn meanwhile."""
        with self._changed:
            if name in self._waiting:
                return False
        self._news.put(NotSent(name, "killed", name in self._doubtful))
        return True
