"""Ctrl-C during a run: once to start nothing more and wait, twice to stop at once. SIGTERM ends the leader alone."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from toilfn.forks import in_forked_children
from toilfn.stdio import report, report_error

__all__ = ["TERMINATED", "Interrupts", "interrupted_run"]

TERMINATED = 128 + signal.SIGTERM
"""The exit status of a process that ends because of SIGTERM, as shells report it."""


_MARK = "is_run_by_toilfn"


def interrupted_run(message: str) -> KeyboardInterrupt:
    """Build the exception of a run that Ctrl-C has stopped; the message says how to continue.

    If it is not caught, only the message is printed: where in toilfn the leader was does not matter. It is not a
    subclass, since Python ends a process by SIGINT for `KeyboardInterrupt` itself only.
    """
    error = KeyboardInterrupt(message)
    setattr(error, _MARK, True)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_message
    return error


def _print_message(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that was not caught: an interrupted run in one line, everything else as Python does."""
    if not hasattr(error, _MARK):
        sys.__excepthook__(kind, error, trace)
    else:
        report_error("toilfn", error)


class Interrupts:
    """Counts interrupts while a leader runs, instead of letting them break it.

    Outside the main thread nothing is changed: Python allows signal handlers there only.

    Attributes
    ----------
    count : int
        How often the user asked to stop.
    is_terminated : bool
        Whether SIGTERM came: the leader is to end at once, which says nothing about its jobs.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
            _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in _active:
            _active.remove(self)
        self.put_back()

    def put_back(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def should_drain(self) -> bool:
        """Whether to start nothing more and wait for what runs."""
        return self.count == 1 and not self.is_terminated

    @property
    def should_stop(self) -> bool:
        """Whether to end at once."""
        return self.count > 1 or self.is_terminated

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.is_terminated = True
            return
        self.count += 1
        if self.count == 1:
            text = "toilfn: waiting for the tasks that run; press Ctrl-C again to stop them"
            report(text)


_active: list[Interrupts] = []
"""Those of the leaders that run in this process."""


def _forget_in_child() -> None:
    """Let a process that a task forks in the leader's own die of a signal as any other does."""
    while _active:
        _active.pop().put_back()


in_forked_children(_forget_in_child)
