"""A warm worker process of a local cluster, as its leader sees it."""

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
from toilfn.clusters.local.output import open_output, read_output
from toilfn.clusters.local.slot import Doing, Slot
from toilfn.clusters.local.wire import Wire
from toilfn.protocol import READY, Open, encode

__all__ = ["Cleaner", "Launcher", "Process", "WorkerProcess", "launch"]

_MOST_KEPT = 512 * 2**20
"""How many bytes a worker may keep of earlier tasks, where its last task did not ask for more."""
_EXIT_TIME = 1.0
"""How long a process whose wire is closed may take to end, in seconds."""


class Process(Protocol):
    """The part of a process that is used here; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""


Launcher = Callable[[tuple[int, ...], int, Mapping[str, str]], Process]
"""Starts a worker in a session of its own, with the descriptors for ``--fd``, one for its output, an environment."""


def launch(fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> Process:
    """Start a worker with a new Python."""
    return subprocess.Popen(
        [*worker_command(sys.executable), "--fd", *map(str, fds)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        pass_fds=fds, env=dict(environment), start_new_session=True,
    )  # fmt: skip


class WorkerProcess:
    """Starts a worker, and carries messages once it is ready for them.

    The worker is the first of a session of its own, so that one signal reaches all that its tasks start. It dies
    with the leader: the leader's end of a pipe closes then, and the system sends the signal (`toilfn.worker`).

    Parameters
    ----------
    store : str
        The store's URL.
    environment : mapping
        All environment variables of the process.
    launcher : callable
        Starts it.
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
        # Tasks start elsewhere, so what is relative here must not stay so; and names need not be Unicode.
        self.send(encode(Open(store, path)))
        self._waiting = []

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor to wait on for messages."""
        return self._wire.fileno()

    def send(self, message: bytes) -> None:
        """Send a message when the worker is ready; a worker that is gone is noticed when it is listened to."""
        if self._waiting is not None:
            self._waiting.append(message)
            return
        with suppress(OSError):
            self._wire.send(message)

    def receive(self) -> list[bytes] | None:
        """Read what the worker has said; None when it has ended."""
        messages = self._wire.receive()
        if messages and messages[0] == READY:
            del messages[0]
            waiting, self._waiting = self._waiting or [], None
            for message in waiting:
                self.send(message)
        return messages

    def doing(self) -> Doing | None:
        """Return what it is at, or was when it died; None between tasks, or when that is changing just now."""
        first = self._slot.read()
        return first if first == self._slot.read() else None

    def has_kept_much(self) -> bool:
        """Return whether it has kept so much memory of earlier tasks that a new worker is better.

        What a worker had when a task began does not count as the task's, so something must bound it.
        """
        last = self._slot.last()
        if not last.task.strip(b"\0"):
            return False
        self._first_base = self._first_base or last.base
        return last.base - self._first_base > max(_MOST_KEPT, last.memory)

    def log(self) -> bytes:
        """Return what the running task has printed."""
        doing = self._slot.read()
        return read_output(self._output, doing.log if doing else 0)

    def is_dead(self) -> bool:
        """Return whether it has ended and all that it said has been received. Its end shows in the wire too, unless
        something that it has started holds the other end."""
        if self._process.poll() is None:
            return False
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return not poller.poll(0)

    def signal(self, number: int) -> None:
        """Send a signal to the worker and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def hang_up(self) -> None:
        """Let an idle worker end by itself."""
        self._wire.close()

    def end(self, patience: float = _EXIT_TIME) -> int:
        """Wait for its end, at most so many seconds, then make an end of it and of what it started.

        Returns
        -------
        int
            Its exit status; of a process that a signal killed, the negative number of the signal.
        """
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
        status = self._process.wait()
        self.signal(signal.SIGKILL)
        return status

    def close(self) -> None:
        """Free what the leader holds of a worker that has ended."""
        self._wire.close()
        self._slot.close()
        os.close(self._life)
        os.close(self._output)


class Cleaner:
    """Cleans up after workers that were killed, in a process of its own since deferred calls are the user's code."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._next: Mapping[str, str] | None = None

    def request(self, environment: Mapping[str, str]) -> None:
        """Clean up now, or once more when the clean-up that runs is over."""
        self._next = environment
        self._go_on()

    def finish(self, patience: float = 10.0) -> None:
        """Wait until all is clean, at most so many seconds for each clean-up."""
        while self._process is not None:
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._go_on()

    def _go_on(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        if self._next is not None:
            command = [*worker_command(sys.executable), "--sweep"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=dict(self._next))
            self._next = None
