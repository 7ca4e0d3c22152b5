"""A worker's output: an unnamed file, which the cluster can still read after the worker has died."""

from __future__ import annotations

import fcntl
import os
import tempfile

__all__ = ["LOG_LIMIT", "open_output", "read_output"]

LOG_LIMIT = 64 * 1024
"""Default number of bytes of an attempt's log to keep."""


def open_output() -> int:
    """Create the file, and return a descriptor. All writes append, whichever processes share the file."""
    with tempfile.TemporaryFile() as file:
        fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def read_output(fd: int, start: int, limit: int = LOG_LIMIT) -> bytes:
    """Read from an offset to the end; if that is more than `limit` bytes, return the beginning and the end."""
    end = os.lseek(fd, 0, os.SEEK_END)
    if end - start <= limit:
        return os.pread(fd, max(end - start, 0), start)
    mark = f"\n[... {end - start - limit} or more bytes left out ...]\n".encode()
    half = max(0, limit - len(mark)) // 2
    return os.pread(fd, half, start) + mark + os.pread(fd, half, end - half)
