"""The program of an engine while it runs: its standard error, its end, and the resources that the container used."""

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
"""How many bytes of standard error an exception has."""

_KILLED = 137
"""Exit status of what SIGKILL has ended. Engines do not say reliably that it was for memory, so we ask none."""


class Streams(NamedTuple):
    """Where a container's standard streams lead."""

    stdin: Path | None
    stdout: Path | None
    """None: a pipe to this process."""
    stderr: Path | int | None
    """None: the task's log. `subprocess.STDOUT` is the only number."""


class RunningProgram:
    """A container in the foreground.

    Parameters
    ----------
    engine : Engine
    request : Request
    **streams
        As `subprocess.Popen` takes them. Output that comes through a pipe from standard error is passed on to the log.
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
        """The output of the container, where stdout is a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self) -> None:
        """Wait for the end.

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
        """Make sure that nothing is left of it."""
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
    """Kill a process and all that come from it: not every engine takes its container along when it is killed."""
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(pid)]
        for member in family:  # the list grows; a stopped process starts no more children
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
        The command's own: its processes have their ``TMPDIR`` or their current directory in it.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for _ in range(_MOST_ROUNDS):  # what is killed may just have started something
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
    except (psutil.Error, OSError):  # it has ended, or is someone else's
        return False
    return any(Path(place).is_relative_to(folder) for place in places if place)


@contextmanager
def running(engine: Engine, request: Request, streams: Streams) -> Iterator[RunningProgram]:
    """Run a container for as long as the block lasts, with files opened for its streams."""
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
"""For the container's sh: prints what `counted` reads. Linux: Documentation/admin-guide/cgroup-v2, cgroup-v1."""


class Usage(NamedTuple):
    """The resources that all processes of a container have used."""

    cpu: float
    """Seconds."""
    memory: int
    """Peak bytes, with the files' pages that the kernel keeps for it."""


def counted(report: str) -> Usage | None:
    """Read what `REPORT` has printed; None where the kernel does not tell.

    A container that sees the machine's own group has no ``memory.peak``: what is there is not its own.
    """
    found = dict(line.rsplit(" ", 1) for line in report.splitlines())
    if {"memory.peak", "cpu.stat usage_usec"} <= found.keys():
        return Usage(int(found["cpu.stat usage_usec"]) / 1e6, int(found["memory.peak"]))
    first = ("memory/memory.max_usage_in_bytes", "cpuacct/cpuacct.usage")
    if set(first) <= found.keys():
        memory, nanoseconds = (int(found[name]) for name in first)
        return Usage(nanoseconds / 1e9, memory)
    return None
