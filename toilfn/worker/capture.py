"""The output of tasks: everything that reaches file descriptors 1 and 2, also from subprocesses."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import sys
from contextlib import suppress
from typing import TextIO

from toilfn.clusters.base import LOG_LIMIT, OUTPUT_VARIABLE, open_output, read_output
from toilfn.stdio import flush, text_output

__all__ = ["Capture", "NoCapture", "start_logging", "start_streams"]

_REUSE = 1 << 20

_UNUSUAL = 0x51ED_0B5E
"""A position in the output to which `Capture` moves after an attempt that printed nothing.

A descriptor that has this position shares it, so it is ours: this is quicker to see than which file the descriptor has.
Programs that print append, wherever the position is.
"""


class Capture:
    """Captures output, and divides it among attempts.

    Parameters
    ----------
    fd : int
        The file that descriptors 1 and 2 append to.
    limit : int
        How many bytes to keep of one attempt; of a longer log the middle is left out.
    is_jobs : bool
        Whether the file belongs to a batch system's job: it then keeps its content, and each attempt's part until the
        attempt has ended.
    """

    def __init__(self, fd: int, limit: int = LOG_LIMIT, *, is_jobs: bool = False) -> None:
        self._fd = os.dup(fd)  # a task may close or redirect that one
        self._limit = limit
        self._saved: dict[int, int] = {}
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)
        self._is_jobs = is_jobs
        self.position = os.lseek(fd, 0, os.SEEK_END)
        """Where the next attempt's part starts."""

    @classmethod
    def take_over(cls, limit: int = LOG_LIMIT) -> Capture:
        """Send this process's output to one file until `give_back`: the job's own, one that its system keeps, or a new
        one.

        The output of a task is still in the job's own file when the worker is killed, so that the leader finds it.
        """
        kept = os.environ.pop(OUTPUT_VARIABLE, "")  # it is not for workers that a task may start
        own = _own_file()
        if own is None and kept:
            own = _regular(kept)
        capture = cls(open_output() if own is None else own, limit, is_jobs=own is not None)
        for target in (1, 2):
            capture._saved[target] = os.dup(target)
            os.dup2(capture._fd, target)
        return capture

    def give_back(self) -> None:
        """Undo `take_over`, and write the output of an interrupted attempt to the original destination."""
        flush()
        left = b"" if self._is_jobs else read_output(self._fd, self.position, self._limit)
        for target, fd in self._saved.items():
            os.dup2(fd, target)
            os.close(fd)
        self._saved = {}
        with suppress(OSError):
            while left:
                left = left[os.write(1, left) :]

    def peek(self, start: int) -> bytes:
        """Return whole lines from a position on, without taking them, up to about the limit for an attempt."""
        data = os.pread(self._fd, self._limit, start)
        return data[: data.rfind(b"\n") + 1]

    def peek_end(self, start: int, most: int) -> tuple[bytes, int]:
        """Return the last bytes after a position, at most so many, without taking them, and the position after them."""
        end = max(start, os.fstat(self._fd).st_size)
        return os.pread(self._fd, most, max(start, end - most)), end

    def take(self) -> bytes:
        """Return the output since the last call, and restore the streams, which a task may have closed or replaced."""
        flush()
        self._check_descriptors()
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if end == self.position:
            os.lseek(self._fd, _UNUSUAL, os.SEEK_SET)
            return b""
        data = read_output(self._fd, self.position, self._limit)
        if self._is_jobs:
            os.ftruncate(self._fd, self.position)
            return data
        self.position = end
        if end > _REUSE:
            os.ftruncate(self._fd, 0)
            self.position = 0
        return data

    def _check_descriptors(self) -> None:
        """Restore the standard descriptors if a task has closed or redirected them, so that output is captured."""
        try:  # `suppress` takes longer, and this is done for every task
            if os.lseek(1, 0, os.SEEK_CUR) == os.lseek(2, 0, os.SEEK_CUR) == _UNUSUAL:
                return
        except OSError:  # closed, or a pipe
            pass
        for target in (1, 2):
            try:
                found = os.fstat(target)
                is_ours = (found.st_dev, found.st_ino) == self._identity
            except OSError:
                is_ours = False
            if not is_ours:
                os.dup2(self._fd, target)


def _own_file() -> int | None:
    """Open once more the file that this process's output goes to, if there is one that can be read and written."""
    fd = _regular("/proc/self/fd/1")
    if fd is None:
        return None
    for target in (1, 2):  # nothing may be overwritten by those who have it open as well
        with suppress(OSError):
            if os.path.sameopenfile(target, fd):
                fcntl.fcntl(target, fcntl.F_SETFL, fcntl.fcntl(target, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def _regular(path: str) -> int | None:
    """Open a file that exists and can be read and written; None if it is not such a file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        return None


class NoCapture:
    """Leaves output alone: for tasks that run in the user's own process."""

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
