"""Collect a worker's messages to its leader for a moment, and send them together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from toilfn import protocol
from toilfn.ids import TaskId
from toilfn.model.records import BlobRef
from toilfn.protocol import Done, Log, Message, Records, Returned, Running, Started, Warnings

__all__ = ["Answers"]

_MUCH = 1 << 20


class Answers:
    """Sends messages in the order in which they are given; records wait for `flush`, or for more than a mebibyte.

    Two threads use it: one runs tasks, the other one listens to the leader.

    Parameters
    ----------
    send : callable
        Carries one message to the leader.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._records: list[bytes] = []
        self._tail_calls: list[TaskId] = []
        self._size = 0
        self._has_announced = False
        self._warnings: deque[tuple[str, str]] = deque()

    def warn(self, name: str, text: str) -> None:
        """Keep a warning of a running task of this name for the next `flush`.

        It takes no lock: a process that the task forks while the other thread sends would wait for that lock forever.
        """
        self._warnings.append((name, text))

    def add(self, record: bytes, tail_call: TaskId | None = None) -> None:
        """Keep the record of an attempt, and the task it created that this worker has started on its own."""
        with self._lock:
            self._records.append(record)
            if tail_call is not None:
                self._tail_calls.append(tail_call)
            self._size += len(record)
            if self._size > _MUCH:
                self.flush()

    def flush(self) -> None:
        """Send the records and the warnings that wait."""
        with self._lock:
            if warnings := [self._warnings.popleft() for _ in range(len(self._warnings))]:
                self._say(Warnings(warnings))
            if self._records:
                self._say(Records(self._records, self._tail_calls))
                self._records, self._tail_calls, self._size = [], [], 0

    def running(self, task: TaskId, start: float) -> None:
        """Report that a task has been running since `start`, in seconds since the epoch."""
        with self._lock:
            self.flush()
            self._has_announced = True
            self._say(Running(task, start))

    def begin(self) -> None:
        """Note that the next task begins; if the leader knows about the previous task, report its result first.

        Otherwise it would charge the previous task if the next one ends this process at once.
        """
        if self._has_announced:
            with self._lock:
                self._has_announced = False
                self.flush()

    def log(self, task: TaskId, take: Callable[[], bytes]) -> None:
        """Send the output of a running task; the leader uses it if the task's result never arrives."""
        with self._lock:
            if text := take():
                self.flush()
                self._say(Log(task, text))

    def started(self, task: TaskId, value: bytes | BlobRef) -> None:
        """Report that a service has started, and its value."""
        with self._lock:
            self.flush()
            self._say(Started(task, value))

    def returned(self, take: Callable[[], Iterable[TaskId]]) -> None:
        """Return tasks; they are taken when no other message can be sent meanwhile."""
        with self._lock:
            tasks = list(take())
            self.flush()
            self._say(Returned(tasks))

    def done(self) -> None:
        """Report that the batch is over."""
        with self._lock:
            self.flush()
            self._say(Done())

    def finish(self) -> None:
        """Report that the batch is over, with the records that wait, in one message: each may cost money."""
        with self._lock:
            if self._warnings:
                self.flush()
            self._say(Done(self._records, self._tail_calls))
            self._records, self._tail_calls, self._size = [], [], 0

    def _say(self, message: Message) -> None:
        self._send(protocol.encode(message))
