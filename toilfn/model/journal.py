"""A store's log as a stream of events for other programs: `toilfn events`. `docs/events.md` describes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    Started,
    Stats,
    assert_never,
)
from toilfn.model.replay import AttemptEnded, Fact, RunBegan, TaskAdded

__all__ = ["Journal"]


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
    """Return what concerns no task: leaders, the batch system, the end of a run."""
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
