"""Read a store without being its leader, for `status`, `logs`, `graph` and `stats`.

A `View` is what the store's log says at one moment. It reads and never writes, so it can be made
while a leader works. Of each task it keeps what fits into half a kilobyte; values and logs stay
in the store and are read again for the one task that is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from sys import intern
from typing import Protocol

from toilfn.errors import InputError
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
    Run,
    Started,
    Stats,
    assert_never,
    decode,
)
from toilfn.model.replay import AttemptEnded, Fact, Readable, RunBegan, TaskAdded, read, replay

__all__ = ["State", "TaskInfo", "View"]

_CANDIDATES = 10
"""The most tasks that an error message lists."""


class State(str, Enum):
    """The state of a task, according to the log."""

    WAITING = "waiting"
    """Not started, or waiting for a retry."""
    QUEUED = "queued"
    """Given to the cluster, whose system reports that the job waits."""
    RUNNING = "running"
    """Given to the cluster, alone or in a batch, without a result so far."""
    DONE = "done"
    """The task has an outcome. The tasks that it created may still have to run."""
    FAILED = "failed"
    """Given up."""


@dataclass(slots=True)
class TaskInfo:
    """One task.

    Attributes
    ----------
    id : bytes
    name : str
        Its function's name.
    needs, after : tuple of bytes
        Tasks that must be complete first: for their values, and for order alone.
    parent : bytes or None
        The task that created it.
    state : State
    attempts : int
        The number of finished attempts.
    since : float
        When it was last given to the cluster, in seconds since the epoch; 0 when it never was.
    job, reason : str
        The cluster's own name for the job, and why that waits, in the system's words; empty where nothing is known.
    cause, error : str
        Why the last attempt failed, and its one-line message; empty when it did not.
    children, refs : tuple of bytes
        Once done: tasks it created, and tasks its value refers to.
    start, wall, cpu : float
        Of the attempt that counts: when it started, and how many seconds it took.
    memory : int
        Its peak, in bytes.
    host : str
        Where it ran.
    """

    id: TaskId
    name: str
    needs: tuple[TaskId, ...] = ()
    after: tuple[TaskId, ...] = ()
    parent: TaskId | None = None
    state: State = State.WAITING
    attempts: int = 0
    since: float = 0.0
    job: str = ""
    reason: str = ""
    cause: str = ""
    error: str = ""
    children: tuple[TaskId, ...] = ()
    refs: tuple[TaskId, ...] = ()
    start: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    host: str = ""

    @property
    def label(self) -> str:
        """The name and the start of the id, which `View.find` understands."""
        return f"{self.name} ({self.short_id})"

    @property
    def short_id(self) -> str:
        """The start of the id in hexadecimal, which is almost certainly unique and short enough to copy."""
        return self.id.hex()[:12]


class _HasLog(Protocol):
    """The part of a store that a view needs."""

    @property
    def log(self) -> Readable: ...


class HasRuns:
    """The newest of several runs, and its status."""

    runs: list[Run]
    ends: dict[int, End]

    @property
    def run(self) -> Run | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    @property
    def status(self) -> str:
        """The end of the newest run: a status of `records.End`; or ``"open"``; or ``"empty"`` without a run."""
        if self.run is None:
            return "empty"
        end = self.ends.get(self.run.number)
        return end.status if end else "open"


class View(HasRuns):
    """The state of a store, read from its log.

    Parameters
    ----------
    store : toilfn.stores.Store
        Is read at once.

    Attributes
    ----------
    tasks : dict of bytes to TaskInfo
        Every task of the store, also those that only earlier versions of the workflow requested.
    runs : list of toilfn.model.records.Run
        In order; the last one is the newest.
    epochs : list of toilfn.model.records.Epoch
        One for each leader that the store had.
    ends : dict of int to toilfn.model.records.End
        How runs ended, by their number.
    has_queue : bool
        Whether the newest leader's cluster has said that jobs wait in its queue.
    requests : int
        The requests to the store's server by leaders that ended on their own.
    """

    def __init__(self, store: _HasLog) -> None:
        self.tasks: dict[TaskId, TaskInfo] = {}
        self.runs: list[Run] = []
        self.epochs: list[Epoch] = []
        self.ends: dict[int, End] = {}
        self.requests = 0
        self.has_queue = False
        self._store = store
        self._first_start = False
        self._jobs: dict[str, list[TaskInfo]] = {}
        """The tasks of each job that the newest leader has submitted."""
        for fact in replay(read(store.log)):
            self._take(fact)

    def _take(self, fact: Fact) -> None:
        match fact:
            case TaskAdded():
                self._added(fact)
            case AttemptEnded():
                self._ended(fact)
            case Started():
                self._started(fact)
            case Queue():
                self._queue(fact)
            case Forget():
                self._forget(fact)
            case RunBegan(run):
                self.runs = [*(known for known in self.runs if known.number != run.number), run]
                self.ends.pop(run.number, None)
            case Epoch():
                self._epoch(fact)
            case End():
                self._end(fact)
            case Function() | Deleted() | Outage():
                pass  # nothing that a view shows
            case _:
                assert_never(fact)

    def current(self) -> list[TaskInfo]:
        """List the tasks that the newest run requested or led to, in the order in which the store learnt of them."""
        seen: set[TaskId] = set()
        stack: list[TaskId] = list(self.run.roots) if self.run else []
        while stack:
            id = stack.pop()
            task = self.tasks.get(id)
            if task is None or id in seen:
                continue
            seen.add(id)
            for others in (task.needs, task.after, task.children, task.refs):
                stack.extend(others)
        return [task for id, task in self.tasks.items() if id in seen]

    def stop_running(self) -> None:
        """Mark all running tasks as no longer running, because no leader is alive."""
        self._back_to_waiting(State.QUEUED)
        self._back_to_waiting(State.RUNNING)
        self._jobs.clear()

    def find(self, text: str) -> TaskInfo:
        """Find the one task that has this name, or whose id in hexadecimal starts with this.

        Of several, those of the newest run are meant.

        Raises
        ------
        InputError
            If there is none, or more than one; lists them.
        """
        found, match = [task for task in self.tasks.values() if task.name == text], "are called"
        if text and not found:
            found, match = self._with_id(text.lower()), "have an id that starts with"
        if not found:
            raise InputError(f"no task has the name or id {text!r}", hint=self._known_names())
        if len(found) > 1:
            current = {task.id for task in self.current()}
            found = [task for task in found if task.id in current] or found
        if len(found) == 1:
            return found[0]
        raise InputError(f"{len(found)} tasks {match} {text!r}; give the start of an id:\n{_candidates(found)}")

    def attempts(self, id: TaskId) -> Iterator[Outcome | Failure]:
        """Read again from the store, in order, the attempts of one task that ended; numbered through all runs."""
        about = (decode(data, position) for position, data in self._store.log.read() if id in data)
        for fact in replay(about):
            if isinstance(fact, AttemptEnded) and fact.record.id == id:
                yield fact.record

    def _with_id(self, start: str) -> list[TaskInfo]:
        return [task for task in self.tasks.values() if task.id.hex().startswith(start)]

    def _known_names(self) -> str:
        names = sorted({task.name for task in self.tasks.values()})
        if not names:
            return "the store has no tasks"
        return f"the tasks are {', '.join(names[:_CANDIDATES])}{', ...' if len(names) > _CANDIDATES else ''}"

    def _epoch(self, record: Epoch) -> None:
        self.epochs.append(record)
        self.has_queue = False
        self.stop_running()
        self._first_start = True

    def _end(self, record: End) -> None:
        self.requests += record.requests
        self.ends[record.number] = record
        self.stop_running()

    def _back_to_waiting(self, state: State) -> None:
        for task in self.tasks.values():
            if task.state is state:
                task.state = State.WAITING

    def _added(self, fact: TaskAdded) -> None:
        task = fact.task
        if task.parent is not None and task.parent not in self.tasks:
            return  # made by a task that the store does not know
        needs, after = self._same_ids(task.needs), self._same_ids(task.after)
        self.tasks[task.id] = TaskInfo(task.id, fact.name, needs, after, task.parent)

    def _started(self, record: Started) -> None:
        if self._first_start:  # a new leader is at work: it tries again what failed before
            self._back_to_waiting(State.FAILED)
            self._first_start = False
        for id in record.ids:
            task = self.tasks.get(id)
            if task is not None and task.state is not State.DONE:
                task.state, task.since, task.job, task.reason = State.RUNNING, record.time, record.job, ""
                self._jobs.setdefault(record.job, []).append(task)

    def _queue(self, record: Queue) -> None:
        self.has_queue = True
        for job, reason in record.waiting.items():
            for task in self._under_way(job):
                task.state, task.reason = State.QUEUED, intern(reason)
        for job in record.begun:
            for task in self._under_way(job):
                task.state, task.reason = State.RUNNING, ""

    def _under_way(self, job: str) -> Iterator[TaskInfo]:
        """Return the tasks of a job that have no result and were not given to another job."""
        for task in self._jobs.get(job, ()):
            if task.job == job and task.state in (State.QUEUED, State.RUNNING):
                yield task

    def _ended(self, fact: AttemptEnded) -> None:
        task = self.tasks.get(fact.record.id)
        if task is None or not fact.counts:
            return
        self._used(task, fact.record.stats)
        match fact.record:
            case Outcome() as outcome:
                task.state, task.cause, task.error = State.DONE, "", ""
                task.children = tuple(child.id for child in outcome.tasks)
                task.refs = self._same_ids(outcome.refs)
            case Failure() as failure:
                task.state = State.FAILED if failure.final else State.WAITING
                task.cause, task.error = failure.cause, failure.message

    def _forget(self, record: Forget) -> None:
        for id in record.ids:
            if task := self.tasks.get(id):
                task.state, task.children, task.refs = State.WAITING, (), ()

    def _used(self, task: TaskInfo, stats: Stats) -> None:
        task.attempts += 1
        task.start, task.wall, task.cpu, task.memory = stats.start, stats.wall, stats.cpu, stats.memory
        task.host = intern(stats.host)

    def _same_ids(self, ids: tuple[TaskId, ...]) -> tuple[TaskId, ...]:
        """Replace ids by equal objects that exist already, to save memory: a million tasks name each other often."""
        return tuple(self.tasks[id].id if id in self.tasks else id for id in ids)


def _candidates(tasks: list[TaskInfo]) -> str:
    """List the tasks that the user may mean; failed ones come first."""
    shown = sorted(tasks, key=lambda task: (task.state is not State.FAILED, not task.error))[:_CANDIDATES]
    lines = [f"  {task.short_id}  {task.name}  {task.state.value}  {task.error}".rstrip() for task in shown]
    return "\n".join(lines + ["  ..."] * (len(tasks) > len(shown)))
