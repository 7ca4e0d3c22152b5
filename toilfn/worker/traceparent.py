"""``TRACEPARENT`` in the environment of each attempt, so that spans of its programs are below the attempt's own."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from toilfn.ids import TaskId
from toilfn.model.traces import VARIABLE, TraceContext, attempt_span

__all__ = ["AttemptTraces"]

_NAME = VARIABLE.encode()


class AttemptTraces:
    """Sets the variable for one attempt after the other.

    `os.putenv` keeps each value for ever, and an attempt may be one of a million. So the entry of the environment is
    our own memory, as putenv(3) allows, and only the digits of the span's id change.

    Parameters
    ----------
    run : TraceContext
        The run's span.
    """

    def __init__(self, run: TraceContext) -> None:
        before, after = f"00-{run.trace}-".encode(), f"-{run.flags}".encode()
        self._ends = before, after
        self._entry = ctypes.create_string_buffer(_NAME + b"=" + str(run).encode())
        start = len(_NAME) + 1 + len(before)
        self._digits = memoryview(self._entry).cast("B")[start : start + 16]
        self._put = ctypes.CDLL(None).putenv
        self._variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
        _entries.append(self._entry)  # the environment points to it for as long as the process lives

    @classmethod
    def of_environment(cls) -> AttemptTraces | None:
        """Return what sets the variable below the span that it names now; None if it names none."""
        run = TraceContext.read(os.environ.get(VARIABLE, ""))
        return None if run is None else cls(run)

    def set(self, task: TaskId, start: float) -> tuple[bytes, bytes]:
        """Set the variable for an attempt, and return its name and value."""
        span = attempt_span(task, start).encode()
        self._digits[:] = span
        self._put(self._entry)  # it may have been replaced
        value = self._variables[_NAME] = self._ends[0] + span + self._ends[1]
        return _NAME, value


_entries: list[ctypes.Array[Any]] = []
