"""The current task of a worker, in shared memory, where the cluster can read it even after the worker has died."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from toilfn.ids import TaskId

__all__ = ["Doing", "Slot"]

_LAYOUT = struct.Struct("<?16sdqdqdqq")
_SIZE = mmap.PAGESIZE


class Doing(NamedTuple):
    """The attempt that a worker is running."""

    task: TaskId
    start: float
    """Seconds since the epoch."""
    memory: int
    """Memory limit in bytes; 0 means no limit."""
    walltime: float
    """Time limit in seconds; 0 means no limit."""
    log: int
    """Offset in the worker's output at which the attempt's log starts."""
    began: float
    """When the attempt started, by `time.monotonic`: all processes of a machine share that clock, it does not advance
    while the machine is suspended, and no one can set it."""
    base: int = 0
    """Bytes of memory that the worker used before the attempt; they are not charged to the task."""
    spare: int = 0
    """Additional bytes that are not charged to the task, since the store's driver may need them."""


class Slot:
    """A page of memory that a worker and its cluster share.

    A killed worker cannot report anything, and its last messages may be lost in a buffer. This page tells the
    cluster which task was running, and which limits to enforce.
    """

    def __init__(self, fd: int = -1) -> None:
        """Map the first page of a file, enlarging the file if necessary; without a descriptor, use private memory."""
        if fd >= 0:
            os.ftruncate(fd, _SIZE)
        self._page = mmap.mmap(fd, _SIZE)

    def write(self, doing: Doing) -> None:
        """Record the current attempt."""
        _LAYOUT.pack_into(self._page, 0, True, *doing)

    def clear(self) -> None:
        """Record that no task is running."""
        self._page[0] = 0

    def read(self) -> Doing | None:
        """Return the worker's current attempt; None between tasks. During a write the result may be a mixture of two
        attempts: read twice and compare."""
        busy, *fields = _LAYOUT.unpack_from(self._page, 0)
        return Doing(*fields) if busy else None

    def last(self) -> Doing:
        """Return the worker's current or last attempt; all zeros before its first one."""
        return Doing(*_LAYOUT.unpack_from(self._page, 0)[1:])

    def close(self) -> None:
        """Release the page."""
        self._page.close()
