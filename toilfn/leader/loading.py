"""Brings unfinished work of a store into a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from toilfn.config.settings import Settings
from toilfn.graph import options
from toilfn.graph.requirements import LATE, unpack
from toilfn.graph.serialize import resolve
from toilfn.ids import Budget, TaskId
from toilfn.leader.renewal import Renewal
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, encode
from toilfn.model.values import Entry
from toilfn.resources import Resources
from toilfn.scheduler.events import Event, Finished, NewTask, Submitted

__all__ = ["Loader"]


class Loader:
    """Turns task records into what the scheduler knows of tasks.

    Attributes
    ----------
    encoded : dict
        The records of tasks that have no outcome yet, as workers get them.
    """

    def __init__(self, index: Index, settings: Settings, get_blob: Callable[[BlobRef], bytes]) -> None:
        self._index = index
        self._get_blob = get_blob
        self._settings = settings
        self._defaults = options.defaults(settings)
        self._kinds: dict[bytes, int] = {}
        self._asked = lru_cache(maxsize=4096)(self._resolve)
        self._renewal = Renewal(index, get_blob)
        self._new: list[NewTask] = []
        self.encoded: dict[TaskId, bytes] = {}

    def add(self, task: records.Task, data: bytes) -> None:
        """Take in a task that was written to the log just now, with its encoded record."""
        self._renewal.prepare(task)
        self._new.append(self.admit(task, data))

    def load(self, roots: Iterable[TaskId]) -> Iterator[Event]:
        """Build the events that bring tasks, and all that they still need, to the scheduler.

        Tasks that are complete are left out. Those that have an outcome but led to something
        that is not complete come with it, as if they had just finished. Tasks that were added are
        among them.
        """
        new, self._new = self._new, []
        stack = [need for task in new for need in task.needs if need not in self.encoded]
        stack.extend(roots)
        finished: list[Finished] = []
        seen: set[TaskId] = set()
        while stack:
            id_ = stack.pop()
            if id_ in seen or id_ in self.encoded or self._index.is_complete(id_):
                continue
            seen.add(id_)
            task = self._index.task(id_)
            if id_ in self._index.outcomes:
                self._renewal.recall_client(task)
            if id_ not in self._index.outcomes:
                self._renewal.prepare(task)
            new.append(self.admit(task))
            stack.extend((*task.needs, *task.after))
            if id_ in self._index.outcomes:
                del self.encoded[id_]
                leads_to = tuple(i for i in self._index.leads_to(id_) if not self._index.is_complete(i))
                finished.append(Finished(id_, waits=leads_to))
                stack.extend(leads_to)
        yield Submitted(tuple(new))
        del new
        yield from finished

    def admit(self, task: records.Task, data: bytes | None = None) -> NewTask:
        """Keep a task's record, encoded as `data`, and say what the scheduler is to know of it."""
        self.encoded[task.id] = encode(task) if data is None else data
        shape, budget = self._asks(task)
        needs = (*task.needs, *task.after)
        if needs:
            needs = tuple(need for need in needs if not self._index.is_complete(need))
        kind = self._kinds.setdefault(task.function, len(self._kinds))
        is_checkpoint = options.is_checkpoint(self._index.functions[task.function].options, task.options)
        kinds = LATE in task.options, self.is_service(task), is_checkpoint
        return NewTask(task.id, needs, shape, kind, budget, task.parent, *kinds)

    def is_service(self, task: records.Task) -> bool:
        """Return whether a task is a service."""
        return options.SERVICE in self._index.functions[task.function].options

    def prepare(self, task: records.Task) -> None:
        """Have what a task that is to run needs run again, where that is gone; before `admit`."""
        self._renewal.prepare(task)

    def take_forgotten(self) -> tuple[TaskId, ...]:
        """Return the tasks whose outcomes do not hold any more, once."""
        return self._renewal.take_forgotten()

    def late_shape(
        self, task: records.Task, closure: Callable[[Iterable[TaskId]], Mapping[TaskId, Entry]]
    ) -> Resources:
        """Return what a task asks for whose requirements come from values.

        Parameters
        ----------
        task : records.Task
        closure : callable
            Gives the values of tasks, and of all that they refer to.

        Raises
        ------
        ResourceError
            If a value is none that the requirement can have.
        """
        awaited = task.options[LATE][1]
        entries = {
            id_: (self._get_blob(value) if isinstance(value, BlobRef) else value, refs)
            for id_, (value, refs) in closure(awaited).items()
        }
        own = options.merge(self._index.functions[task.function].options, task.options)
        return options.resources(unpack(own, resolve(awaited, entries)), self._defaults)

    def _asks(self, task: records.Task) -> tuple[Resources, Budget]:
        asked = self._asked if _plain(task.options) else self._resolve
        return asked(task.function, tuple(task.options.items()))

    def _resolve(self, digest: bytes, overrides: tuple[tuple[str, object], ...]) -> tuple[Resources, Budget]:
        asked = options.merge(self._index.functions[digest].options, dict(overrides))
        return options.resources(asked, self._defaults), options.budget(asked, self._settings)


def _plain(values: dict[str, object]) -> bool:
    return all(value is None or isinstance(value, (str, int, float)) for value in values.values())
