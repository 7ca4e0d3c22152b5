"""Compute the identities of spans, so that `toilfn trace` and the programs of tasks use the same ones.

They are W3C trace contexts, as in the environment variable ``TRACEPARENT``: version, trace, span and flags.
"""

from __future__ import annotations

import re
import struct
import uuid
from typing import NamedTuple

from toilfn.ids import TaskId

__all__ = ["VARIABLE", "TraceContext", "attempt_span", "run_span", "run_uuid"]

VARIABLE = "TRACEPARENT"
"""The environment variable that holds the context of a span."""

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_HALF = (1 << 64) - 1
_time = struct.Struct("<d").pack
_number = struct.Struct("<Q").unpack_from


class TraceContext(NamedTuple):
    """A span of a trace."""

    trace: str
    """32 hexadecimal digits."""
    span: str
    """16 hexadecimal digits."""
    flags: str = "01"

    @classmethod
    def read(cls, text: str) -> TraceContext | None:
        """Read the variable's value; return None if it has another form."""
        found = _FORM.fullmatch(text)
        if found is None or (found[1] == "00" and found[5]):
            return None
        return cls(*found.group(2, 3, 4))

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags}"


def run_uuid(store: str, number: int) -> uuid.UUID:
    """Return the identity of a run, by its store's id and its number."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"toilfn:{store}/{number}")


def run_span(store: str, number: int, parent: str | None) -> TraceContext:
    """Return the span of a run.

    Parameters
    ----------
    store : str
        The store's id.
    number : int
        The run's number.
    parent : str or None
        The context in which the run was started, if there was one: the span belongs to its trace.
    """
    own = run_uuid(store, number)
    outer = TraceContext.read(parent or "")
    span = f"{own.int & _HALF:016x}"
    return TraceContext(own.hex, span) if outer is None else TraceContext(outer.trace, span, outer.flags)


def attempt_span(task: TaskId, start: float) -> str:
    """Return the id of an attempt's span.

    It has as many random bits as a task's id, and is quick to find, since each attempt needs it.

    Parameters
    ----------
    task : TaskId
    start : float
        When the worker began the attempt, in seconds since the epoch: it knows no number that holds for all runs.
    """
    return f"{_number(task)[0] ^ _number(_time(start))[0]:016x}"
