"""Learning how long tasks take from a few of them, before the others are put together."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator

from toilfn.ids import BatchId, TaskId
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Probes"]

_UNDER_WAY = (State.READY, State.RUNNING, State.BACKOFF)


class Probes:
    """Holds tasks back whose kind is not known, but for a few.

    The others wait until one of the few has ended, or runs for so long that its kind is not to be put
    together anyway. Probes that wait in the cluster's queue hold them back, too, until patience ends.

    With `probes` of the policy None, nothing is ever held back.
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
        #: Since when tasks of a kind are held back.
        self._since: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def wake_at(self) -> float | None:
        """The time at which `free` may have something to give even if nothing happens."""
        if not self._held:
            return None
        times = [self._began[0][0]] if self._began else []
        times += [since + self._patience for since in self._since.values() if not math.isinf(self._patience)]
        return min(times, default=None)

    def may_start(self, task: TaskState, *, urgent: bool) -> bool:
        """Return whether a task may be ready now; if not, `free` gives it later, with `urgent`."""
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
        """Note that a batch is not in the cluster's queue any more."""
        if not math.isinf(self._most):
            heapq.heappush(self._began, (now + self._long, batch))

    def free(self, now: float) -> Iterator[tuple[TaskState, bool]]:
        """Return the tasks that need not be held back any more, and how urgent each one is."""
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
