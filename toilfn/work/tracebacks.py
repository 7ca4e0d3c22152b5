"""Exceptions for people: one line, and a traceback without toilfn's own frames."""

from __future__ import annotations

import os
import traceback

__all__ = ["one_line", "user_traceback"]

_OWN = os.path.dirname(os.path.abspath(__file__))
_LONGEST = 500


def one_line(error: BaseException) -> str:
    """Give an exception's type and the first line of its text."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def user_traceback(error: BaseException) -> str:
    """Format an exception and what caused it, without frames of toilfn's core."""
    whole = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException | None] = [whole]
    while pending:
        part = pending.pop()
        if part is not None:
            _leave_out_own(part)
            pending += [part.__cause__, part.__context__]
    return "".join(whole.format())


def _leave_out_own(part: traceback.TracebackException) -> None:
    kept = [frame for frame in part.stack if os.path.dirname(frame.filename) != _OWN]
    if kept:
        part.stack = traceback.StackSummary.from_list(kept)
