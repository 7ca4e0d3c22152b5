"""Run the engine's command for a container: its streams, its end, and the resources that the container has used."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from toilfn.containers.engines import Engine, Request
from toilfn.errors import ContainerError, ContainerMemoryError
from toilfn.units import format_size

__all__ = ["REPORT", "RunningProgram", "Streams", "Usage", "counted", "end_leftovers", "running"]

_TAIL = 4096
"""Number of bytes of standard error to keep for an exception."""

_KILLED = 137
"""The exit status of a container that SIGKILL ended. Engines do not report reliably whether the reason was its memory
limit, so they are not asked."""


class Streams(NamedTuple):
    """The files of a container's standard streams."""

    stdin: Path | None
    stdout: Path | None
    """The file for standard output; None means a pipe to this process."""
    stderr: Path | int | None
    """The file for standard error, or `subprocess.STDOUT`; None means the task's log."""


class RunningProgram:
    """A container in the foreground.

    Parameters
    ----------
    engine : Engine
    request : Request
    **streams
        ``stdin``, ``stdout`` and ``stderr`` for `subprocess.Popen`. If standard error is a pipe, a thread copies it to
        the task's log.
    """

    def __init__(self, engine: Engine, request: Request, **streams: Any) -> None:
        self._engine = engine
        self._request = request
        self._tail = b""
        environment = os.environ | engine.environment(request)
        self._process = subprocess.Popen(engine.run(request), cwd=request.place, env=environment, **streams)
        self._reader = threading.Thread(target=self._pass_on, name="toilfn-container", daemon=True)
        self._reader.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The standard output of the container, if it is a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self) -> None:
        """Wait until the container has ended.

        Raises
        ------
        ContainerError
            If the exit status is not 0.
        """
        status = self._process.wait()
        self._reader.join()
        if status:
            raise self._error(status)

    def end(self) -> None:
        """Kill the engine's command and its processes if they are still running, and close the streams."""
        if self._process.poll() is None:
            _kill_family(self._process.pid)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _pass_on(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._tail = (self._tail + chunk)[-_TAIL:]
                os.write(2, chunk)

    def _error(self, status: int) -> ContainerError:
        words = self._tail.decode(errors="replace").strip()
        what = f"the container of image {self._request.image}"
        if status == _KILLED and self._request.memory:
            limit = format_size(self._request.memory)
            said = f"{what} was killed with exit status {status}, as happens at its memory limit of {limit}"
            return ContainerMemoryError(said, status, words)
        return ContainerError(f"{what} ended with exit status {status}{words and f': {words}'}", status, words)


def _kill_family(pid: int) -> None:
    """Kill a process and all its descendants: if an engine's command is killed, its container may otherwise survive."""
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(pid)]
        for member in family:  # the list grows during the loop; each process is stopped first, so it starts no more
            with suppress(psutil.NoSuchProcess):
                member.suspend()
                family += member.children()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()


_MOST_ROUNDS = 20


def end_leftovers(folder: Path) -> None:
    """Kill the processes that a command has left running, including those in sessions of their own.

    Parameters
    ----------
    folder : Path
        The command's folder. A process belongs to the command if its ``TMPDIR`` or current directory is in it.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for _ in range(_MOST_ROUNDS):  # a process may have started another one just before it was killed
        found = [process for process in psutil.process_iter() if process.pid not in own and _belongs(process, folder)]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        places = (process.environ().get("TMPDIR", ""), process.cwd())
    except (psutil.Error, OSError):  # the process has ended, or belongs to another user
        return False
    return any(Path(place).is_relative_to(folder) for place in places if place)


@contextmanager
def running(engine: Engine, request: Request, streams: Streams) -> Iterator[RunningProgram]:
    """Open the files of the streams, run a container, and end it when the block ends."""
    with ExitStack() as stack:
        stdin = stack.enter_context(streams.stdin.open("rb")) if streams.stdin else subprocess.DEVNULL
        stdout = stack.enter_context(streams.stdout.open("wb")) if streams.stdout else subprocess.PIPE
        stderr = stack.enter_context(streams.stderr.open("wb")) if isinstance(streams.stderr, Path) else streams.stderr
        run = RunningProgram(engine, request, stdin=stdin, stdout=stdout, stderr=stderr or subprocess.PIPE)
        try:
            yield run
        finally:
            run.end()


REPORT = """\
for name in memory.peak cpu.stat memory/memory.max_usage_in_bytes cpuacct/cpuacct.usage; do
  if [ -r /sys/fs/cgroup/$name ]; then
    while read -r line; do echo "$name $line"; done </sys/fs/cgroup/$name
  fi
done
"""
"""A script for the container's ``sh`` that prints the values for `counted`. Source: the kernel's documentation,
admin-guide/cgroup-v2 and cgroup-v1."""


class Usage(NamedTuple):
    """The resources that all processes of a container have used."""

    cpu: float
    """CPU time in seconds."""
    memory: int
    """The peak in bytes. It includes cached pages of files that the kernel charges to the container."""


def counted(report: str) -> Usage | None:
    """Parse the output of `REPORT`; None if the kernel does not report the values.

    If a container sees the machine's root cgroup instead of its own, the values are those of the machine. That cgroup
    has no ``memory.peak``, so the result is None.
    """
    found = dict(line.rsplit(" ", 1) for line in report.splitlines())
    if {"memory.peak", "cpu.stat usage_usec"} <= found.keys():
        return Usage(int(found["cpu.stat usage_usec"]) / 1e6, int(found["memory.peak"]))
    first = ("memory/memory.max_usage_in_bytes", "cpuacct/cpuacct.usage")
    if set(first) <= found.keys():
        memory, nanoseconds = (int(found[name]) for name in first)
        return Usage(nanoseconds / 1e9, memory)
    return None
