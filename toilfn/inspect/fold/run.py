"""`Fold`: the state of a store, read from its log piece by piece into columns of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from toilfn.graph.options import SERVICE
from toilfn.ids import TaskId
from toilfn.inspect.fold.columns import Kind, Row
from toilfn.inspect.fold.reading import NEVER, RUNNING, UNKNOWN, Reader
from toilfn.inspect.view import HasRuns, State
from toilfn.resources import Resources
from toilfn.stores.log import Position

__all__ = ["Fold"]

_STATES = tuple(State)


class Fold(Reader, HasRuns):
    """The state of a store, as far as its log was read.

    Attributes
    ----------
    cursor : int
        The number of the log's last segment that was read.
    runs : list of Run
    epochs : list of Epoch
    ends : dict of int to End
        How runs ended, by their number.
    has_queue : bool
        Whether the newest leader's cluster has said that jobs wait in its queue.
    requests : int
        How many requests leaders have sent to the store's server.
    kinds : list of Kind
    measures : Measures
        Levels over time, and workers.
    links : dict
        Which kinds lead to which, by their numbers, and how: ``needs``, ``after`` or ``creates``.
    attempts : Attempts
    retries : Counter of str
        Attempts that failed and were followed by another one, by their cause.
    outage : str
        Why the cluster's system does not answer now; empty if it does.
    """

    @property
    def size(self) -> int:
        """How many tasks are known, with those that only records of other tasks name."""
        return len(self._ids)

    def current(self) -> bytearray | None:
        """Return which tasks the newest run requested or led to, one byte each; None if all of them."""
        if len(self.runs) <= 1 and not self._has_forgotten and self._tasks == len(self._ids):
            return None
        if self._mask[0] != self.cursor:
            self._mask = self.cursor, self._reachable()
        return self._mask[1]

    def _reachable(self) -> bytearray:
        seen = bytearray(len(self._ids))
        stack = [self._ids[id] for id in (self.run.roots if self.run else ()) if id in self._ids]
        while stack:
            task = stack.pop()
            if seen[task] or self._state[task] == UNKNOWN:
                continue
            seen[task] = 1
            first = self._first[task]
            stack.extend(self._edges[first : first + self._count[task]])
            if self._lead_count[task]:
                stack.extend(self._below(task))
        return seen

    def counts(self) -> list[Counter[State]]:
        """Count the tasks of the newest run by state, for each kind."""
        mask = self.current()
        pairs: Iterable[tuple[int, int]] = zip(self._variant[: len(self._ids)], self._state, strict=False)
        if mask is not None:
            pairs = compress(pairs, mask)
        counts: list[Counter[State]] = [Counter() for _ in self.kinds]
        for (variant, state), count in Counter(pairs).items():
            counts[self._variants[variant].kind.number][_STATES[state]] += count
        return counts

    def numbers(self) -> Sequence[int]:
        """Return the numbers of the newest run's tasks."""
        mask = self.current()
        return range(len(self._ids)) if mask is None else list(compress(range(len(self._ids)), mask))

    def in_state(self, *states: State) -> Iterator[int]:
        """Iterate over the numbers of the newest run's tasks in some states."""
        mask = self.current()
        for state in states:
            wanted, at = _STATES.index(state), -1
            while (at := self._state.find(wanted, at + 1)) >= 0:
                if mask is None or mask[at]:
                    yield at

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Return the known facts about some tasks."""
        if not numbers:
            return []
        keys = self.ids()
        return [self._row(number, keys[number]) for number in numbers]

    def _row(self, number: int, id: TaskId) -> Row:
        since, job = self._under_way.get(number, NEVER)
        cause, error = self._problems.get(number, ("", ""))
        name = self.kind_of(number).name
        state = _STATES[self._state[number]]
        reason = self._reasons.get(number, "") if state is State.QUEUED else ""
        return Row(number, id, name, state, self._ended_count[number], since, job, reason, cause, error)

    def state_of(self, number: int) -> State:
        """Return the state of a task."""
        return _STATES[self._state[number]]

    def kind_of(self, number: int) -> Kind:
        """Return the kind of a task."""
        return self._variants[self._variant[number]].kind

    def request_of(self, number: int) -> Resources:
        """Return what a task requests."""
        return self._variants[self._variant[number]].asked

    def is_service(self, number: int) -> bool:
        """Return whether a task is a service, which runs until the leader stops it."""
        return SERVICE in self._variants[self._variant[number]].options

    def needs(self, number: int) -> Sequence[int]:
        """Return the known tasks that a task waits for."""
        first = self._first[number]
        return [task for task in self._edges[first : first + self._count[number]] if self._state[task] != UNKNOWN]

    def led_to(self, number: int) -> Sequence[int]:
        """Return the known tasks that a task has created, or that its value refers to."""
        return [task for task in self._below(number) if self._state[task] != UNKNOWN]

    def error_of(self, number: int) -> str:
        """Return why the last attempt of a task failed; empty if it did not fail."""
        return self._problems.get(number, ("", ""))[1]

    def count_of(self, number: int) -> int:
        """Return the number of a task's finished attempts."""
        return self._ended_count[number]

    def worker(self, number: int) -> tuple[str, int]:
        """Return the host and the process id of a worker, by its number in `attempts`."""
        if len(self._worker_names) != len(self.attempts.workers):
            self._worker_names = list(self.attempts.workers)
        return self._worker_names[number]

    def last_attempt(self, number: int) -> int | None:
        """Return the index in `attempts` of a task's last attempt; None if the task has none, or if it is not kept."""
        last = self._last[number]
        return last if 0 <= last < len(self.attempts.task) else None

    def position(self, attempt: int) -> Position:
        """Return the place of an attempt's record in the log."""
        kept = self.attempts
        return Position(kept.segments[kept.segment[attempt]], kept.offset[attempt], kept.size[attempt])

    def since(self) -> list[tuple[int, float]]:
        """Return the tasks that are running, and when each was given to the cluster."""
        return [(task, given) for task, (given, _) in self._under_way.items() if self._state[task] == RUNNING]

    def job_of(self, number: int) -> str:
        """Return the cluster's name for the job that runs a task; empty if none does."""
        return self._under_way.get(number, NEVER)[1]

    def number(self, id: TaskId) -> int | None:
        """Return the number of a task, or None if the id is unknown."""
        number = self._ids.get(id)
        return None if number is None or self._state[number] == UNKNOWN else number

    def ids(self) -> list[TaskId]:
        """Return the ids of all tasks, in the order of their numbers."""
        return list(self._ids)
