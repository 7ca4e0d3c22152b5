"""Put ready tasks together into batches, and learn from a few tasks how long their kind takes."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from toilfn.ids import BatchId, TaskId
from toilfn.scheduler.events import Submit
from toilfn.scheduler.packing import Shape
from toilfn.scheduler.running import Draft
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Drafting", "Probes"]


class Drafting:
    """Puts ready tasks of one shape into batches, together with tasks that can run after them."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._policy = state.policy
        self._tasks = state.tasks
        self._pool = state.pool
        self._ready = state.ready
        self._durations = state.durations
        self._running = state.running
        self._services = state.services
        self._unresolved = state.unresolved
        self._alone = state.alone

    def separate(self, tasks: Iterable[TaskState]) -> None:
        """Run each of these tasks alone from now on."""
        self._alone.update(task.id for task in tasks)

    def forget(self, id: TaskId) -> None:
        """Forget a task that has an outcome."""
        self._alone.discard(id)

    def start(self, shape: Shape, now: float, *, only_urgent: bool = False, most: int | None = None) -> Submit:
        """Start a batch of ready tasks of a shape, of which there is one at least.

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
        return self._running.begin(draft, now)

    @property
    def _spare_batches(self) -> int:
        """Return how many more batches to submit before tasks that could run in parallel share one."""
        return 0 if self._policy.spread is None else self._policy.spread - self._pool.batches

    def _may_join(self, task: TaskState, draft: Draft) -> bool:
        """Add a ready task to a batch if the batch accepts it."""
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
        """Add the tasks whose needs are all complete or in the batch.

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


_UNDER_WAY = (State.READY, State.RUNNING, State.BACKOFF)


class Probes:
    """Starts a few tasks of each unknown kind, and holds the others back.

    The others wait until one of the few has ended, or has run for so long that its kind should not share batches
    in any case. While the few are in the cluster's queue, the others wait, too, but no longer than `probe_patience`.

    If the policy's `probes` is None, no task is held back.
    """

    def __init__(self, state: SchedulerState) -> None:
        policy = state.policy
        self._tasks = state.tasks
        self._durations = state.durations
        self._running = state.running
        self._most = math.inf if policy.probes is None else policy.probes
        self._long = policy.target_seconds
        self._probes: dict[int, set[TaskId]] = {}
        self._held: dict[int, deque[tuple[TaskId, bool]]] = {}
        self._began: list[tuple[float, BatchId]] = []
        self._patience = policy.probe_patience
        #: The time at which the first task of each kind was held back.
        self._since: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def wake_at(self) -> float | None:
        """The time at which `free` may return tasks even if no event arrives."""
        if not self._held:
            return None
        times = [self._began[0][0]] if self._began else []
        times += [since + self._patience for since in self._since.values() if not math.isinf(self._patience)]
        return min(times, default=None)

    def may_start(self, task: TaskState, *, urgent: bool) -> bool:
        """Return whether a task may be ready now; if not, `free` returns it later, with `urgent`."""
        if math.isinf(self._most) or task.shape.is_service or self._is_known(task.kind):
            return True
        probes = self._probes.setdefault(task.kind, set())
        if task.id in probes or len(probes) < self._most:
            probes.add(task.id)
            return True
        self._held.setdefault(task.kind, deque()).append((task.id, urgent))
        return False

    def _is_known(self, kind: int) -> bool:
        return not math.isinf(self._durations.expect(kind))

    def began(self, batch: BatchId, now: float) -> None:
        """Note that a batch is no longer in the cluster's queue."""
        if not math.isinf(self._most):
            heapq.heappush(self._began, (now + self._long, batch))

    def free(self, now: float) -> Iterator[tuple[TaskState, bool]]:
        """Return the tasks that are no longer held back, and whether each one is urgent."""
        self._learn_from_long_ones(now)
        for kind in list(self._held):
            if now - self._since.setdefault(kind, now) >= self._patience and not self._is_known(kind):
                self._durations.learn(kind, self._long)
            room = self._room(kind)
            while room > 0 and (held := self._held[kind]):
                id, urgent = held.popleft()
                task = self._tasks.get(id)
                if task is not None and task.state is State.WAITING and not task.pending:
                    room -= 1
                    yield task, urgent
            if not self._held[kind]:
                del self._held[kind]
                self._since.pop(kind, None)

    def _learn_from_long_ones(self, now: float) -> None:
        while self._began and self._began[0][0] <= now:
            left = self._running.left(heapq.heappop(self._began)[1])
            if left and not self._is_known(left[0].kind):
                self._durations.learn(left[0].kind, self._long)

    def _room(self, kind: int) -> float:
        """Return how many more tasks of a kind may be ready."""
        if self._is_known(kind):
            self._probes.pop(kind, None)
            return math.inf
        probes = self._probes[kind] = {id for id in self._probes[kind] if self._is_under_way(id)}
        return self._most - len(probes)

    def _is_under_way(self, id: TaskId) -> bool:
        task = self._tasks.get(id)
        return task is not None and task.state in _UNDER_WAY
