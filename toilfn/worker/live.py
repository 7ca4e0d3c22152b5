"""The output of running tasks, where it is requested, and their warnings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from toilfn.clusters.local.channel import AttemptPage, CurrentAttempt
from toilfn.errors import StoreError, ToilfnError
from toilfn.ids import TaskId
from toilfn.protocol import Log, encode
from toilfn.stores import Store, is_local
from toilfn.text import visible
from toilfn.worker.capture import Capture
from toilfn.worker.context import current

__all__ = ["Backup", "Live", "Tail", "Warnings", "follow_flag", "live_prefix"]

_LOOK, _FAR_LOOK = 1.0, 5.0
"""Seconds between two looks at whether a user follows, in a store on this machine and in another one."""


_MOST_WARNINGS = 20
"""Of one attempt."""
_LONGEST_WARNING = 1000
"""Characters."""


class Warnings(logging.Handler):
    """Passes what tasks log at the level WARNING or above on to the leader. The attempt's log has all of it.

    Parameters
    ----------
    send : callable
        Takes the task's name and the text.
    """

    def __init__(self, send: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        self._send = send
        self._attempt = ("", 0)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a message, unless the attempt has sent enough."""
        try:
            context = current()
            text = self.format(record)
        except ToilfnError:
            return  # no task runs
        except Exception:
            return  # the handler that writes the log has the same trouble, and says so there
        if self._attempt != (context.id, context.attempt):
            self._attempt, self._count = (context.id, context.attempt), 0
        self._count += 1
        if self._count <= _MOST_WARNINGS:
            whole = text if len(text) <= _LONGEST_WARNING else f"{text[:_LONGEST_WARNING]} ..."
            self._send(visible(context.name), visible(whole))


class Tail:
    """Returns the lines that the running attempt has printed since the last call.

    Parameters
    ----------
    page : AttemptPage
        Says what runs.
    output : Capture
    """

    def __init__(self, page: AttemptPage, output: Capture) -> None:
        self._page = page
        self._output = output
        self._attempt: tuple[TaskId, float] | None = None
        self._given = 0

    def lines(self, attempt: CurrentAttempt) -> bytes:
        """Return the new lines of an attempt; nothing if the attempt has finished in the meantime."""
        if self._attempt != (attempt.task, attempt.start):
            self._attempt, self._given = (attempt.task, attempt.start), 0
        lines = self._output.peek(attempt.log + self._given)
        if self._page.read() != attempt:
            return b""
        self._given += len(lines)
        return lines


_FIRST_BACKUP, _LAST_BACKUP = 10.0, 300.0
"""Seconds until the first backup of an attempt's output, and the longest time between two."""
_MOST_IN_BACKUP = 16 * 1024
"""Bytes."""


class Backup:
    """Sends the end of a long attempt's output periodically, in case its container is killed with all its files.

    The pauses grow, and quick attempts send nothing, since each message is an object in the store.

    Parameters
    ----------
    page : AttemptPage
        Says what runs.
    output : Capture
    """

    def __init__(self, page: AttemptPage, output: Capture) -> None:
        self._page = page
        self._output = output
        self._attempt: tuple[TaskId, float] | None = None
        self._next = self._pause = 0.0
        self._given = 0

    def lines(self, attempt: CurrentAttempt) -> bytes:
        """Return the end of the new output if a backup is due; nothing if the attempt has finished in the meantime."""
        if self._attempt != (attempt.task, attempt.start):
            self._attempt = (attempt.task, attempt.start)
            self._next, self._pause, self._given = attempt.began + _FIRST_BACKUP, _FIRST_BACKUP, attempt.log
        now = time.monotonic()
        if now < self._next:
            return b""
        self._pause = min(2 * self._pause, _LAST_BACKUP)
        self._next = now + self._pause
        lines, end = self._output.peek_end(self._given, _MOST_IN_BACKUP)
        if self._page.read() != attempt:
            return b""
        self._given = end
        return lines


class Live:
    """Writes the output of a running task to the store while a user follows that task.

    Parameters
    ----------
    store : Store
    tail : Tail
    """

    def __init__(self, store: Store, tail: Tail) -> None:
        self._store = store
        self._tail = tail
        self._period = _LOOK if is_local(store.url) else _FAR_LOOK
        self._looked = 0.0
        self._name = ""
        self._count = 0

    def show(self, attempt: CurrentAttempt) -> None:
        """Write new output to the store, if a user requests it. Output that the store refuses is in the task's log."""
        if time.monotonic() - self._looked < self._period:
            return
        self._looked = time.monotonic()
        with suppress(StoreError):
            if self._store.has_flag(follow_flag(attempt.task)) and (lines := self._tail.lines(attempt)):
                self._put(attempt, lines)

    def _put(self, attempt: CurrentAttempt, lines: bytes) -> None:
        name = f"{live_prefix(attempt.task)}{attempt.start * 1000:.0f}"
        if name != self._name:
            self._name, self._count = name, 0
        self._store.put_answers(name, self._count, encode(Log(attempt.task, lines)))
        self._count += 1


def follow_flag(task: TaskId) -> str:
    """Return the name of the flag in the store that requests the output of a running task."""
    return f"follow-{task.hex()}"


def live_prefix(task: TaskId) -> str:
    """Return the prefix of the names of the objects to which a task's attempts write their output."""
    return f"live-{task.hex()}-"
