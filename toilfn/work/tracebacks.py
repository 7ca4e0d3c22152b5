"""Exceptions for people: one line, and a traceback without toilfn's own frames."""

from __future__ import annotations

import os
import traceback

from toilfn.errors import ToilfnError

__all__ = ["one_line", "user_traceback"]

_OWN = os.path.dirname(os.path.abspath(__file__))
_LONGEST = 500


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
    return "".join(whole.format()) if has_others or not isinstance(error, ToilfnError) else ""


def _leave_out_own(part: traceback.TracebackException) -> bool:
    """Keep the frames of others, if there are any; say whether there are."""
    kept = [frame for frame in part.stack if os.path.dirname(frame.filename) != _OWN]
    if kept:
        part.stack = traceback.StackSummary.from_list(kept)
    return bool(kept)
