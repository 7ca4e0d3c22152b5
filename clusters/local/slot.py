"""The current task of a worker, where its cluster can see it even when the worker is dead."""

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
    """The attempt that a worker is at."""

    task: TaskId
    start: float
    """Seconds since the epoch."""
    memory: int
    """The most bytes it may use; 0 sets no limit."""
    walltime: float
    """The most seconds it may take; 0 sets no limit."""
    log: int
    """Where in the worker's output its log starts."""
    began: float
    """When it started by `time.monotonic`, which all processes of a machine share: while the machine sleeps it stands
    still, and no process sets it."""
    base: int = 0
    """How many bytes of memory the worker had when it started the attempt: they are not the task's."""
    spare: int = 0
    """How many more bytes are the worker's, for what the store's driver may need meanwhile."""


class Slot:
    """A page of memory that a worker and its cluster share.

    A worker that is killed can say nothing any more, and what it did last may still have been in
    a buffer; this is how its cluster knows which task to charge, and which limits to watch.
    """

    def __init__(self, fd: int = -1) -> None:
        """Share the first page of a file, which is made large enough; or, without one, with no one."""
        if fd >= 0:
            os.ftruncate(fd, _SIZE)
        self._page = mmap.mmap(fd, _SIZE)

    def write(self, doing: Doing) -> None:
        """Return what is being done now."""
        _LAYOUT.pack_into(self._page, 0, True, *doing)

    def clear(self) -> None:
        """Note that no task runs."""
        self._page[0] = 0

    def read(self) -> Doing | None:
        """Return what the worker is at; None between tasks. While it changes, what is read may be a mixture:
        only what is read twice alike is certain."""
        busy, *fields = _LAYOUT.unpack_from(self._page, 0)
        return Doing(*fields) if busy else None

    def last(self) -> Doing:
        """Return what the worker is at, or was at last; all zeros before its first attempt."""
        return Doing(*_LAYOUT.unpack_from(self._page, 0)[1:])

    def close(self) -> None:
        """Return the page up."""
        self._page.close()
