"""Ctrl-C during a run: once to start nothing more and wait, twice to stop at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Counts interrupts while a leader runs, instead of letting them break it.

    SIGTERM counts as two. Outside the main thread nothing is changed: Python allows signal
    handlers there only.

    Attributes
    ----------
    count : int
        How often the user asked to stop.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 2 if number == signal.SIGTERM else 1
        if self.count == 1:
            text = "toilfn: waiting for the tasks that run; press Ctrl-C again to stop them"
            print(text, file=sys.stderr, flush=True)
