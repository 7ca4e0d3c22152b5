"""The memory that a process and its descendants use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["used_memory"]


def used_memory(pid: int, limit: int) -> int:
    """Return the memory in use by a process and its descendants, in bytes.

    Parameters
    ----------
    pid : int
        The id of the process.
    limit : int
        Resident sizes count shared pages more than once, and pages of mapped files, such as large arrays of the store,
        which the system can take back. Only if their sum exceeds this limit is the exact size determined, which is
        expensive.

    Returns
    -------
    int
        0 if the process no longer exists.
    """
    processes = list(_with_descendants(pid))
    total = sum(map(_resident, processes))
    return total if total <= limit else sum(map(_own, processes))


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
    """Return the ids of a process's children; on Linux, without examining all processes."""
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


def _own(process: psutil.Process) -> int:
    """Return a process's share of the memory that it uses, without pages of files where the system tells these."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return _proportional(process)
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
    return sizes.get("Pss:", 0) - sizes.get("Pss_File:", 0)


def _proportional(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return int(getattr(full, "pss", full.uss))
