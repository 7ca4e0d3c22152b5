"""The tasks of runs for WES. Like the pages of a run, they come from the fold of its job store's log."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from toilfn.errors import ToilfnError
from toilfn.inspect.fold.columns import Row
from toilfn.inspect.fold.saved import SavedFold
from toilfn.inspect.view import State
from toilfn.model.records import Failure
from toilfn.pages.run import RunView
from toilfn.server.records import Run

__all__ = ["TaskRow", "Views", "log_of", "task_of", "tasks_page"]

_MOST_VIEWS = 32
_MOST_TASKS = 1_000_000
"""Maximum number of tasks, of all runs together, to keep in memory: about 250 MB."""


class TaskRow(NamedTuple):
    """The state of one task. Times are seconds since the epoch."""

    number: int
    """The task's number, from 1, in the order in which tasks were recorded in the run's store."""
    id: bytes
    name: str
    state: str
    """``waiting``, ``running``, ``done`` or ``failed``."""
    started: float | None
    ended: float | None
    attempts: int
    """The number of finished attempts."""
    host: str
    cause: str
    error: str


_NAMES = {State.QUEUED: "waiting"}


def tasks_page(view: RunView, size: int, after: int = 0) -> list[TaskRow]:
    """List tasks in the order in which they were recorded.

    Parameters
    ----------
    view : RunView
    size : int
        Maximum number of tasks to return.
    after : int
        The number of the last task on the previous page; 0 for the first page.
    """
    with view.lock:
        view.refresh()
        numbers = view.fold.numbers()
        first = bisect_right(numbers, after - 1)
        return [_row(view, row) for row in view.fold.rows(numbers[first : first + size])]


def task_of(view: RunView, id: bytes) -> TaskRow | None:
    """Return the task with an id; None if there is none."""
    with view.lock:
        view.refresh()
        number = view.fold.number(id)
        return None if number is None else _row(view, view.fold.rows([number])[0])


def log_of(view: RunView, id: bytes) -> Iterator[bytes]:
    """Iterate over the output of a task's attempts, in pieces.

    Raises
    ------
    InputError
        If the task does not exist.
    """
    for _, record in view.task(id.hex())[1]:
        yield from view.log(record)
        if isinstance(record, Failure):
            yield f"{record.traceback or record.message}\n".encode(errors="replace")


def _row(view: RunView, row: Row) -> TaskRow:
    last = view.fold.last_attempt(row.number)
    started, ended, host = row.since or None, None, ""
    if last is not None:
        attempt = view.attempt(last)
        host = attempt.host
        if not row.since:
            started, ended = attempt.start, attempt.start + attempt.wall
    return TaskRow(
        row.number + 1, row.id, row.name, _NAMES.get(row.state, row.state.value), started, ended, row.attempts, host,
        row.cause, row.error,
    )  # fmt: skip


class Views:
    """The views of runs; the most recently requested views are cached."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, RunView] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run: Run, *, is_final: bool) -> RunView:
        """Return the view of a run.

        Parameters
        ----------
        run : Run
        is_final : bool
            Whether the run is finished. Its log is then read a last time.
        """
        with self._lock:
            if run.id not in self._known:
                self._known[run.id] = RunView(run.open_store, saved=SavedFold(run.fold_file))
            view = self._known[run.id]
            self._known.move_to_end(run.id)
            self._forget_some()
        if is_final:
            view.settle()
        return view

    def renew(self, runs: Iterable[Run], ending: threading.Event) -> None:
        """Replace the saved folds of finished runs that another version of toilfn has saved.

        This reads whole logs, so it stops early if `ending` is set, when the server stops.
        """
        for run in runs:
            if ending.is_set():
                return
            saved = SavedFold(run.fold_file)
            with suppress(ToilfnError, OSError):
                if saved.is_outdated(run.open_store()):
                    RunView(run.open_store, saved=saved).settle()

    def forget(self, id: str) -> None:
        """Remove the view of a deleted run from the cache."""
        with self._lock:
            self._known.pop(id, None)

    def _forget_some(self) -> None:
        """Remove the least recently requested views if there are too many, or they have too many tasks.

        The caller holds the lock.
        """
        while len(self._known) > 1 and (
            len(self._known) > _MOST_VIEWS or sum(view.size for view in self._known.values()) > _MOST_TASKS
        ):
            self._known.popitem(last=False)
