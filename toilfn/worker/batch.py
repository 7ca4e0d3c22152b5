"""The tasks of one message to a worker: runs them in order, and decides which of them cannot run here."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from toilfn.clusters.base import FRESH_VARIABLE
from toilfn.graph.options import SERVICE
from toilfn.graph.serialize import only_reference
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.protocol import Run
from toilfn.worker.answers import Answers
from toilfn.worker.execute import Attempt, AttemptRunner
from toilfn.worker.payloads import Payloads
from toilfn.worker.services import Host

__all__ = ["Batch"]

_AT_MOST = ("cores", "memory", "disk", "walltime")
_ALIKE = ("accelerators", "preemptible", "local", "checkpoint", SERVICE)


class Batch:
    """Tasks in order, and the values they need.

    A task that leads to one other task which can start now is followed by that one at once, here: a
    tail call, or a recursion. A loop of tail calls takes no more memory than one.

    Parameters
    ----------
    executor : AttemptRunner
        Runs the attempts.
    order : Run
        The message. If it has a walltime for the whole batch, a task whose own walltime no longer fits into the rest
        is refused, unless it is the first one: so no task dies of the time that others took.
    """

    def __init__(self, executor: AttemptRunner, order: Run) -> None:
        executor.learn(map(_function, order.functions), recorded=True)
        self._executor = executor
        self._queue = deque(Attempt(_task(record), number, limits) for record, number, limits in order.tasks)
        entries = {id_: (records.payload_or_ref(value), refs) for id_, (value, refs) in order.values.items()}
        self.payloads = Payloads(entries, executor.blobs)
        self._wanted = {need for attempt in self._queue for need in attempt.task.needs} - entries.keys()
        self._incomplete: set[TaskId] = set()
        self._deadline = math.inf if order.walltime is None else time.monotonic() + order.walltime
        self._is_first = True
        self._needs_fresh = FRESH_VARIABLE in os.environ
        self._following: Attempt | None = None
        self._head = b""
        self._names: list[TaskId] = []
        self._refused: list[TaskId] = []
        """Tasks that cannot run here, since something before them failed, left work for others or took too long."""
        self.stop = threading.Event()
        """Set when its task, a service, has to stop."""

    def run(self, answers: Answers, wait_for_stop: Callable[[float], bool] | None = None) -> None:
        """Run the tasks one after the other.

        Parameters
        ----------
        answers : Answers
            Gets the results.
        wait_for_stop : callable, optional
            Waits for the end of a service; see `Host.wait`. By default, it is `stop` that ends a service.
        """
        host = Host(answers.started, wait_for_stop or self.stop.wait)
        while (attempt := self.next()) is not None:
            answers.begin()
            result = self._executor.run(attempt, self.payloads, host)
            answers.add(records.encode(result), self.ended(attempt, result))
        if self._refused:
            answers.returned(self._take_refused)

    def next(self) -> Attempt | None:
        """Take the task to run now; None at the end."""
        if self._following is not None:
            following, self._following = self._following, None
            return following
        while (attempt := self._pop()) is not None:
            task = attempt.task
            is_possible = self._incomplete.isdisjoint(task.needs) and self._incomplete.isdisjoint(task.after)
            if is_possible and (self._is_first or self._has_time(attempt.limits)):
                self._is_first = False
                self._head = task.id
                self._names = [task.id] if task.id in self._wanted else []
                return attempt
            self._incomplete.add(task.id)
            self._refused.append(task.id)
        return None

    def recall(self) -> list[TaskId]:
        """Take away all that has not started; another thread may do this."""
        taken = []
        while (attempt := self._pop()) is not None:
            taken.append(attempt.task.id)
        return taken

    def _take_refused(self) -> list[TaskId]:
        refused, self._refused = self._refused, []
        return refused

    def ended(self, attempt: Attempt, result: records.Outcome | records.Failure) -> TaskId | None:
        """Note the result of an attempt; return the task that follows as a tail call, if any."""
        child = self._tail_call(attempt, result)
        if child is not None and isinstance(result, records.Outcome):
            self._following = Attempt(child, 1, self._limits(child, attempt))
            if len(result.tasks) > 1:  # the others run elsewhere, and until then the head is not complete
                self._incomplete.add(self._head)
                self._names = []
            if self._names and not _is_reference(result):
                self._keep_value(result)
                self._names = [child.id]
            return child.id
        if isinstance(result, records.Failure) or result.tasks:
            self._incomplete.add(self._head)
        else:
            self._keep_value(result)
        return None

    def _has_time(self, limits: Mapping[str, Any]) -> bool:
        return time.monotonic() + (limits.get("walltime") or 0.0) <= self._deadline

    def _limits(self, child: records.TaskRecord, parent: Attempt) -> Mapping[str, Any]:
        """Return the resources that a child may use: those that it requests, but no more than its parent has."""
        asked, given = self._executor.options(child), self._executor.options(parent.task)
        if asked is given:
            return parent.limits
        own = {name: asked[name] for name in _AT_MOST if asked.get(name) not in (None, given.get(name))}
        return {**parent.limits, **own} if own else parent.limits

    def _pop(self) -> Attempt | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def _keep_value(self, outcome: records.Outcome) -> None:
        for name in self._names:
            self.payloads.put(name, outcome.value, outcome.refs)

    def _tail_call(self, attempt: Attempt, result: records.Outcome | records.Failure) -> records.TaskRecord | None:
        if isinstance(result, records.Failure) or self._needs_fresh:
            return None
        if not result.tasks:
            return None
        ready = [task for task in result.tasks if not task.needs and not task.after]
        if len(ready) != 1:
            return None
        (child,) = ready
        self._executor.learn(result.functions, recorded=False)
        if not self._executor.knows(child):
            return None
        fits = _fits(self._executor.options(child), self._executor.options(attempt.task))
        return child if fits and self._has_time(self._limits(child, attempt)) else None


def _fits(child: Mapping[str, Any], parent: Mapping[str, Any]) -> bool:
    """Return whether a child may run with the resources of its parent."""
    if child is parent:
        return True
    return all(child.get(name) == parent.get(name) for name in _ALIKE) and all(
        _at_most(child.get(name), parent.get(name)) for name in _AT_MOST
    )


def _at_most(asked: Any, given: Any) -> bool:
    if asked == given:
        return True
    return isinstance(asked, (int, float)) and isinstance(given, (int, float)) and asked <= given


def _is_reference(outcome: records.Outcome) -> bool:
    return isinstance(outcome.value, bytes) and only_reference(outcome.value, outcome.refs)


def _task(data: bytes) -> records.TaskRecord:
    record = records.decode(data)
    assert isinstance(record, records.TaskRecord)
    return record


def _function(data: bytes) -> records.Function:
    record = records.decode(data)
    assert isinstance(record, records.Function)
    return record
