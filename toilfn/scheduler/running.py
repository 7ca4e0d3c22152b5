"""Limit the work in one batch (`Draft`), and keep the batches that were submitted (`RunningBatches`).

`RunningBatches` knows which of their tasks have no outcome yet, and which batches take too long. Both use `Policy`
and `Durations`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from toilfn.ids import BatchId, TaskId
from toilfn.scheduler.events import Kill, Recall, Submit
from toilfn.scheduler.packing import Devices, Pool, Shape
from toilfn.scheduler.states import TaskState

__all__ = ["Draft", "Durations", "Policy", "RunningBatches"]

_SLOWER = 4.0
"""Tasks of a batch may take this many times longer than expected before the batch runs out of time."""


@dataclass(frozen=True)
class Policy:
    """The settings of the scheduler.

    Attributes
    ----------
    target_seconds : float
        Expected seconds of work in one batch. With 0, a batch is one task and the chain of tasks that follows it.
    max_batch : int
        The most tasks in one batch.
    patience : int
        How often a shape that does not fit is skipped before others wait for it.
    recall_factor, recall_after : float
        A batch is overdue when it has taken this many times longer than expected, and more than this many seconds.
    kill_after : float
        Seconds for which a batch may continue after none of its tasks is needed any longer; it is killed then.
    gather : float
        Seconds for which ready tasks wait for others, so that all are submitted at once.
    probes : int or None
        How many tasks of a kind start before it is known how long one takes; None for all of them.
    probe_patience : float
        The most seconds for which the others wait for them.
    spread : int or None
        Ready tasks share batches only if at least this many batches remain; None if they always may.
    check : bool
        Whether each `dispatch` checks the whole state, to find a bug where it happens.
    """

    target_seconds: float = 0.05
    max_batch: int = 256
    patience: int = 32
    recall_factor: float = 4.0
    recall_after: float = 1.0
    kill_after: float = 10.0
    gather: float = 0.0
    probes: int | None = None
    probe_patience: float = math.inf
    spread: int | None = None
    check: bool = False


class Durations:
    """How long a task of each kind takes, in seconds: a moving average.

    It goes down faster than up, since the first tasks of a kind load code as well.
    """

    _WEIGHT_UP = 0.2
    _WEIGHT_DOWN = 0.5

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, kind: int, seconds: float) -> None:
        """Learn how long one task took."""
        known = self._seconds.get(kind, seconds)
        weight = self._WEIGHT_UP if seconds > known else self._WEIGHT_DOWN
        self._seconds[kind] = known + weight * (seconds - known)

    def expect(self, kind: int) -> float:
        """Return how long a task will probably take; infinity as long as nothing is known."""
        return self._seconds.get(kind, math.inf)


class Draft:
    """A batch that is being put together.

    Parameters
    ----------
    shape : Shape
        The resources that the batch gets.
    policy : Policy
    longest : float
        The longest that the batch may take if each of its tasks takes all the time it may, in seconds.
    share : float
        The most ready tasks it may take, so that other free slots get work too.
    """

    def __init__(self, shape: Shape, policy: Policy, longest: float, share: float) -> None:
        self.shape = shape
        self.ids: list[TaskId] = []
        self.seconds = 0.0
        #: Whether some of its tasks could also run elsewhere at the same time.
        self.is_divisible = False
        self._policy = policy
        self._longest = longest
        self._share = share
        self._walltime = 0.0

    @property
    def walltime(self) -> float | None:
        """The number of seconds that the batch may take; None without a limit."""
        return None if self.shape.resources.walltime is None else self._walltime

    def offer(self, id: TaskId, seconds: float) -> bool:
        """Accept a ready task if it fits in; the first one always does."""
        takes = self._time_for(self.shape, seconds, is_bound=not self.ids)
        if self.ids:
            if self._share < 1 or not (self._is_short(seconds) and self._has_space(takes)):
                return False
            self.is_divisible = True
        self._share -= 1
        self._add(id, seconds, takes)
        return True

    def offer_follower(self, id: TaskId, seconds: float, shape: Shape, *, is_link: bool) -> bool:
        """Accept a task whose needs are all in the batch if it fits in.

        A link of a chain loses nothing by staying; any other task might find a free slot elsewhere.
        """
        takes = self._time_for(shape, seconds, is_bound=is_link)
        if not (is_link or self._is_short(seconds)) or not (self._has_space(takes) and shape.can_join(self.shape)):
            return False
        self.is_divisible = self.is_divisible or not is_link
        self._add(id, seconds, takes)
        return True

    def _time_for(self, shape: Shape, seconds: float, *, is_bound: bool) -> float:
        """Return how much longer the batch may take with a task; only a bound task gets its whole walltime.

        A worker that has no time left for another task returns it: so the batch's first limit is enough for each
        of the other tasks, as long as those before it take about as long as expected.
        """
        limit = shape.resources.walltime or 0.0
        return limit if is_bound else min(limit, _SLOWER * seconds)

    def _is_short(self, seconds: float) -> bool:
        return self.seconds + seconds <= self._policy.target_seconds

    def _has_space(self, takes: float) -> bool:
        return len(self.ids) < self._policy.max_batch and self._walltime + takes <= self._longest

    def _add(self, id: TaskId, seconds: float, takes: float) -> None:
        self.ids.append(id)
        self.seconds += seconds
        self._walltime += takes


class _Batch:
    """A batch that was submitted and has not ended."""

    __slots__ = ("devices", "id", "ids", "is_suspect", "left", "shape", "started", "tail_calls")

    def __init__(self, id: BatchId, draft: Draft, devices: Devices, started: float) -> None:
        self.id = id
        self.ids = tuple(draft.ids)
        self.shape = draft.shape
        self.devices = devices
        self.started = started
        #: How many of its tasks have no outcome yet.
        self.left = len(self.ids)
        #: The tail calls that it has started; they come before its own tasks.
        self.tail_calls: deque[TaskId] | None = None
        #: Whether the outcomes of some tasks may come from another batch.
        self.is_suspect = False

    def order(self) -> Iterable[TaskId]:
        """Return the ids of its tasks, in the order in which they run."""
        return dict.fromkeys((*self.tail_calls, *self.ids)) if self.tail_calls else self.ids


class RunningBatches:
    """All batches that were submitted and have not ended.

    Parameters
    ----------
    tasks : dict
        The tasks that are not complete.
    pool : Pool
        Where batches get their resources from.
    policy : Policy
    """

    def __init__(self, tasks: dict[TaskId, TaskState], pool: Pool, policy: Policy) -> None:
        # A batch is here from `begin` to `end`, even when all its tasks have outcomes: it keeps its resources
        # until its job has ended. `_Batch.left` counts the tasks at work whose `TaskState.batch` is this batch.
        self._tasks = tasks
        self._pool = pool
        self._policy = policy
        self._batches: dict[BatchId, _Batch] = {}
        self._last = 0
        self._now = 0.0
        #: Tasks that a batch had when it was lost; their outcomes may still come.
        self._may_answer_late: set[TaskId] = set()
        #: A heap. Entries of batches that have ended are dropped when their time comes, not searched for.
        self._overdue: list[tuple[float, BatchId]] = []
        #: In order of time, since each entry is `kill_after` later than the moment at which it is added.
        self._kills: deque[tuple[float, BatchId]] = deque()

    def __contains__(self, id: object) -> bool:
        return id in self._batches

    def __iter__(self) -> Iterator[BatchId]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def left(self, id: BatchId) -> list[TaskState]:
        """Return the tasks that a batch still has to answer for, in the order in which they run."""
        batch = self._batches.get(id)
        return [] if batch is None else [self._tasks[task] for task in batch.order() if self.has(id, task)]

    def count_left(self, id: BatchId) -> int:
        """Return how many tasks of a batch that has not ended have no outcome yet."""
        return self._batches[id].left

    def has(self, id: BatchId, task_id: TaskId) -> bool:
        """Return whether a task without an outcome belongs to a batch."""
        task = self._tasks.get(task_id)
        return task is not None and task.batch == id and task.state.is_at_work

    # The life of a batch

    def begin(self, draft: Draft, now: float) -> Submit:
        """Submit a batch of running tasks, for which there is room."""
        self._last += 1
        batch = self._batches[self._last] = _Batch(self._last, draft, self._pool.take(draft.shape), now)
        for id in batch.ids:
            self._tasks[id].batch = batch.id
        batch.is_suspect = not self._may_answer_late.isdisjoint(batch.ids)
        if draft.is_divisible and not self._pool.is_queue:
            heapq.heappush(self._overdue, (now + self._patience(draft.seconds), batch.id))
        return Submit(batch.id, batch.ids, batch.shape.resources, draft.walltime)

    def _patience(self, seconds: float) -> float:
        """Return after how many seconds a batch is overdue if it is expected to take so many."""
        expected = 0.0 if math.isinf(seconds) else seconds
        return max(self._policy.recall_after, self._policy.recall_factor * expected)

    def keep(self, id: BatchId, task: TaskState) -> None:
        """Note that a batch has started a tail call, which runs."""
        batch = self._batches[id]
        tail_calls = batch.tail_calls = batch.tail_calls or deque()
        while tail_calls and not self.has(id, tail_calls[0]):
            tail_calls.popleft()
        tail_calls.append(task.id)
        batch.left += 1
        task.batch = id

    def doubt(self, task: TaskState) -> None:
        """Note that the outcome of a running task may come from elsewhere than its batch."""
        self._batches[task.batch].is_suspect = True

    def leave(self, task: TaskState) -> None:
        """Note that a task no longer belongs to its batch."""
        batch = self._batches.get(task.batch)
        if batch is not None:
            batch.left -= 1
            if batch.is_suspect and not batch.left:
                self._kills.append((self._now + self._policy.kill_after, batch.id))

    def is_over(self, id: BatchId) -> bool:
        """Return whether all tasks of a batch that has not ended have outcomes."""
        return id in self._batches and not self._batches[id].left

    def forget(self, id: TaskId) -> None:
        """Note that a task has an outcome, and will not get one from a batch that was lost."""
        self._may_answer_late.discard(id)

    def end(self, id: BatchId, *, is_lost: bool) -> list[TaskState]:
        """Note that a batch has ended; return its tasks that have no outcome."""
        left = self.left(id)
        batch = self._batches.pop(id, None)
        if batch is not None:
            self._pool.give_back(batch.shape, batch.devices)
            if is_lost:
                self._may_answer_late.update(task.id for task in left)
        return left

    # Batches that take too long

    def wake_at(self, *, is_all_started: bool) -> float | None:
        """Return the time at which `due` may next return a batch; None if no time is due."""
        times = [self._overdue[0][0]] if self._may_recall(is_all_started) else []
        if self._kills:
            times.append(self._kills[0][0])
        return min(times, default=None)

    def due(self, now: float, *, is_all_started: bool) -> list[Recall | Kill]:
        """Return which batches to recall and which to kill; recall batches only when no other task is ready."""
        self._now = now
        return [*self._recalls(is_all_started), *self._killings()]

    def _may_recall(self, is_all_started: bool) -> bool:
        """Return whether an idle slot could take a part of the batch that is the first to be overdue."""
        if not self._overdue:
            return False
        batch = self._batches.get(self._overdue[0][1])
        return batch is None or (is_all_started and self._pool.has_room(batch.shape))

    def _recalls(self, is_all_started: bool) -> Iterator[Recall]:
        later = []
        while self._may_recall(is_all_started) and self._overdue[0][0] <= self._now:
            batch = self._batches.get(heapq.heappop(self._overdue)[1])
            if batch is not None and batch.left > 1:
                # A recall returns only tasks that have not started, and helps only if one of them can run elsewhere. If
                # not, the batch gets as much time again as it has had.
                if any(not task.pending for task in self.left(batch.id)[1:]):
                    yield Recall(batch.id)
                else:
                    later.append((2 * self._now - batch.started, batch.id))
        for entry in later:
            heapq.heappush(self._overdue, entry)

    def _killings(self) -> Iterator[Kill]:
        while self._kills and self._kills[0][0] <= self._now:
            batch = self._batches.get(self._kills.popleft()[1])
            if batch is not None and batch.is_suspect and not batch.left:
                batch.is_suspect = False
                yield Kill(batch.id)
