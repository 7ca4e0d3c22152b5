"""Measure the resources of an attempt: time, processor time, memory, disk, bytes read and written."""

from __future__ import annotations

import functools
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from toilfn.model.records import Stats
from toilfn.worker.context import Context

__all__ = ["WORKER_MEMORY_VARIABLE", "DiskUse", "Meter", "add_outside", "spare_memory"]

WORKER_MEMORY_VARIABLE = "TOILFN_WORKER_MEMORY"
"""How many bytes a worker may use for itself, on a cluster that watches tasks' memory with our help."""

T = TypeVar("T")

_LONG = 0.02
"""Memory and input of attempts of less than this many seconds are not measured: that would take as long."""

_SHORTEST_CHILD = 0.0003
"""Seconds in which no process can be started and end."""

_PAGE = mmap.PAGESIZE
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures an attempt from the moment of its creation."""

    __slots__ = ("_children", "_clock", "_cpu", "_io", "_outside", "_pid", "_start", "base")

    def __init__(self) -> None:
        self._start = time.time()
        self._clock = time.perf_counter()
        self._cpu = time.process_time()
        self._pid = os.getpid()
        self._children = _recent_children.at(self._clock, self._pid)
        self._io = _recent_io.at(self._clock, self._pid)
        self._outside = _outside.cpu
        _outside.peak = 0
        self.base = _recent_memory.at(self._clock, self._pid)
        """Bytes of memory that this process had then: they are not the attempt's."""

    @property
    def start(self) -> float:
        """Seconds since the epoch."""
        return self._start

    def read(self) -> Stats:
        """Return the resources that this process and its finished children have used so far."""
        now = time.perf_counter()
        wall = now - self._clock
        children = 0.0 if wall < _SHORTEST_CHILD else _recent_children.renew(now, self._pid) - self._children
        cpu = time.process_time() - self._cpu + children + _outside.cpu - self._outside
        if wall <= _LONG:
            return Stats(self._start, wall, cpu, 0, _host(), self._pid)
        memory = max(self._added(with_children=children > 0), _outside.peak)
        read, written = _io_since(self._io)
        return Stats(self._start, wall, cpu, memory, _host(), self._pid, read, written, own=self.base)

    def _added(self, *, with_children: bool) -> int:
        """Return the highest resident size since the last call, where the system can tell since when, without
        what this process had at the start; or that of a child, if it was more than all of this process."""
        own = _own_peak()
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT if with_children else 0
        return child if child > own else max(0, own - self.base)


class _Outside:
    """The usage of processes, such as containers, that work for this one and are not its children."""

    cpu = 0.0
    peak = 0


_outside = _Outside()


def add_outside(cpu: float, memory: int) -> None:
    """Add the usage of processes that this process has not started itself.

    Parameters
    ----------
    cpu : float
        Seconds.
    memory : int
        Peak bytes.
    """
    _outside.cpu += cpu
    _outside.peak = max(_outside.peak, memory)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    """Return how many bytes of memory this process has now; 0 if reading it is slow."""
    fd = _statm_file()
    return int(os.pread(fd, 64, 0).split(None, 2)[1]) * _PAGE if fd >= 0 else 0


@functools.cache
def _statm_file() -> int:
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return -1


def spare_memory() -> int:
    """Return how many bytes of the worker's own memory are still unused."""
    return max(0, int(os.environ.get(WORKER_MEMORY_VARIABLE, "0")) - resident())


def _own_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")  # starts the next peak from the present size
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _io_counters() -> bytes:
    """Return the system's counts of input and output of this process and its finished children."""
    fd = _io_file()
    return os.pread(fd, 256, 0) if fd >= 0 else b""


class _Recent(Generic[T]):
    """Keeps the last reading, which quick attempts share, since a reading takes as long as such a task.

    Parameters
    ----------
    read : callable
    seconds : float
        How old a reading may be. So what an attempt takes is counted from up to as long before it began.
    """

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._found: tuple[float, int, T] | None = None

    def at(self, now: float, pid: int) -> T:
        """Return a reading of this process that is good enough now."""
        if self._found is None or now - self._found[0] > self._seconds or pid != self._found[1]:
            return self.renew(now, pid)
        return self._found[2]

    def renew(self, now: float, pid: int) -> T:
        """Read again."""
        found = self._read()
        self._found = (now, pid, found)
        return found


_recent_io = _Recent(_io_counters, _LONG)
_recent_children = _Recent(_children_cpu, _LONG)
_recent_memory = _Recent(resident, 0.002)  # in which a process gets a few mebibytes at most


def _io_since(before: bytes) -> tuple[int, int]:
    """Return the bytes read and written since then; zeros where nothing is counted."""
    if not before:
        return 0, 0
    (read, written), (read_before, written_before) = map(_read_io, (_io_counters(), before))
    return max(0, read - read_before - len(before)), written - written_before  # reading the counters is counted, too


def _read_io(counters: bytes) -> tuple[int, int]:
    read, written, *_ = counters.splitlines()
    return int(read.partition(b" ")[2]), int(written.partition(b" ")[2])


@functools.cache
def _io_file() -> int:
    try:
        return os.open("/proc/self/io", os.O_RDONLY)
    except OSError:
        return -1


@functools.cache
def _host() -> str:
    return socket.gethostname()


_LOOK = 1.0
"""The least number of seconds between two looks."""

_SHARE = 50
"""Looking takes at most one part in so many of the time."""

_BLOCK = 512
"""Bytes in the unit of `os.stat_result.st_blocks`."""


class DiskUse:
    """Looks periodically at the temporary directory of one attempt.

    Parameters
    ----------
    context : Context

    Attributes
    ----------
    peak : int
        The most bytes that were found, with links to the node's copies of files.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_look = 0.0
        self.peak = 0

    def look(self) -> None:
        """Look if that is due; another thread may do this."""
        began = time.monotonic()
        if began < self._next_look:
            return
        self.measure()
        took = time.monotonic() - began
        self._next_look = began + max(_LOOK, took * _SHARE)

    def measure(self) -> bool:
        """Look now; return whether there is a directory to look at."""
        has_any = self._context.has_temp_dir
        if has_any:
            self.peak = max(self.peak, _size(self._context.temp_dir))
        return has_any


def _size(directory: os.PathLike[str]) -> int:
    """Return the disk space that is allocated below a directory; ignore files that are deleted in the meantime."""
    total = 0
    stack: list[str | os.PathLike[str]] = [directory]
    while stack:
        with suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return total
