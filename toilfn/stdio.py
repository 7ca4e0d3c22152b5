"""Standard output and error as they are in practice: closed, full, without a reader, None.

Messages that toilfn reports there are for people, and never worth failing the work for. The result of a program is
another matter: that goes through `print`, and an error there counts.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from toilfn.errors import ToilfnError
from toilfn.text import visible

__all__ = [
    "Unfailing",
    "flush",
    "open_closed_descriptors",
    "report",
    "report_error",
    "standard_error",
    "text_output",
    "unfailing_standard_error",
]


def report(text: str) -> None:
    """Write a line for people to standard error, if anybody can read it there."""
    standard_error().write(f"{text}\n")


def report_error(program: str, error: BaseException) -> None:
    """Write an error for people to standard error, its advice on a line of its own.

    Control characters, which a message may quote from a file or from a program, are escaped.
    """
    hint = error.hint if isinstance(error, ToilfnError) else None
    report(visible(f"{program}: {error.message if isinstance(error, ToilfnError) and hint else error}"))
    if hint:
        report(visible(f"hint: {hint}"))


def standard_error() -> Unfailing:
    """Return standard error as it is now, as a stream that cannot fail."""
    return Unfailing(sys.stderr)


@contextmanager
def unfailing_standard_error() -> Iterator[None]:
    """Make standard error one that cannot fail, for toilfn's programs and the libraries that report there."""
    open_closed_descriptors()
    before = sys.stderr
    sys.stderr = standard_error()
    try:
        yield
    finally:
        sys.stderr = before


class Unfailing(io.TextIOBase):
    """A text stream that loses what cannot be written, where another one raises.

    Parameters
    ----------
    stream : file or None
        Where to write; None, as `sys.stderr` is when its descriptor was closed from the start, loses everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write, and flush."""
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except Exception:  # a stream of the user's own may raise anything
                _discard(self._stream)
        return len(text)

    def flush(self) -> None:
        """Do nothing: all is written out at once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # such as `buffer`

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        try:
            return self._stream is not None and self._stream.isatty()
        except Exception:
            return False

    def fileno(self) -> int:
        """Return the stream's descriptor, where it has one."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"


def _discard(stream: Any) -> None:
    """Empty the buffer of a stream that cannot be written to: else Python tries again, and exits with status 120."""
    with suppress(Exception):
        fd = stream.fileno()
        saved, nothing = os.dup(fd), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, fd)
            stream.flush()
        finally:
            os.dup2(saved, fd, inheritable=True)
            os.close(saved)
            os.close(nothing)


def open_closed_descriptors() -> None:
    """Open the null device for each standard descriptor that is closed.

    Otherwise the next file that is opened gets its number, and what anything prints ends up in that file.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest free number
            os.set_inheritable(fd, True)


def text_output(fd: int) -> io.TextIOWrapper:
    """Build a stream like Python's own for a standard descriptor; it leaves that open when it is closed."""
    return io.TextIOWrapper(
        io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def flush(*streams: Any) -> None:
    """Write out what streams hold, by default standard output and error, as far as that is possible."""
    for stream in streams or (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  # `suppress` takes longer, and this is done for every task
            stream.flush()
        except Exception:  # noqa: S110
            pass
