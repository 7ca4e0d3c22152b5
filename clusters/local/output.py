"""A worker's output: one file without a name, which its cluster can still read when the worker is dead."""

from __future__ import annotations

import fcntl
import os
import tempfile

__all__ = ["LOG_LIMIT", "open_output", "read_output"]

LOG_LIMIT = 64 * 1024
"""How many bytes of one attempt's log to keep, where nothing else is said."""


def open_output() -> int:
    """Build the file; gives a descriptor. All who write append, whatever else they share it with."""
    with tempfile.TemporaryFile() as file:
        fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def read_output(fd: int, start: int, limit: int = LOG_LIMIT) -> bytes:
    """Read from a place to the end; of more than `limit` bytes the first and the last half of that."""
    end = os.lseek(fd, 0, os.SEEK_END)
    if end - start <= limit:
        return os.pread(fd, max(end - start, 0), start)
    mark = f"\n[... {end - start - limit} bytes and more left out ...]\n".encode()
    half = max(0, limit - len(mark)) // 2
    return os.pread(fd, half, start) + mark + os.pread(fd, half, end - half)
