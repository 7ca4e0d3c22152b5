"""Show the output of one task while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from toilfn.errors import StoreError
from toilfn.ids import TaskId
from toilfn.protocol import Log, expect
from toilfn.stores import Store
from toilfn.worker.live import follow_flag, live_prefix

__all__ = ["Following"]


class Following:
    """Requests a task's output from its worker as long as a ``with`` block runs, and shows it.

    The request is a flag in the store. If the store is read-only, the output can only be read when the attempt has
    finished.

    Parameters
    ----------
    store : Store
        The store of the run.
    task : bytes
        The task's id.
    show : callable
        A function that prints a text.
    """

    def __init__(self, store: Store, task: TaskId, show: Callable[[str], None]) -> None:
        self._store = store
        self._task = task
        self._show = show
        self._seen: dict[str, int] = {}
        self._over: set[str] = set()
        self._shown = ""

    def __enter__(self) -> Following:
        with suppress(StoreError):
            self._store.set_flag(follow_flag(self._task))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(StoreError):
            self._store.clear_flag(follow_flag(self._task))
            self._store.delete_batches((), self._names())

    def look(self) -> None:
        """Read the output that the worker has sent since the last call, and show it."""
        for name, count in self._names().items():
            seen = self._seen.get(name, 0)
            if name not in self._over and count > seen:
                new = self._store.get_answers(name, seen)
                self._seen[name] = seen + len(new)
                text = b"".join(expect(Log, message).text for message in new).decode(errors="replace")
                self._shown += text
                self._show(text)

    def take_shown(self) -> str:
        """Return the output of a finished attempt that was shown, and forget it; the attempt's log has all output."""
        self._over.update(self._names())
        shown, self._shown = self._shown, ""
        return shown

    def _names(self) -> dict[str, int]:
        prefix = live_prefix(self._task)
        return {name: count for name, count in self._store.list_answers().items() if name.startswith(prefix)}
