"""List the attempts of a store's tasks, with the resources that each requested and used."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from sys import intern
from typing import NamedTuple

from toilfn.config.settings import Settings
from toilfn.graph import options
from toilfn.ids import TaskId
from toilfn.inspect.view import State, TaskInfo, View
from toilfn.model.records import Failure, Function, Outcome, TaskRecord
from toilfn.model.replay import AttemptEnded, TaskAdded, read, replay
from toilfn.resources import Resources
from toilfn.stores import Store

__all__ = ["Attempt", "attempts_of"]


class Attempt(NamedTuple):
    """A finished attempt. Times are in seconds, sizes in bytes."""

    task: str
    """The task's id in hexadecimal."""
    name: str
    number: int
    """From 1 through all runs, as in `toilfn logs --attempt`."""
    run: int
    """The number of the run in which it finished."""
    result: str
    """``"done"``, or the cause of its failure."""
    start: float
    """Since the epoch."""
    wall: float
    cpu: float
    wait: float
    """The time to its start, from the moment when its needs were complete or the previous attempt failed."""
    memory: int
    """The peak, without the worker's own; 0 for an attempt that was too short to measure."""
    disk: int
    """The most bytes that were found in its temporary directory."""
    read: int
    written: int
    requests: int
    """The requests to the store's server, with those that its worker made before it."""
    host: str
    worker: int
    cores_asked: float
    memory_asked: int
    disk_asked: int
    own: int
    """The memory of the worker itself when the attempt began."""

    @property
    def label(self) -> str:
        """The number of the attempt, as text."""
        return f"run {self.run}, attempt {self.number}"


def attempts_of(store: Store, view: View) -> Iterator[Attempt]:
    """Read the finished attempts of all tasks from a store's log, in the order in which they finished.

    Parameters
    ----------
    store : Store
    view : View
        Of that store.
    """
    asked, ready = _Asked(view), _Ready(view)
    for fact in replay(read(store.log)):
        match fact:
            case Function():
                asked.learn_function(fact)
            case TaskAdded(task):
                asked.learn_task(task)
            case AttemptEnded(record, run, counts=True) if record.id in view.tasks:
                yield _attempt(run, record, view.tasks[record.id], asked.of(record.id), ready.wait(record))


def _attempt(run: int, record: Outcome | Failure, task: TaskInfo, asked: Resources, wait: float) -> Attempt:
    stats = record.stats
    result = "done" if isinstance(record, Outcome) else record.cause
    return Attempt(
        record.id.hex(), task.name, record.attempt, run, result, stats.start, stats.wall, stats.cpu, wait, stats.memory,
        stats.disk, stats.read, stats.written, stats.requests, intern(stats.host), stats.worker,
        asked.cores, asked.memory, asked.disk, stats.own,
    )  # fmt: skip


class _Asked:
    """Reads the requirements of tasks from their records and the newest run's defaults."""

    def __init__(self, view: View) -> None:
        recorded = view.run.settings if view.run else {}
        known = {name: recorded[name] for name in Settings.__dataclass_fields__ if name.startswith("default_")
                 and name in recorded}  # fmt: skip
        self._defaults = options.defaults(Settings(**known))
        self._functions: dict[bytes, Function] = {}
        self._kinds: dict[bytes, Resources] = {}
        self._tasks: dict[TaskId, Resources] = {}

    def learn_function(self, function: Function) -> None:
        self._functions[function.digest] = function
        self._kinds[function.digest] = options.resources(function.options, self._defaults)

    def learn_task(self, task: TaskRecord) -> None:
        shape = self._kinds.get(task.function, self._defaults)
        if task.options and task.function in self._functions:
            merged = options.merge(self._functions[task.function].options, task.options)
            shape = options.resources(merged, self._defaults)
        self._tasks[task.id] = shape

    def of(self, id: TaskId) -> Resources:
        return self._tasks.get(id, self._defaults)


class _Ready:
    """Computes when tasks could have started."""

    def __init__(self, view: View) -> None:
        self._tasks = view.tasks
        self._runs = [run.time for run in view.runs]
        self._complete: dict[TaskId, float] = {}
        self._failed: dict[TaskId, float] = {}

    def wait(self, record: Outcome | Failure) -> float:
        """Return how long an attempt waited; call this for the attempts of a task in order."""
        start = record.stats.start
        ready = self._failed.get(record.id) or self._inputs(self._tasks[record.id])
        if isinstance(record, Failure):
            self._failed[record.id] = start + record.stats.wall
        runs = bisect_right(self._runs, start)
        ready = max(ready, self._runs[runs - 1] if runs else 0.0)
        return max(0.0, start - ready) if ready else 0.0

    def _inputs(self, task: TaskInfo) -> float:
        parent = self._tasks.get(task.parent) if task.parent else None
        made = parent.start + parent.wall if parent else 0.0
        return max((self._completion(id) for id in (*task.needs, *task.after)), default=made)

    def _completion(self, wanted: TaskId) -> float:
        """Return when a task and all tasks that it led to were done; without recursion, since chains are deep."""
        stack = [wanted]
        while stack:
            task = self._tasks.get(stack[-1])
            below = () if task is None or task.state is not State.DONE else (*task.children, *task.refs)
            if missing := [id for id in below if id not in self._complete]:
                stack += missing
                continue
            own = task.start + task.wall if task else 0.0
            self._complete[stack.pop()] = max((own, *(self._complete[id] for id in below)))
        return self._complete[wanted]
