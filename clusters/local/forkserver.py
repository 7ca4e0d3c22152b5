"""Start workers by forking, which is faster than starting a Python interpreter for each.

Forking is safe only in a process without threads, and a leader has threads. So a *fork server*, a process of its own,
forks each worker on request and reports how each worker ended. It is one of two kinds:

- A new interpreter, which has loaded only the worker's code. This is the default of a `LocalCluster`.
- A fork of this process, made before any thread is started. Its workers have all modules that this process has loaded:
  those of the runners of CWL and WDL.
"""

from __future__ import annotations

import errno
import gc
import importlib
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
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from toilfn.clusters.base import worker_command
from toilfn.stdio import flush, text_output

__all__ = ["ForkServer", "fork_server", "new_fork_server", "serve_forks"]

_LARGEST = 2**17
"""Maximum size of a message in bytes."""

_WORKER = "toilfn.worker.main"
"""The module of workers; it is imported by name, since clusters must not import the core."""


def fork_server() -> ForkServer | None:
    """Fork a fork server; return None on a system without SOCK_SEQPACKET sockets, such as macOS."""
    return _where_possible(ForkServer.of_this_process)


def new_fork_server(environment: Mapping[str, str]) -> ForkServer | None:
    """Start a fork server with this environment; return None on a system without SOCK_SEQPACKET sockets."""
    return _where_possible(lambda: ForkServer.of_new_interpreter(environment))


def _where_possible(start: Callable[[], ForkServer]) -> ForkServer | None:
    try:
        return start()
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EPROTOTYPE):
            return None
        raise


class ForkServer:
    """Forks workers for a `LocalCluster`: ``LocalCluster(launcher=ForkServer.of_this_process())``.

    Close it after the cluster. It also ends with this process.

    Parameters
    ----------
    control : socket
        The connection to the server.
    reap : callable
        Waits until the server's process has ended.
    environment : mapping
        The environment variables of the server.
    """

    def __init__(self, control: socket.socket, reap: Callable[[], object], environment: Mapping[str, str]) -> None:
        self._socket = control
        self._reap = reap
        self._environment = environment
        self._requested: deque[ForkedWorker] = deque()
        """Workers that the server has not forked yet, in the order of the requests."""
        self._running: dict[int, ForkedWorker] = {}
        self._is_dead = False
        self._poller = select.poll()  # not select(), which cannot wait for descriptors above 1023
        self._poller.register(control, select.POLLIN)

    @classmethod
    def of_this_process(cls) -> ForkServer:
        """Fork a server from this process. Call this before any thread is started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run_and_exit(theirs)
        theirs.close()
        return cls(ours, lambda: os.waitpid(pid, 0), dict(os.environ))

    @classmethod
    def of_new_interpreter(cls, environment: Mapping[str, str]) -> ForkServer:
        """Start a server in a new interpreter with these variables; requests wait until it is ready."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*worker_command(sys.executable), "--fork", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                env=dict(environment), start_new_session=True,
            )  # fmt: skip
        return cls(ours, process.wait, dict(environment))

    def __call__(self, fds: tuple[int, ...], output: int, environment: Mapping[str, str]) -> ForkedWorker:
        """Request a worker, without waiting for its start.

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
            If the fork server has died, or the environment is too large for a message.
        """
        ours = self._environment
        changed = {name: value for name, value in environment.items() if ours.get(name) != value}
        message = json.dumps([changed, [name for name in ours if name not in environment]]).encode()
        if len(message) > _LARGEST:
            raise OSError(errno.EMSGSIZE, "the environment of the worker is too large")
        socket.send_fds(self._socket, [message], [output, *fds])
        worker = ForkedWorker(self)
        self._requested.append(worker)
        return worker

    def listen(self, timeout: float | None) -> None:
        """Read the messages of the fork server, waiting at most `timeout` seconds for the first one."""
        while not self._is_dead and self._poller.poll(None if timeout is None else timeout * 1000):
            try:
                said = self._socket.recv(_LARGEST)
            except ConnectionResetError:
                said = b""
            if said:
                self._note(*json.loads(said))
            else:
                self._die()
            timeout = 0

    def _note(self, kind: str, pid: int, status: int) -> None:
        if kind == "ended":
            self._running.pop(pid).status = status
            return
        worker = self._requested.popleft()
        if kind == "started":
            worker.started = pid
            self._running[pid] = worker
        else:
            worker.status = status

    def _die(self) -> None:
        """Kill all workers: without the server, this process cannot learn how they end."""
        self._is_dead = True
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for worker in (*self._running.values(), *self._requested):
            worker.status = -signal.SIGKILL
        self._running.clear()
        self._requested.clear()

    def close(self) -> None:
        """End the fork server."""
        self._socket.close()
        self._reap()


