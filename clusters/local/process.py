"""The leader's side of a reusable worker process of a local cluster."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from toilfn.clusters.base import worker_command
from toilfn.clusters.common.output import open_output, read_output
from toilfn.clusters.local.channel import Doing, Slot, Wire
from toilfn.protocol import READY, Open, encode

__all__ = ["Cleaner", "Launcher", "Process", "WorkerProcess", "launch"]

_MOST_KEPT = 512 * 2**20
"""Bytes of memory that a worker may retain from earlier tasks, or as much as its last task requested, if more."""
_EXIT_TIME = 1.0
"""Seconds that a worker may take to end after its connection was closed."""


class Process(Protocol):
    """The part of the interface of `subprocess.Popen` that this module uses."""

    @property
    def pid(self) -> int:
        """The process id."""

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return its exit status; raises `subprocess.TimeoutExpired`."""


Launcher = Callable[[tuple[int, ...], int, Mapping[str, str]], Process]
"""Starts a worker in a new session. Arguments: descriptors for ``--fd``, a descriptor for output, the environment."""


def launch(fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> Process:
    """Start a worker in a new Python interpreter."""
    return subprocess.Popen(
        [*worker_command(sys.executable), "--fd", *map(str, fds)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        pass_fds=fds, env=dict(environment), start_new_session=True,
    )  # fmt: skip


class WorkerProcess:
    """A worker process: starts it, and exchanges messages with it once it is ready.

    The worker leads a session of its own, so that one signal reaches all processes that its tasks start. It dies with
    the leader: the leader's end of a pipe closes then, and the kernel sends the worker a signal (`toilfn.worker`).

    Parameters
    ----------
    store : str
        The store's URL.
    environment : mapping
        All environment variables of the process.
    launcher : callable
        Starts the process.
    """

    def __init__(self, store: str, environment: Mapping[str, str], launcher: Launcher = launch) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        self._output = open_output()
        with tempfile.TemporaryFile() as page, theirs:
            self._slot = Slot(page.fileno())
            fds = (theirs.fileno(), life, page.fileno())
            try:
                self._process = launcher(fds, self._output, environment)
            finally:
                os.close(life)
        self._wire = Wire(ours)
        self._first_base = 0
        self._waiting: list[bytes] | None = None
        path = [os.path.abspath(entry) if os.path.exists(entry or ".") else entry for entry in sys.path]
        # Tasks run in other directories, so relative paths must become absolute; and paths need not be valid Unicode.
        self.send(encode(Open(store, path)))
        self._waiting = []

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the file descriptor to wait on for messages."""
        return self._wire.fileno()

    def send(self, message: bytes) -> None:
        """Send a message once the worker is ready. If the worker has died, `receive` notices that."""
        if self._waiting is not None:
            self._waiting.append(message)
            return
        with suppress(OSError):
            self._wire.send(message)

    def receive(self) -> list[bytes] | None:
        """Return the messages received from the worker; None if it has ended."""
        messages = self._wire.receive()
        if messages and messages[0] == READY:
            del messages[0]
            waiting, self._waiting = self._waiting or [], None
            for message in waiting:
                self.send(message)
        return messages

    def doing(self) -> Doing | None:
        """Return the worker's current task, or the one at its death; None between tasks, or while that is changing."""
        first = self._slot.read()
        return first if first == self._slot.read() else None

    def has_kept_much(self) -> bool:
        """Return whether the worker retains so much memory of earlier tasks that it should be replaced.

        Memory that a worker uses before a task starts is not charged to the task, so it must be limited here.
        """
        last = self._slot.last()
        if not last.task.strip(b"\0"):
            return False
        self._first_base = self._first_base or last.base
        return last.base - self._first_base > max(_MOST_KEPT, last.memory)

    def log(self) -> bytes:
        """Return the output of the current task."""
        doing = self._slot.read()
        return read_output(self._output, doing.log if doing else 0)

    def is_dead(self) -> bool:
        """Return whether the worker has ended and all its messages have been received. Normally the connection shows
        the end, too, unless a process started by the worker holds the other end."""
        if self._process.poll() is None:
            return False
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return not poller.poll(0)

    def signal(self, number: int) -> None:
        """Send a signal to the worker and all processes it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def hang_up(self) -> None:
        """Close the connection, so that an idle worker ends."""
        self._wire.close()

    def end(self, patience: float = _EXIT_TIME) -> int:
        """Wait at most `patience` seconds until the worker ends, then kill it and all processes it has started.

        Returns
        -------
        int
            The exit status, or the negative number of the signal that killed the worker.
        """
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
        status = self._process.wait()
        self.signal(signal.SIGKILL)
        return status

    def close(self) -> None:
        """Free the leader's resources for a worker that has ended."""
        self._wire.close()
        self._slot.close()
        os.close(self._life)
        os.close(self._output)


class Cleaner:
    """Cleans up after killed workers, in a separate process, since deferred functions are the user's code."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._next: Mapping[str, str] | None = None

    def request(self, environment: Mapping[str, str]) -> None:
        """Start a clean-up now, or, if one is running, another one after it."""
        self._next = environment
        self._start_next()

    def finish(self, patience: float = 10.0) -> None:
        """Wait until all requested clean-ups are done, at most `patience` seconds for each."""
        while self._process is not None:
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._start_next()

    def _start_next(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        if self._next is not None:
            command = [*worker_command(sys.executable), "--sweep"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(self._next))
            self._next = None
