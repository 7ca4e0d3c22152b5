"""Decide in one place what the records of a log mean: `replay`.

The readers of a store (`View`, `History`, `Journal`, the lists of attempts and of files) fold the facts that `replay`
yields. Two readers do not, because they must not look at a million records one by one: `Index`, which a leader starts
with, and `Fold`. `tests/cli/test_fold.py` and `tests/core/test_replay.py` compare both with this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from sys import intern
from typing import NamedTuple, Protocol, TypeAlias

from toilfn.ids import TaskId
from toilfn.model.records import (
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
    display_name,
)
from toilfn.stores.log import Position

__all__ = ["AttemptEnded", "Fact", "Readable", "Replay", "RunBegan", "TaskAdded", "read", "replay"]


class RunBegan(NamedTuple):
    """A run began or was resumed."""

    run: Run
    is_resumed: bool


class TaskAdded(NamedTuple):
    """The store learnt of a task; of several records of one task, the first counts."""

    task: TaskRecord
    name: str


class AttemptEnded(NamedTuple):
    """An attempt ended. The functions and the tasks that it made follow."""

    record: Outcome | Failure
    """Its `attempt` is the number through all runs, from 1."""
    run: int
    """The number of the run in which it ended."""
    counts: bool
    """False if the task had an outcome before, which was not forgotten: the first one in the log is the task's."""


Fact: TypeAlias = (
    Epoch | RunBegan | Function | TaskAdded | Started | Queue | AttemptEnded | Forget | Deleted | Outage | End
)


class Readable(Protocol):
    """The part of a log that is read."""

    def read(self) -> Iterable[tuple[Position, bytes]]:
        """Iterate over all records."""


def read(log: Readable, start: int = 0) -> Iterator[Record]:
    """Iterate over the records of a log, without the first `start`.

    Raises
    ------
    CorruptObjectError
        If an object of the log or a record is damaged.
    """
    for number, (position, data) in enumerate(log.read()):
        if number >= start:
            yield decode(data, position)


def replay(records: Iterable[Record]) -> Iterator[Fact]:
    """Iterate over the facts of a log's records, in order, from the first record on."""
    replay = Replay()
    for record in records:
        yield from replay.facts(record)


class Replay:
    """Turns records into facts, one after the other."""

    def __init__(self) -> None:
        self._functions: dict[bytes, str] = {}
        self._tasks: set[TaskId] = set()
        self._done: set[TaskId] = set()
        self._attempts: Counter[TaskId] = Counter()
        self._runs: set[int] = set()
        self._run = 0

    def facts(self, record: Record) -> Iterator[Fact]:
        """Return the fact of the next record."""
        match record:
            case Outcome() | Failure():
                yield from self._ended(record)
            case TaskRecord():
                yield from self._added(record)
            case Function():
                self._functions[record.digest] = intern(record.name)
                yield record
            case Run():
                self._run = record.number
                yield RunBegan(record, record.number in self._runs)
                self._runs.add(record.number)
            case Forget():
                self._done.difference_update(record.ids)
                yield record
            case Started() | Queue() | Deleted() | Outage() | Epoch() | End():
                yield record
            case _:
                assert_never(record)

    def _ended(self, record: Outcome | Failure) -> Iterator[Fact]:
        id = record.id
        self._attempts[id] += 1
        counts = id not in self._done
        yield AttemptEnded(record._replace(attempt=self._attempts[id]), self._run, counts)
        if isinstance(record, Outcome) and counts:
            self._done.add(id)
            for function in record.functions:
                yield from self.facts(function)
            for task in record.tasks:
                yield from self._added(task)

    def _added(self, task: TaskRecord) -> Iterator[Fact]:
        if task.id not in self._tasks:
            self._tasks.add(task.id)
            yield TaskAdded(task, display_name(task, self._functions.get(task.function)))