class ForkedWorker:
    """A worker process that a fork server has forked, or is about to fork.

    Attributes
    ----------
    started : int or None
        The process id; None as long as it is not known.
    status : int or None
        The exit status; None as long as the process is not known to have ended.
    """

    def __init__(self, fork_server: ForkServer) -> None:
        self._server = fork_server
        self.started: int | None = None
        self.status: int | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises `ProcessLookupError` if the server could not fork the process."""
        while self.started is None:
            if self.status is not None:
                raise ProcessLookupError("the worker was not started")
            self._server.listen(None)
        return self.started

    def poll(self) -> int | None:
        """Return the worker's exit status, or None while it runs."""
        self._server.listen(0)
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the worker ends, and return its exit status; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.status is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise subprocess.TimeoutExpired("toilfn.worker", timeout or 0.0)
            self._server.listen(remaining)
        return self.status


def _run_and_exit(control: socket.socket) -> NoReturn:
    """Serve in a fork of the leader, or run a worker there, and exit without the leader's exit handlers."""
    status = 1
    try:
        fds = serve_forks(control)
        status = 0 if fds is None else importlib.import_module(_WORKER).main(["--fd", *map(str, fds)])
        flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def serve_forks(control: socket.socket) -> tuple[int, ...] | None:
    """Fork workers until the other end of the socket closes.

    Returns
    -------
    tuple of int or None
        Like `os.fork`, this function returns in each worker, too: with the descriptors for its ``--fd``. In the server,
        it returns None at the end.
    """
    importlib.import_module(_WORKER)
    gc.freeze()  # collections in workers would write to the pages that they share with this process, and copy them
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
        if control in ready:
            message, fds = _receive(control)
            if not message:
                return None
            if _fork(control, fds):
                os.setsid()
                signal.set_wakeup_fd(-1)
                for end in (control, wake, woken):
                    end.close()
                return _become_worker(fds, *json.loads(message))


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a request and its descriptors; the request is empty if the leader is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(control, _LARGEST, 16)
    except ConnectionResetError:  # the leader was killed before it had read all messages
        return b"", []
    return message, fds


def _fork(control: socket.socket, fds: list[int]) -> bool:
    """Fork a worker, to which the descriptors then belong; return whether this process is the worker."""
    try:
        pid = os.fork()
    except OSError as error:
        os.write(fds[0], f"cannot fork a worker: {error.strerror}".encode())  # the worker's output
        answer = ["failed", 0, 1]
    else:
        if pid == 0:
            return True
        answer = ["started", pid, 0]
    for fd in fds:
        os.close(fd)
    _send(control, answer)
    return False


def _report_ends(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _send(control, ["ended", pid, os.waitstatus_to_exitcode(status)])


def _send(control: socket.socket, message: list[Any]) -> None:
    with suppress(OSError):  # the leader is gone, which the next request shows
        control.send(json.dumps(message).encode())


def _become_worker(fds: list[int], changed: Mapping[str, str], removed: list[str]) -> tuple[int, ...]:
    """Set up the standard streams, signals and environment of a worker, and return its own descriptors."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output, *own = fds
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, fd in ((0, nothing), (1, output), (2, output)):
        os.dup2(fd, standard)
    for fd in (nothing, output):
        os.close(fd)
    sys.stdout, sys.stderr = text_output(1), text_output(2)
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(changed)
    random.seed()
    return tuple(own)
