"""A store's log as a stream of events for other programs: `toilfn events`. `docs/events.md` describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from sys import intern
from typing import Any

from toilfn.ids import TaskId
from toilfn.model.records import (
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
)

__all__ = ["Journal"]


class Journal:
    """Turns records into events; it remembers the names of the tasks, so it must see all records in order."""

    def __init__(self) -> None:
        self._functions: dict[bytes, str] = {}
        self._names: dict[TaskId, str] = {}
        self._done: set[TaskId] = set()
        self._attempts: Counter[TaskId] = Counter()
        self._runs: set[int] = set()

    def events(self, record: Record) -> Iterator[dict[str, Any]]:
        """Return what a record tells, as plain values."""
        match record:
            case Run() if record.number not in self._runs:  # else it was resumed
                self._runs.add(record.number)
                yield {"event": "run", "number": record.number, "workflow": record.workflow, "time": record.time}
            case Function():
                self._functions[record.digest] = intern(record.name)
            case TaskRecord():
                yield from self._task(record)
            case Started():
                for id in record.ids:
                    yield {"event": "started", **self._of(id), "job": record.job, "time": record.time}
            case Outcome():
                yield from self._outcome(record)
            case Failure():
                yield {"event": "failed", **self._of(record.id), "attempt": self._count(record.id),
                       "cause": record.cause, "message": record.message, "final": record.final,
                       **_used(record.stats)}  # fmt: skip
            case Forget():
                self._done.difference_update(record.ids)
                yield from ({"event": "forgotten", **self._of(id)} for id in record.ids)
            case _:
                yield from _of_leader(record)

    def _of(self, id: TaskId) -> dict[str, Any]:
        return {"task": id.hex(), "name": self._names.get(id, "?")}

    def _count(self, id: TaskId) -> int:
        """Number an attempt through all runs, as `View.attempts` does."""
        self._attempts[id] += 1
        return self._attempts[id]

    def _task(self, task: TaskRecord) -> Iterator[dict[str, Any]]:
        if task.id in self._names:
            return
        self._names[task.id] = task.options.get("name") or self._functions.get(task.function, "?")
        parent = task.parent.hex() if task.parent else None
        yield {"event": "task", **self._of(task.id), "needs": _hex(task.needs), "after": _hex(task.after),
               "parent": parent}  # fmt: skip

    def _outcome(self, outcome: Outcome) -> Iterator[dict[str, Any]]:
        attempt = self._count(outcome.id)
        if outcome.id in self._done:
            return  # the first outcome of a task counts
        self._done.add(outcome.id)
        self._functions.update((function.digest, intern(function.name)) for function in outcome.functions)
        yield {"event": "done", **self._of(outcome.id), "attempt": attempt, **_used(outcome.stats)}
        for task in outcome.tasks:
            yield from self._task(task)


def _of_leader(record: Record) -> Iterator[dict[str, Any]]:
    """Return what a record tells that concerns no task: leaders, the batch system, the end of a run."""
    match record:
        case Epoch():
            yield {"event": "leader", "number": record.number, "host": record.host, "pid": record.pid,
                   "time": record.time}  # fmt: skip
        case End():
            yield {"event": "end", "number": record.number, "status": record.status, "time": record.time}
        case Outage():
            yield {"event": "outage", "message": record.message, "time": record.time}
        case Queue():
            for job, reason in record.waiting.items():
                yield {"event": "queued", "job": job, "reason": reason, "time": record.time}
            for job in record.begun:
                yield {"event": "begun", "job": job, "time": record.time}


def _used(stats: Stats) -> dict[str, Any]:
    return stats._asdict()


def _hex(ids: tuple[TaskId, ...]) -> list[str]:
    return [id.hex() for id in ids]
