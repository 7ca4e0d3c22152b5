"""The index of a store's log: its tasks, their outcomes, and where to read both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from toilfn.ids import TaskId
from toilfn.model.records import (
    BlobRef,
    Deleted,
    End,
    Epoch,
    Failure,
    Forget,
    Function,
    Outage,
    Outcome,
    Queue,
    Record,
    Run,
    Started,
    TaskRecord,
    assert_never,
    decode,
    start_of,
    uncollected,
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
    """Knows the place of each record in the log, for a leader or a reader.

    Attributes
    ----------
    functions : dict
        Function records by their digest.
    deleted : set of str
        Names of files that were deleted.
    dropped : set of str
        Names of those that were removed because nothing needed them any longer.
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
        self._knows_children = False
        self._void: dict[TaskId, tuple[int, ...]] = {}
        self.deleted: set[str] = set()
        self.dropped: set[str] = set()
        self.outcomes: dict[TaskId, Position] = {}
        self.functions: dict[bytes, Function] = {}
        self.runs: list[Run] = []
        self.ended: dict[int, str] = {}
        self.epoch: Epoch | None = None

    @classmethod
    @uncollected()
    def load(cls, log: Log) -> Index:
        """Read the whole log.

        Raises
        ------
        CorruptObjectError
            If an object of the log is missing or damaged.
        """
        index = cls(log)
        outcome, task = start_of(Outcome), start_of(TaskRecord)
        after_outcome, after_task = slice(len(outcome), len(outcome) + 16), slice(len(task), len(task) + 16)
        for position, data in log.read():
            # Of the many tasks and outcomes only the ids are read now; most are never looked at.
            if data.startswith(outcome):
                index.outcomes.setdefault(data[after_outcome], position)
            elif data.startswith(task):
                index._tasks[data[after_task]] = position
            else:
                index._add(decode(data, position))
        return index

    def _add(self, record: Record) -> None:
        assert not isinstance(record, (Outcome, TaskRecord))
        match record:
            case Function():
                self.functions[record.digest] = record
            case Forget():
                for id_ in record.ids:
                    self._void[id_] = _age(record.before)
                    if id_ in self.outcomes:
                        self.leads_to(id_)  # the functions that it made stay known
                        del self.outcomes[id_], self._leads_to[id_]
            case Deleted():
                self.deleted.update(record.names)
                if record.dropped:
                    self.dropped.update(record.names)
            case Run():
                self.runs = [*(run for run in self.runs if run.number != record.number), record]
                self.ended.pop(record.number, None)
            case End():
                self.ended[record.number] = record.status
            case Epoch():
                self.epoch = record
            case Started() | Queue() | Failure() | Outage():
                pass  # nothing that a leader has to know again
            case _:
                assert_never(record)

    def task(self, id_: TaskId) -> TaskRecord:
        """Read a task's record."""
        if id_ not in self._tasks and not self._knows_children:
            self._find_children()
        record = decode(self._log.fetch(self._tasks[id_]), self._tasks[id_])
        if isinstance(record, Outcome):
            return next(task for task in record.tasks if task.id == id_)
        assert isinstance(record, TaskRecord)
        return record

    def _find_children(self) -> None:
        """Note where all tasks made by tasks are."""
        self._knows_children = True
        for id_ in self.outcomes:
            self.leads_to(id_)

    def forget(self, id_: TaskId) -> None:
        """Treat a task as one that has not run; the tasks that it created stay known."""
        self.leads_to(id_)
        del self.outcomes[id_]
        self._complete.clear()  # whatever led to it is not complete either

    def is_void(self, id_: TaskId, batch: str) -> bool:
        """Return whether a batch's result of a task does not count, since the task was forgotten later."""
        return id_ in self._void and _age(batch) <= self._void[id_]

    def outcome(self, id_: TaskId) -> Outcome:
        """Read a task's outcome."""
        record = decode(self._log.fetch(self.outcomes[id_]), self.outcomes[id_])
        assert isinstance(record, Outcome)
        return record

    def value(self, id_: TaskId) -> tuple[bytes | BlobRef, tuple[TaskId, ...]]:
        """Read a task's value, as a payload, and the tasks it refers to."""
        record = self.outcome(id_)
        return record.value, record.refs

    def leads_to(self, id_: TaskId) -> tuple[TaskId, ...]:
        """List the tasks that a finished task created, and those its value refers to."""
        known = self._leads_to.get(id_)
        if known is None:
            known = self._leads_to[id_] = self._read_children(id_)
        return known

    def _read_children(self, id_: TaskId) -> tuple[TaskId, ...]:
        record = self.outcome(id_)
        for task in record.tasks:
            self._tasks.setdefault(task.id, self.outcomes[id_])
        for function in record.functions:
            self.functions.setdefault(function.digest, function)
        return tuple(dict.fromkeys((*(task.id for task in record.tasks), *record.refs)))

    def is_complete(self, id_: TaskId) -> bool:
        """Return whether a task and all it led to have outcomes."""
        if id_ in self._complete:
            return True
        return id_ in self.outcomes and self._settle(id_)

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
            stack.extend(self.leads_to(current))
        self._complete |= seen
        return True


def _age(batch: str) -> tuple[int, ...]:
    """Return a key that orders batches by their names: the leader's epoch and the number."""
    return tuple(map(int, batch.split("-"))) if batch else ()
