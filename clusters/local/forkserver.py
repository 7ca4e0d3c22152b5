"""Workers that start with what this process has loaded: forked, where a new Python would import it all again.

A fork is safe only in a process without threads, and a leader has some. So a *fork_server* is forked first, before any
thread is started; whenever a worker is wanted, it forks that, and tells how each one ended.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

__all__ = ["ForkServer"]

_LARGEST = 2**17
"""Bytes of a message."""


class ForkServer:
    """Forks workers for a `LocalCluster`: ``LocalCluster(launcher=ForkServer())``.

    Make it before this process starts threads, and close it after the cluster. It ends with this process, too.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ended: dict[int, int] = {}
        self._started: list[int] = []
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # it may be closed, full or None
                stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _leave(_serve, theirs)
        theirs.close()

    def __call__(self, fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> ForkedWorker:
        """Start a worker.

        Parameters
        ----------
        fds : tuple of int
            Descriptors for the worker's ``--fd``.
        output : int
            A descriptor for its output.
        environment : mapping
            All of its environment variables.

        Raises
        ------
        OSError
            If the fork server is gone.
        """
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        message = json.dumps([changed, [name for name in os.environ if name not in environment]])
        socket.send_fds(self._socket, [message.encode()], [output, *fds])
        while not self._started:
            self.listen(None)
        return ForkedWorker(self, self._started.pop())

    def listen(self, timeout: float | None) -> None:
        """Hear what the fork server has to say, waiting at most so many seconds for it.

        Raises
        ------
        OSError
            If it is gone.
        """
        while select.select([self._socket], [], [], timeout)[0]:
            said = self._socket.recv(_LARGEST)
            if not said:
                raise ConnectionResetError("the process that forks workers has died")
            kind, pid, status = json.loads(said)
            if kind == "started":
                self._started.append(pid)
            else:
                self._ended[pid] = status
            timeout = 0

    def status_of(self, pid: int) -> int | None:
        """Return a worker's exit status if it is known to have ended."""
        return self._ended.get(pid)

    def close(self) -> None:
        """End the fork server."""
        self._socket.close()
        os.waitpid(self._pid, 0)


class ForkedWorker:
    """A worker's process that a fork server has forked."""

    def __init__(self, fork_server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._nursery = fork_server

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        self._nursery.listen(0)
        return self._nursery.status_of(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self._nursery.status_of(self.pid)) is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise subprocess.TimeoutExpired("toilfn.worker", timeout or 0.0)
            self._nursery.listen(remaining)
        return status


def _leave(function: object, *args: object) -> NoReturn:
    """Be another program: call a function, and end without what the process would do at its end."""
    status = 1
    try:
        status = int(function(*args) or 0)  # type: ignore[operator]  # one of ours
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(control: socket.socket) -> None:
    """Fork workers until the other end of a socket closes."""
    os.setsid()  # a terminal's interrupts are for the leader
    gc.freeze()
    importlib.import_module("toilfn.worker.main")  # by its name, as all clusters start workers
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            wake.recv(_LARGEST)
            _report_ends(control)
        if control in ready and not _fork_one(control):
            return


def _fork_one(control: socket.socket) -> bool:
    """Do what the leader asks for; False when it is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(control, _LARGEST, 16)
    except ConnectionResetError:  # the leader was killed before it had read all that we sent
        return False
    if not message:
        return False
    changed, removed = json.loads(message)
    pid = os.fork()
    if pid == 0:
        control.close()
        _leave(_become_worker, fds, changed, removed)
    for fd in fds:
        os.close(fd)
    control.send(json.dumps(["started", pid, 0]).encode())
    return True


def _report_ends(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        try:
            control.send(json.dumps(["ended", pid, os.waitstatus_to_exitcode(status)]).encode())
        except OSError:  # the leader is gone, and so shall we be
            return


def _become_worker(fds: list[int], changed: Mapping[str, str], removed: list[str]) -> int:
    """Become a worker."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output, *rest = fds
    nothing = os.open(os.devnull, os.O_RDONLY)
    for own, fd in ((0, nothing), (1, output), (2, output)):
        os.dup2(fd, own)
    for fd in (nothing, output):
        os.close(fd)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True, write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True, write_through=True)
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(changed)
    random.seed()
    status: int = importlib.import_module("toilfn.worker.main").main(["--fd", *map(str, rest)])
    return status
