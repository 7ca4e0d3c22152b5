"""What tasks print: everything that reaches file descriptors 1 and 2, also from subprocesses."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from toilfn.clusters.local.output import LOG_LIMIT, open_output, read_output
from toilfn.stdio import flush, text_output

__all__ = ["Capture", "NoCapture", "start_logging", "start_streams"]

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
        self._fd = os.dup(fd)  # a task may close or redirect that one
        self._limit = limit
        self._saved: dict[int, int] = {}
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)
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
        """Return whole lines from a place on, without taking them; at most about as much as is kept of an attempt."""
        data = os.pread(self._fd, self._limit, start)
        return data[: data.rfind(b"\n") + 1]

    def take(self) -> bytes:
        """Return what was written since the last time, and put the output back where tasks may have turned it off."""
        flush()
        self._check_descriptors()
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if end == self.position:
            return b""
        data = read_output(self._fd, self.position, self._limit)
        self.position = end
        if end > _REUSE:
            os.ftruncate(self._fd, 0)
            self.position = 0
        return data

    def _check_descriptors(self) -> None:
        """See to it that output comes here, also if a task has closed or redirected its standard descriptors."""
        for target in (1, 2):
            try:
                found = os.fstat(target)
                is_ours = (found.st_dev, found.st_ino) == self._identity
            except OSError:
                is_ours = False
            if not is_ours:
                os.dup2(self._fd, target)


class NoCapture:
    """Leaves output where it goes: for tasks that run in the user's own process."""

    position = 0

    def take(self) -> bytes:
        """Return nothing."""
        return b""


class _CurrentStandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that time: a task may close or replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def start_logging(level: str) -> None:
    """Send log messages of at least this level to standard error, with time and level."""
    logging.basicConfig(
        level=level.upper(),
        handlers=[_CurrentStandardError()],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    logging.raiseExceptions = False  # a message that cannot be written is lost, and nothing else


def start_streams() -> None:
    """Make standard output and error usable, however this process was started; lines come out as they are written."""
    if sys.stdout is None or not hasattr(sys.stdout, "reconfigure"):
        sys.stdout = text_output(1)
    else:
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = text_output(2)
