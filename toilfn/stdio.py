"""Write to standard output and error even if they are closed, full, or None.

toilfn's messages to users are not important enough to let a run fail, so errors in writing them are ignored. The result
of a program is different: it is written with `print`, and an error in writing it is an error of the program.
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
    "LenientStream",
    "flush",
    "open_closed_descriptors",
    "report",
    "report_error",
    "standard_error",
    "text_output",
    "unfailing_standard_error",
]


def report(text: str) -> None:
    """Write a line to standard error, for users; ignore errors in writing it."""
    standard_error().write(f"{text}\n")


def report_error(program: str, error: BaseException) -> None:
    """Write an error to standard error, with its hint on a separate line.

    Control characters in the message are escaped, since it may quote a file or a program.
    """
    hint = error.hint if isinstance(error, ToilfnError) else None
    report(visible(f"{program}: {error.message if isinstance(error, ToilfnError) and hint else error}"))
    if hint:
        report(visible(f"hint: {hint}"))


def standard_error() -> LenientStream:
    """Return a stream that writes to the present standard error and ignores errors."""
    return LenientStream(sys.stderr)


@contextmanager
def unfailing_standard_error() -> Iterator[None]:
    """Replace `sys.stderr` by a stream that ignores errors, for toilfn's programs and the libraries that they use."""
    open_closed_descriptors()
    before = sys.stderr
    sys.stderr = standard_error()
    try:
        yield
    finally:
        sys.stderr = before


class LenientStream(io.TextIOBase):
    """A text stream that discards text that cannot be written, instead of raising an error.

    Parameters
    ----------
    stream : file or None
        The stream to write to. With None, all text is discarded; `sys.stderr` is None if the process was started with a
        closed standard error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write a text, and flush the stream."""
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except Exception:  # of any type, since the user may have replaced `sys.stderr` by another object
                _discard(self._stream)
        return len(text)

    def flush(self) -> None:
        """Do nothing, since `write` flushes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # such as `buffer`

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except Exception:
            return False

    def fileno(self) -> int:
        """Return the stream's descriptor, if it has one."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"


def _discard(stream: Any) -> None:
    """Empty the buffer of a stream that cannot be written to; otherwise Python exits with status 120 at its end."""
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

    Otherwise the next file that is opened would get its number, and printed text would be written to that file.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system assigns the lowest free number, which is `fd`
            os.set_inheritable(fd, True)


def text_output(fd: int) -> io.TextIOWrapper:
    """Build a text stream for a standard descriptor, as Python does; closing the stream leaves the descriptor open."""
    return io.TextIOWrapper(
        io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def flush(*streams: Any) -> None:
    """Flush some streams, by default standard output and error, and ignore errors."""
    for stream in streams or (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  # `suppress` takes longer, and this is done for every task
            stream.flush()
        except Exception:  # noqa: S110
            pass
