"""The memory that a process and all that it started use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["used_memory"]


def used_memory(pid: int, limit: int) -> int:
    """Return the bytes of memory in use.

    Parameters
    ----------
    pid : int
        The first process.
    limit : int
        Resident sizes count pages that processes share more than once. Only a sum above this limit is worth the
        costly question how much it is really.

    Returns
    -------
    int
        0 when the process is gone.
    """
    processes = list(_with_descendants(pid))
    total = sum(filter(None, map(_resident, processes)))
    if total <= limit or len(processes) == 1:
        return total
    return sum(filter(None, map(_proportional, processes)))


def _with_descendants(pid: int) -> Iterator[psutil.Process]:
    stack = [pid]
    while stack:
        try:
            process = psutil.Process(stack.pop())
            stack += _children(process)
        except psutil.Error:
            continue
        yield process


def _children(process: psutil.Process) -> list[int]:
    """List the processes that a process started; Linux can tell without a look at all processes."""
    tasks = Path(f"/proc/{process.pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return [child.pid for child in process.children()]


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return int(getattr(full, "pss", full.uss))
