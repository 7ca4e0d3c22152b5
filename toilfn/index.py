"""What a store's log holds: which tasks there are, which have an outcome, and where to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from toilfn.events import TaskId
from toilfn.records import (
    BlobRef,
    End,
    Epoch,
    Forget,
    Function,
    Outcome,
    Record,
    Run,
    Task,
    decode,
)
from toilfn.stores.log import Position

__all__ = ["Index", "Log"]


class Log(Protocol):
    """The part of a store's log that is read."""

    def read(self) -> Iterator[tuple[Position, bytes]]:
        """Iterate over all records."""

    def fetch(self, position: Position) -> bytes:
        """Read one record."""


class Index:
    """Where each record stands in the log, for a leader or a reader.

    Attributes
    ----------
    functions : dict
        Function records by their digest.
    outcomes : dict
        Place of each task's outcome: the first in the log, unless it was forgotten.
    runs : list of Run
    ended : dict
        Status of each run that ended, by its number.
    epoch : Epoch or None
        The newest leader.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: dict[TaskId, Position] = {}
        self._leads_to: dict[TaskId, tuple[TaskId, ...]] = {}
        self._complete: set[TaskId] = set()
        self.outcomes: dict[TaskId, Position] = {}
        self.functions: dict[bytes, Function] = {}
        self.runs: list[Run] = []
        self.ended: dict[int, str] = {}
        self.epoch: Epoch | None = None

    @classmethod
    def load(cls, log: Log) -> Index:
        """Read the whole log.

        Raises
        ------
        CorruptObjectError
            If an object of the log is missing or damaged.
        """
        index = cls(log)
        for position, data in log.read():
            index.add(decode(data), position)
        return index

    def add(self, record: Record, position: Position) -> None:
        """Take note of one record."""
        match record:
            case Outcome():
                self._add_outcome(record, position)
            case Task():
                self._tasks.setdefault(record.id, position)
            case Function():
                self.functions[record.digest] = record
            case Forget():
                self._forget(record.ids)
            case Run():
                self.runs.append(record)
            case End():
                self.ended[record.number] = record.status
            case Epoch():
                self.epoch = record

    def _add_outcome(self, record: Outcome, position: Position) -> None:
        if record.id in self.outcomes:
            return
        self.outcomes[record.id] = position
        for task in record.tasks:
            self._tasks.setdefault(task.id, position)
        for function in record.functions:
            self.functions[function.digest] = function
        leads_to = dict.fromkeys((*(task.id for task in record.tasks), *record.refs))
        if leads_to:
            self._leads_to[record.id] = tuple(leads_to)

    def _forget(self, ids: Iterable[TaskId]) -> None:
        for id_ in ids:
            self.outcomes.pop(id_, None)
            self._leads_to.pop(id_, None)
        self._complete.clear()

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a record of this task or this function."""
        return key in self._tasks or key in self.functions

    def task(self, id_: TaskId) -> Task:
        """Read a task's record."""
        record = decode(self._log.fetch(self._tasks[id_]))
        if isinstance(record, Outcome):
            return next(task for task in record.tasks if task.id == id_)
        assert isinstance(record, Task)
        return record

    def outcome(self, id_: TaskId) -> Outcome:
        """Read a task's outcome."""
        record = decode(self._log.fetch(self.outcomes[id_]))
        assert isinstance(record, Outcome)
        return record

    def value(self, id_: TaskId) -> tuple[bytes | BlobRef, tuple[TaskId, ...]]:
        """Read a task's value, as a payload, and the tasks it refers to."""
        record = self.outcome(id_)
        return record.value, record.refs

    def leads_to(self, id_: TaskId) -> tuple[TaskId, ...]:
        """List the tasks that a finished task created, and those its value refers to."""
        return self._leads_to.get(id_, ())

    def is_complete(self, id_: TaskId) -> bool:
        """Whether a task and all it led to have outcomes."""
        if id_ not in self.outcomes:
            return False
        if id_ in self._complete or id_ not in self._leads_to:
            return True
        return self._settle(id_)

    def _settle(self, id_: TaskId) -> bool:
        seen: set[TaskId] = set()
        stack = [id_]
        while stack:
            current = stack.pop()
            if current in seen or current in self._complete:
                continue
            if current not in self.outcomes:
                return False
            seen.add(current)
            stack.extend(self._leads_to.get(current, ()))
        self._complete |= seen
        return True
