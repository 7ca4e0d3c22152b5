"""Channels between a local cluster and a worker: messages over a socket, and the current task in shared memory.

The cluster can read the shared memory even after the worker has died.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import NamedTuple

from toilfn.ids import TaskId

__all__ = ["AttemptPage", "CurrentAttempt", "MessageSocket"]

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 18


class MessageSocket:
    """A socket for messages, each preceded by its length in eight bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        """Return the file descriptor to wait on."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Send a message, waiting until the other side has read enough.

        Raises
        ------
        OSError
            If the other side has closed the connection.
        """
        if len(message) < _CHUNK:
            self._socket.sendall(_LENGTH.pack(len(message)) + message)
        else:
            self._socket.sendall(_LENGTH.pack(len(message)))
            self._socket.sendall(message)

    def receive(self) -> list[bytes] | None:
        """Read the available data once.

        Returns
        -------
        list of bytes or None
            The complete messages; None if the other side has closed the connection or died.
        """
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionError:
            return None
        if not data:
            return None
        self._buffer += data
        return self._take()

    def _take(self) -> list[bytes]:
        messages, start, buffer = [], 0, self._buffer
        while len(buffer) - start >= _LENGTH.size:
            end = start + _LENGTH.size + _LENGTH.unpack_from(buffer, start)[0]
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[start + _LENGTH.size : end]))
            start = end
        del buffer[:start]
        return messages

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


_LAYOUT = struct.Struct("<?16sdqdqdqq")
_SIZE = mmap.PAGESIZE


class CurrentAttempt(NamedTuple):
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
    """When the attempt started, by `time.monotonic`, for the walltime: all processes of a machine share that clock, it
    does not advance while the machine is suspended, and it cannot be set."""
    base: int = 0
    """Bytes of memory that the worker used before the attempt; they are not charged to the task."""
    spare: int = 0
    """Additional bytes that are not charged to the task, since the store's driver may need them."""


class AttemptPage:
    """A page of memory that a worker and its cluster share.

    A killed worker cannot report anything, and its last messages may be lost in a buffer. This page tells the
    cluster which task was running, and which limits to enforce.
    """

    def __init__(self, fd: int = -1) -> None:
        """Map the first page of a file, enlarging the file if necessary; without a descriptor, use private memory."""
        if fd >= 0:
            os.ftruncate(fd, _SIZE)
        self._page = mmap.mmap(fd, _SIZE)

    def write(self, attempt: CurrentAttempt) -> None:
        """Record the current attempt."""
        _LAYOUT.pack_into(self._page, 0, True, *attempt)

    def clear(self) -> None:
        """Record that no task is running."""
        self._page[0] = 0

    def read(self) -> CurrentAttempt | None:
        """Return the worker's current attempt; None between tasks.

        The page has no lock. During a write, the result may be a mixture of two attempts: read twice, and compare.
        """
        busy, *fields = _LAYOUT.unpack_from(self._page, 0)
        return CurrentAttempt(*fields) if busy else None

    def last(self) -> CurrentAttempt:
        """Return the worker's current or last attempt; all zeros before its first one."""
        return CurrentAttempt(*_LAYOUT.unpack_from(self._page, 0)[1:])

    def close(self) -> None:
        """Release the page."""
        self._page.close()
