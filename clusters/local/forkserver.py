"""Start workers by forking, which is faster than starting a Python interpreter for each.

A forked worker starts with all modules that this process has loaded. Forking is safe only in a process without threads,
and a leader has threads. So a *fork server* is forked first, before any thread is started. It forks each worker on
request, and reports how each worker ended.
"""

from __future__ import annotations

import errno
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

__all__ = ["ForkServer", "fork_server"]

_LARGEST = 2**17
"""Maximum size of a message in bytes."""


def fork_server() -> ForkServer | None:
    """Start a fork server; return None on a system without SOCK_SEQPACKET sockets, such as macOS."""
    try:
        return ForkServer()
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EPROTOTYPE):
            return None
        raise


class ForkServer:
    """Forks workers for a `LocalCluster`: ``LocalCluster(launcher=ForkServer())``.

    Create it before this process starts threads, and close it after the cluster. It also ends with this process.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ended: dict[int, int] = {}
        self._started: list[int] = []
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # the stream may be closed, full or None
                stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _run_and_exit(_serve, theirs)
        theirs.close()

    def __call__(self, fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> ForkedWorker:
        """Start a worker.

        Parameters
        ----------
        fds : tuple of int
            File descriptors for the worker's ``--fd``.
        output : int
            A file descriptor for the worker's output.
        environment : mapping
            All environment variables of the worker.

        Raises
        ------
        OSError
            If the fork server has died.
        """
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        message = json.dumps([changed, [name for name in os.environ if name not in environment]])
        socket.send_fds(self._socket, [message.encode()], [output, *fds])
        while not self._started:
            self.listen(None)
        return ForkedWorker(self, self._started.pop())

    def listen(self, timeout: float | None) -> None:
        """Read the messages of the fork server, waiting at most `timeout` seconds for the first one.

        Raises
        ------
        OSError
            If the fork server has died.
        """
        while select.select([self._socket], [], [], timeout)[0]:
            said = self._socket.recv(_LARGEST)
            if not said:
                raise ConnectionResetError("the fork server has died")
            kind, pid, status = json.loads(said)
            if kind == "started":
                self._started.append(pid)
            else:
                self._ended[pid] = status
            timeout = 0

    def status_of(self, pid: int) -> int | None:
        """Return the exit status of a worker; None if it is not known to have ended."""
        return self._ended.get(pid)

    def close(self) -> None:
        """End the fork server."""
        self._socket.close()
        os.waitpid(self._pid, 0)


class ForkedWorker:
    """A worker process that was forked by a fork server."""

    def __init__(self, fork_server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = fork_server

    def poll(self) -> int | None:
        """Return the worker's exit status, or None while it runs."""
        self._server.listen(0)
        return self._server.status_of(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the worker ends, and return its exit status; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self._server.status_of(self.pid)) is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise subprocess.TimeoutExpired("toilfn.worker", timeout or 0.0)
            self._server.listen(remaining)
        return status


def _run_and_exit(function: object, *args: object) -> NoReturn:
    """Call a function in a forked process, and exit without the parent's exit handlers."""
    status = 1
    try:
        status = int(function(*args) or 0)  # type: ignore[operator]  # `_serve` or `_become_worker`
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(control: socket.socket) -> None:
    """Fork workers until the other end of the socket closes."""
    os.setsid()  # only the leader handles Ctrl-C
    gc.freeze()  # collections in workers would write to the pages that they share with this process, and copy them
    importlib.import_module("toilfn.worker.main")  # by name, since clusters must not import the core
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
    """Fork a worker at the leader's request; return False if the leader is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(control, _LARGEST, 16)
    except ConnectionResetError:  # the leader was killed before it had read all messages
        return False
    if not message:
        return False
    changed, removed = json.loads(message)
    pid = os.fork()
    if pid == 0:
        control.close()
        _run_and_exit(_become_worker, fds, changed, removed)
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
        except OSError:  # the leader is gone; the caller notices that next
            return


def _become_worker(fds: list[int], changed: Mapping[str, str], removed: list[str]) -> int:
    """Set up the descriptors, signals and environment of a worker, and run it."""
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
