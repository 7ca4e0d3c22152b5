"""Decide in one place what the records of a log mean: `replay`.

The readers of a store (`View`, `History`, `Journal`, the lists of attempts and of files) fold the facts that `replay`
yields. Two readers do not, because they must not look at a million records one by one: `Index`, which a leader starts
with, and `Fold`. `tests/cli/test_fold.py` and `tests/core/test_replay.py` compare both with this one.

`events` is the same as a stream of events for other programs: `toilfn events`. `docs/events.md` describes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from sys import intern
from typing import Any, NamedTuple, Protocol, TypeAlias

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
    Stats,
    TaskRecord,
    assert_never,
    decode,
    display_name,
)
from toilfn.stores.log import Position

__all__ = ["AttemptEnded", "Fact", "Journal", "Readable", "Replay", "RunBegan", "TaskAdded", "read", "replay"]


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


class Journal:
    """Turns facts into events; it remembers the names of the tasks, so it must see all facts in order."""

    def __init__(self) -> None:
        self._names: dict[TaskId, str] = {}

    def events(self, fact: Fact) -> Iterator[dict[str, Any]]:
        """Return a fact as plain values."""
        match fact:
            case RunBegan(run, is_resumed):
                if not is_resumed:
                    yield {"event": "run", "number": run.number, "workflow": run.workflow, "time": run.time}
            case TaskAdded():
                yield self._added(fact)
            case Started():
                for id in fact.ids:
                    yield {"event": "started", **self._of(id), "job": fact.job, "time": fact.time}
            case AttemptEnded():
                yield from self._ended(fact)
            case Forget():
                yield from ({"event": "forgotten", **self._of(id)} for id in fact.ids)
            case Epoch() | End() | Outage() | Queue():
                yield from _of_leader(fact)
            case Function() | Deleted():
                pass  # no event
            case _:
                assert_never(fact)

    def _of(self, id: TaskId) -> dict[str, Any]:
        return {"task": id.hex(), "name": self._names.get(id, "?")}

    def _added(self, fact: TaskAdded) -> dict[str, Any]:
        task = fact.task
        self._names[task.id] = fact.name
        parent = task.parent.hex() if task.parent else None
        return {"event": "task", **self._of(task.id), "needs": _hex(task.needs), "after": _hex(task.after),
                "parent": parent}  # fmt: skip

    def _ended(self, fact: AttemptEnded) -> Iterator[dict[str, Any]]:
        match fact.record:
            case Failure() as failure:
                yield {"event": "failed", **self._of(failure.id), "attempt": failure.attempt,
                       "cause": failure.cause, "message": failure.message, "final": failure.final,
                       **_used(failure.stats)}  # fmt: skip
            case Outcome() as outcome if fact.counts:
                yield {"event": "done", **self._of(outcome.id), "attempt": outcome.attempt, **_used(outcome.stats)}


def _of_leader(fact: Epoch | End | Outage | Queue) -> Iterator[dict[str, Any]]:
    """Return the event of a record that concerns no task: leaders, the batch system, the end of a run."""
    match fact:
        case Epoch():
            yield {"event": "leader", "number": fact.number, "host": fact.host, "pid": fact.pid, "time": fact.time}
        case End():
            yield {"event": "end", "number": fact.number, "status": fact.status, "time": fact.time}
        case Outage():
            yield {"event": "outage", "message": fact.message, "time": fact.time}
        case Queue():
            for job, reason in fact.waiting.items():
                yield {"event": "queued", "job": job, "reason": reason, "time": fact.time}
            for job in fact.begun:
                yield {"event": "begun", "job": job, "time": fact.time}


def _used(stats: Stats) -> dict[str, Any]:
    return stats._asdict()


def _hex(ids: tuple[TaskId, ...]) -> list[str]:
    return [id.hex() for id in ids]
