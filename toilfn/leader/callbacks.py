"""Functions through which the leader reports, and learns that it should stop; Ctrl-C and SIGTERM.

Ctrl-C once starts nothing more and waits, twice stops at once. SIGTERM ends the leader alone.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

from toilfn.clusters.base import JobId
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.stdio import report, report_error
from toilfn.units import format_size
from toilfn.worker.surroundings import in_forked_children

__all__ = ["TERMINATED", "BadWorkers", "Callbacks", "Interrupts", "ScarceDisk", "interrupted_run"]

_DISK_INTERVAL = 0.2
"""Seconds between two looks at the free space of a disk."""

_FREE_SHARE = 20
_FREE_MOST = 10 * 2**30
"""A run that drops files keeps a twentieth of the disk free, but at most this many bytes."""


@dataclass(slots=True)
class Callbacks:
    """Functions that a leader calls, some of them a few times a second.

    Attributes
    ----------
    should_drain : callable
        Whether to start no more tasks and wait for those that run.
    should_hold : callable
        Whether to finish running tasks before anything else starts.
    should_stop : callable
        Whether to end at once.
    tick : callable
        Called with the scheduler's counts, and a function that names the tasks that are running, for progress.
    victims : callable
        Called with the jobs that the cluster has; chooses some to kill, to test a workflow.
    ended : callable or None
        Called with a task's name and the record of each attempt that ended.
    said : callable or None
        Called with a task's name and id, and what its running attempt has printed since the last time.
    warned : callable
        Called with a task's name and its log messages of the level WARNING or above.
    warn : callable
        Called with warnings about jobs that do not start.
    worked : callable or None
        Called with the seconds that the leader has worked between two looks for news.
    service_patience : float
        For how many seconds clients of services may wait in a queue while nothing else can start.
    """

    should_drain: Callable[[], bool] = lambda: False
    should_hold: Callable[[], bool] = lambda: False
    should_stop: Callable[[], bool] = lambda: False
    tick: Callable[[dict[str, int], Callable[[], list[str]]], None] = lambda *_: None
    victims: Callable[[Collection[JobId]], Sequence[JobId]] = lambda _: ()
    ended: Callable[[str, records.Outcome | records.Failure], None] | None = None
    said: Callable[[str, TaskId, bytes], None] | None = None
    warned: Callable[[str, str], None] = lambda *_: None
    warn: Callable[[str], None] = lambda _: None
    worked: Callable[[float], None] | None = None
    service_patience: float = 600.0


T = TypeVar("T")


class BadWorkers:
    """Chooses the jobs to kill.

    Parameters
    ----------
    probability : float
        With which each job is chosen in one interval, from 0 to 1.
    interval : float
        Seconds.
    """

    def __init__(self, probability: float, interval: float) -> None:
        self._probability = probability
        self._interval = interval
        self._next = time.monotonic() + interval if probability else float("inf")
        self._random = random.Random()  # noqa: S311 - not a secret

    def choose(self, jobs: Collection[T]) -> Sequence[T]:
        """Choose from the jobs that run now; return nothing before an interval has passed."""
        now = time.monotonic()
        if now < self._next:
            return ()
        self._next = now + self._interval
        return [job for job in jobs if self._random.random() < self._probability]


class ScarceDisk:
    """Watches the free space of a store's disk, so that tasks do not fill it faster than files are removed.

    Parameters
    ----------
    path : Path
        The store's directory.
    least : int or None
        The bytes to keep free; None for a share of the disk.
    warn : callable
        Called once, when there is less.
    """

    def __init__(self, path: Path, least: int | None, warn: Callable[[str], None]) -> None:
        self._path = path
        self._least = least
        self._warn = warn
        self._looked = float("-inf")
        self._is_scarce = False

    def is_scarce(self) -> bool:
        """Return whether the free space is below the limit."""
        now = time.monotonic()
        if now >= self._looked + _DISK_INTERVAL:
            self._looked = now
            self._look()
        return self._is_scarce

    def _look(self) -> None:
        try:
            found = shutil.disk_usage(self._path)
        except OSError:  # the next write there fails with its own error
            self._is_scarce = False
            return
        least = min(found.total // _FREE_SHARE, _FREE_MOST) if self._least is None else self._least
        self._is_scarce = found.free < least
        if self._is_scarce:
            self._warn(
                f"the disk of {self._path} has only {format_size(found.free)} free (min_free is {format_size(least)}):"
                " new tasks start one by one until files have been removed"
            )
            self._warn = lambda text: None


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

    Outside the main thread nothing is changed: Python allows signal handlers there only. A signal that the process
    ignores already, after `trap '' INT` in a shell for example, stays ignored.

    Attributes
    ----------
    count : int
        How often the user asked to stop.
    is_terminated : bool
        Whether SIGTERM came: the leader has to end at once, and leaves its jobs alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
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
        """Restore the earlier handlers of signals."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def should_drain(self) -> bool:
        """Whether to start no more tasks and wait for those that run."""
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
            text = "toilfn: waiting for running tasks; press Ctrl-C again to stop them"
            report(text)


_active: list[Interrupts] = []
"""The interrupts of all leaders that run in this process."""


def _forget_in_child() -> None:
    """Restore the default handling of signals in a process that a task forks from the leader's."""
    while _active:
        _active.pop().put_back()


in_forked_children(_forget_in_child)
