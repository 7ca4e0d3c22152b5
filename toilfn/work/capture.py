"""What tasks print: everything that reaches file descriptors 1 and 2, also from subprocesses."""

from __future__ import annotations

import logging
import os
import sys

from toilfn.clusters.output import LOG_LIMIT, open_output, read_output

__all__ = ["Capture", "NoCapture", "start_logging"]

_REUSE = 1 << 20


class Capture:
    """Gives each attempt's part of the output.

    Parameters
    ----------
    fd : int
        The file that descriptors 1 and 2 append to.
    limit : int
        How many bytes to keep of one attempt; of a longer log the middle is left out.
    """

    def __init__(self, fd: int, limit: int = LOG_LIMIT) -> None:
        self._fd = fd
        self._limit = limit
        self._saved: dict[int, int] = {}
        self.position = os.lseek(fd, 0, os.SEEK_END)
        """Where the next attempt's part starts."""

    @classmethod
    def take_over(cls, limit: int = LOG_LIMIT) -> Capture:
        """Send this process's output to a new file until `give_back`."""
        capture = cls(open_output(), limit)
        for target in (1, 2):
            capture._saved[target] = os.dup(target)
            os.dup2(capture._fd, target)
        return capture

    def give_back(self) -> None:
        """Send output again where it went before `take_over`."""
        for target, fd in self._saved.items():
            os.dup2(fd, target)
            os.close(fd)
        self._saved = {}

    def peek(self, start: int) -> bytes:
        """Give whole lines from a place on, without taking them; at most about as much as is kept of an attempt."""
        data = os.pread(self._fd, self._limit, start)
        return data[: data.rfind(b"\n") + 1]

    def take(self) -> bytes:
        """Give what was written since the last time."""
        sys.stdout.flush()
        sys.stderr.flush()
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if end == self.position:
            return b""
        data = read_output(self._fd, self.position, self._limit)
        self.position = end
        if end > _REUSE:
            os.ftruncate(self._fd, 0)
            self.position = 0
        return data


class NoCapture:
    """Leaves output where it goes: for tasks that run in the user's own process."""

    position = 0

    def take(self) -> bytes:
        """Give nothing."""
        return b""


def start_logging(level: str) -> None:
    """Send log messages of at least this level to standard error, with time and level."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
