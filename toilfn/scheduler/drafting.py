"""Puts batches together out of ready tasks, and of those that can follow them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

from toilfn.ids import TaskId
from toilfn.scheduler.batching import Draft
from toilfn.scheduler.packing import Shape
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Drafting"]


class Drafting:
    """Puts ready tasks of one shape, and tasks that can follow them, together into batches."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._policy = state.policy
        self._tasks = state.tasks
        self._pool = state.pool
        self._ready = state.ready
        self._durations = state.durations
        self._services = state.services
        self._unresolved = state.unresolved
        self._alone = state.alone

    def separate(self, tasks: Iterable[TaskState]) -> None:
        """Have tasks run alone from now on."""
        self._alone.update(task.id for task in tasks)

    def forget(self, id: TaskId) -> None:
        """Forget a task that has an outcome."""
        self._alone.discard(id)

    def draft(self, shape: Shape, *, only_urgent: bool = False, most: int | None = None) -> Draft:
        """Build a batch of ready tasks of a shape, of which there is one at least; they are running then.

        It has at most `most` of them, and those that follow them.
        """
        slots = self._pool.slots(shape)
        if self._policy.spread is not None:
            slots = min(slots, max(1, self._spare_batches))
        share = math.inf if math.isinf(slots) else math.ceil(self._ready.count(shape) / slots)
        draft = Draft(shape, self._policy, self._pool.longest, share)
        covered: dict[TaskId, int] = {}
        count = 0
        while (task := self.next(shape, only_urgent=only_urgent)) is not None and self._may_join(task, draft):
            self._ready.pop(shape)
            self._state.move(task, State.RUNNING)
            if shape.is_service or task.id in self._alone:
                break
            self._take_followers(draft, covered)
            count += 1
            if count == most:
                break
        return draft

    @property
    def _spare_batches(self) -> int:
        """How many more batches are to be out before tasks are put together that could run at one time."""
        return 0 if self._policy.spread is None else self._policy.spread - self._pool.batches

    def _may_join(self, task: TaskState, draft: Draft) -> bool:
        """Add a ready task to a batch, if it may be there."""
        if draft.ids and task.id in self._alone:
            return False
        return draft.offer(task.id, self._durations.expect(task.kind))

    def next(self, shape: Shape, *, only_urgent: bool = False) -> TaskState | None:
        """Return the next ready task of a shape; it stays in its queue."""
        while self._ready.count(shape) and (self._ready.is_urgent(shape) or not only_urgent):
            task = self._tasks.get(self._ready.peek(shape))
            if task is not None and task.state is State.READY and task.shape is shape:
                return task
            self._ready.pop(shape)
        return None

    def _take_followers(self, draft: Draft, covered: dict[TaskId, int]) -> None:
        """Let those go along that need nothing incomplete but what is in the batch.

        `covered` counts, for each candidate, how many of the tasks it waits for are in the batch.
        """
        position = len(draft.ids) - 1
        while position < len(draft.ids):
            task = self._tasks[draft.ids[position]]
            position += 1
            for id in islice(task.followers, self._policy.max_batch):
                follower = self._tasks.get(id)
                if follower is None or follower.state is not State.WAITING:
                    continue
                if id in self._unresolved or id in self._alone or self._services.of(id):  # none of these can go along
                    continue
                covered[id] = covered.get(id, 0) + 1
                is_link = follower.pending == len(task.followers) == 1
                if not is_link and self._spare_batches > 0:
                    continue
                seconds = self._durations.expect(follower.kind)
                if covered[id] == follower.pending and draft.offer_follower(
                    id, seconds, follower.shape, is_link=is_link
                ):
                    self._state.move(follower, State.RUNNING)
