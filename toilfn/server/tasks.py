"""The tasks of runs, as WES shows them: from the fold of each run's log, which the pages of the run show, too."""

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
"""Tasks of all runs that are remembered together: about 250 MB."""


class TaskRow(NamedTuple):
    """The state of one task. Times are seconds since the epoch."""

    number: int
    """From 1, in the order in which the run's store learnt of them."""
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
    """List tasks in the order in which they came into being.

    Parameters
    ----------
    view : RunView
    size : int
        The most tasks to return.
    after : int
        The number of the last task of the page before.
    """
    with view.lock:
        view.refresh()
        numbers = view.fold.numbers()
        first = bisect_right(numbers, after - 1)
        return [_row(view, row) for row in view.fold.rows(numbers[first : first + size])]


def task_of(view: RunView, id: bytes) -> TaskRow | None:
    """Return one task; None if there is none of this id."""
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
            Whether the run is finished, so that its log is read once more, and then never again.
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
        """Read the logs of finished runs whose saved folds have another version, until the server stops."""
        for run in runs:
            if ending.is_set():
                return
            saved = SavedFold(run.fold_file)
            with suppress(ToilfnError, OSError):
                if saved.is_outdated(run.open_store()):
                    RunView(run.open_store, saved=saved).settle()

    def forget(self, id: str) -> None:
        """Forget a run that was deleted."""
        with self._lock:
            self._known.pop(id, None)

    def _forget_some(self) -> None:
        """Forget the views that were not requested the longest, when there are many, or large ones."""
        while len(self._known) > 1 and (
            len(self._known) > _MOST_VIEWS or sum(view.size for view in self._known.values()) > _MOST_TASKS
        ):
            self._known.popitem(last=False)
