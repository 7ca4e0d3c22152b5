"""What has an outcome and runs again all the same, since a task that is to run needs what is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from toilfn.graph import options
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import BlobRef

__all__ = ["Renewal"]

_FILE = re.compile(rb"blobs/[0-9a-f]{2}/[0-9a-f]{32}")
"""How the name of a file's blob begins in a pickled value; no other blob begins like it."""


class Renewal:
    """Takes outcomes back in an index.

    Services have ended with their earlier users. Clients of services may have led to what knows a service that is
    gone. Files may have been deleted when all that needed them had run.

    Parameters
    ----------
    index : Index
    get_blob : callable
        Reads a large value.
    """

    def __init__(self, index: Index, get_blob: Callable[[BlobRef], bytes]) -> None:
        self._index = index
        self._get_blob = get_blob
        self._checked: set[TaskId] = set()
        self._forgotten: list[TaskId] = []
        self._gone = {match.group() for name in index.deleted if (match := _FILE.match(name.encode()))}

    def prepare(self, task: records.Task) -> None:
        """Have what a task needs run again, as far as that is needed for the task to run."""
        if self._has_services():
            for id_ in (*task.needs, *task.after):
                if id_ in self._index.outcomes and self._is_service(id_):
                    self._index.forget(id_)
        if self._gone:
            self._renew_files(task)

    def recall_client(self, task: records.Task) -> None:
        """Have a task run again whose outcome has led to something that is not complete, if it uses services."""
        if self._has_services() and any(map(self._is_service, (*task.needs, *task.after))):
            self._forget(task.id)

    def take_forgotten(self) -> tuple[TaskId, ...]:
        """Return the tasks whose outcomes do not hold any more, once."""
        forgotten, self._forgotten = tuple(self._forgotten), []
        return forgotten

    def _renew_files(self, task: records.Task) -> None:
        """Have those run again whose values hold files that were deleted: the makers, and who passed them on."""
        stack = [task]
        while stack:
            for id_ in self._holders(stack.pop().needs):
                self._forget(id_)
                stack.append(self._index.task(id_))

    def _holders(self, needs: Iterable[TaskId]) -> Iterator[TaskId]:
        """Find the tasks whose values are needed and hold a file that was deleted."""
        stack = list(needs)
        while stack:
            id_ = stack.pop()
            if id_ in self._checked or id_ not in self._index.outcomes:
                continue
            self._checked.add(id_)
            value, refs = self._index.value(id_)
            if not self._gone.isdisjoint(_FILE.findall(self._get_blob(value) if isinstance(value, BlobRef) else value)):
                yield id_
            else:
                stack += refs

    def _forget(self, id_: TaskId) -> None:
        self._index.forget(id_)
        self._forgotten.append(id_)

    def _is_service(self, id_: TaskId) -> bool:
        return options.SERVICE in self._index.functions[self._index.task(id_).function].options

    def _has_services(self) -> bool:
        return any(options.SERVICE in function.options for function in self._index.functions.values())
