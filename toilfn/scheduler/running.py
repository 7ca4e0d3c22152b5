"""The submitted batches: which tasks they still have to answer for, and which of them take too long."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator

from toilfn.ids import BatchId, TaskId
from toilfn.scheduler.batching import Draft, Policy
from toilfn.scheduler.events import Kill, Recall, Submit
from toilfn.scheduler.packing import Devices, Pool
from toilfn.scheduler.states import TaskState

__all__ = ["RunningBatches"]


class _Batch:
    """A batch that was submitted and has not ended."""

    __slots__ = ("devices", "id", "ids", "is_suspect", "left", "shape", "started", "tail_calls")

    def __init__(self, id: BatchId, draft: Draft, devices: Devices, started: float) -> None:
        self.id = id
        self.ids = tuple(draft.ids)
        self.shape = draft.shape
        self.devices = devices
        self.started = started
        #: How many tasks it still has to answer for.
        self.left = len(self.ids)
        #: The tail calls that it has started: they come before its own tasks.
        self.tail_calls: deque[TaskId] | None = None
        #: Whether tasks of it may get their outcomes from elsewhere.
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
        # A batch is here from `begin` to `end`, even when it has nothing left to answer for: it keeps its resources
        # until its job has ended. `_Batch.left` counts the tasks at work whose `TaskState.batch` is this batch.
        self._tasks = tasks
        self._pool = pool
        self._policy = policy
        self._batches: dict[BatchId, _Batch] = {}
        self._last = 0
        self._now = 0.0
        #: Tasks that a batch had when it was lost: it may answer yet.
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
        """Return how many tasks a batch that has not ended still has to answer for."""
        return self._batches[id].left

    def has(self, id: BatchId, task_id: TaskId) -> bool:
        """Return whether a batch has to answer for a task."""
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
        """Return how many seconds a batch may take that is expected to take so many."""
        expected = 0.0 if math.isinf(seconds) else seconds
        return max(self._policy.recall_after, self._policy.recall_factor * expected)

    def keep(self, id: BatchId, task: TaskState) -> None:
        """Note that a batch has started a tail call, which is running."""
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
        """Return whether a batch that has not ended has nothing left to answer for."""
        return id in self._batches and not self._batches[id].left

    def forget(self, id: TaskId) -> None:
        """Note that a task has an outcome, and will not get one from a batch that was lost."""
        self._may_answer_late.discard(id)

    def end(self, id: BatchId, *, is_lost: bool) -> list[TaskState]:
        """Note that a batch has ended; return the tasks that it still had to answer for."""
        left = self.left(id)
        batch = self._batches.pop(id, None)
        if batch is not None:
            self._pool.give_back(batch.shape, batch.devices)
            if is_lost:
                self._may_answer_late.update(task.id for task in left)
        return left

    # Batches that take too long

    def wake_at(self, *, is_all_started: bool) -> float | None:
        """Return the time at which `due` will have something to say; None if that is not known."""
        times = [self._overdue[0][0]] if self._may_recall(is_all_started) else []
        if self._kills:
            times.append(self._kills[0][0])
        return min(times, default=None)

    def due(self, now: float, *, is_all_started: bool) -> list[Recall | Kill]:
        """Return which batches to recall and which to kill; recalls only when nothing else is ready to be started."""
        self._now = now
        return [*self._recalls(is_all_started), *self._killings()]

    def _may_recall(self, is_all_started: bool) -> bool:
        """Return whether there is a slot idle that could take a part of the batch that is overdue first."""
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
