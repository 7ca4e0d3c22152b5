"""What an attempt takes: time, processor time, memory."""

from __future__ import annotations

import functools
import os
import resource
import socket
import sys
import time
from pathlib import Path

from toilfn.records import Stats

__all__ = ["Meter"]

_LONG = 0.02
"""Attempts that took less than this many seconds are not asked for their memory: the answer costs as much."""

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures from when it is made."""

    __slots__ = ("_children", "_clock", "_cpu", "_start")

    def __init__(self) -> None:
        self._start = time.time()
        self._clock = time.perf_counter()
        self._cpu = time.process_time()
        self._children = _children_cpu()

    @property
    def start(self) -> float:
        """Seconds since the epoch."""
        return self._start

    def read(self) -> Stats:
        """Say what was used until now, by this process and by those it started that have ended."""
        wall = time.perf_counter() - self._clock
        children = _children_cpu() - self._children
        cpu = time.process_time() - self._cpu + children
        memory = _peak(with_children=children > 0) if wall > _LONG else 0
        return Stats(self._start, wall, cpu, memory, _host(), os.getpid())


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak(*, with_children: bool) -> int:
    """Give the highest resident size since it was last asked for, where the system can tell since when."""
    own = _own_peak()
    if not with_children:
        return own
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT)


def _own_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")  # starts the next peak from the present size
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@functools.cache
def _host() -> str:
    return socket.gethostname()
