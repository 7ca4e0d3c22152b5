"""Exceptions for people: one line, and a traceback without toilfn's own frames."""

from __future__ import annotations

import os
import subprocess
import traceback
from collections.abc import Iterator

from toilfn.errors import ToilfnError
from toilfn.text import abridged, last_lines

__all__ = ["one_line", "user_traceback"]

_OWN = os.path.dirname(os.path.abspath(__file__))
_LONGEST = 500
_MOST_LINES = 1000
"""Lines of a traceback that a store keeps; the text of an exception may have any number."""
_LAST_LINES = 20
"""Lines of a failed command's output that are shown."""


def one_line(error: BaseException) -> str:
    """Give an exception's type and the first line of its text."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def user_traceback(error: BaseException) -> str:
    """Format an exception and what caused it, without frames of toilfn's core.

    It is empty for an error of toilfn's with no other frames: its message says all. Where another error has only such
    frames, the fault is toilfn's, and they are shown.
    """
    whole = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = whole
    has_others = False
    while part is not None:
        has_others |= _leave_out_own(part)
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    if not has_others and isinstance(error, ToilfnError):
        return ""
    text = abridged("".join(whole.format()), _MOST_LINES // 2, _MOST_LINES // 2) + "\n"
    return text + "".join(_output(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _output(error: BaseException) -> str:
    """Return the end of what a failed command wrote, which the error of `subprocess` has and does not show."""
    if not isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired)):
        return ""
    parts = [("standard error", error.stderr), ("standard output", error.stdout)]
    texts = [(name, out.decode(errors="replace") if isinstance(out, bytes) else out or "") for name, out in parts]
    return "".join(f"The end of its {name}:\n{last_lines(out, _LAST_LINES)}\n" for name, out in texts if out.strip())


def _leave_out_own(part: traceback.TracebackException) -> bool:
    """Keep the frames of others, if there are any; say whether there are."""
    kept = [frame for frame in part.stack if os.path.dirname(frame.filename) != _OWN]
    if kept:
        part.stack = traceback.StackSummary.from_list(kept)
    return bool(kept)
