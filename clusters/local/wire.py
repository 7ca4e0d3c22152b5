"""Messages over a socket between a local cluster and its workers."""

from __future__ import annotations

import socket
import struct

__all__ = ["Wire"]

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 18


class Wire:
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
