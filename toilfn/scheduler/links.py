"""Which task waits for which other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toilfn.ids import TaskId
from toilfn.scheduler.events import NewTask
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Links"]


class Links:
    """The edges of the graph: the needs of each task, and the tasks that led to it."""

    def __init__(self, state: SchedulerState) -> None:
        # For each edge "task needs other", this holds: `other` is in `task.needs`. While the task has no outcome and
        # `other` is not complete, the task is in `other.followers`, and the edge is counted in `task.pending`. A
        # service is the exception: it is never counted, since its users wait for its value, not for its end.
        self._tasks = state.tasks
        self._holds = state.holds
        self._services = state.services
        self._checkpoints = state.checkpoints
        self._led_by = state.further_parents

    # New tasks

    def unknown(self, tasks: Iterable[NewTask]) -> dict[TaskId, NewTask]:
        """Pick the tasks that are not known, and check that they need none that is neither known nor new."""
        fresh: dict[TaskId, NewTask] = {}
        for new in tasks:
            if not self._knows(new.id):
                fresh.setdefault(new.id, new)
        for new in fresh.values():
            self.check_known(new.id, new.needs, fresh)
        return fresh

    def _knows(self, id: TaskId) -> bool:
        return id in self._tasks or id in self._holds.complete

    def check_known(self, id: TaskId, others: Iterable[TaskId], fresh: dict[TaskId, NewTask]) -> None:
        """Check that a task depends on none that is neither known nor new.

        Raises
        ------
        ValueError
            If it does.
        """
        for other in others:
            if other not in fresh and not self._knows(other):
                raise ValueError(
                    f"task {id.hex()} depends on task {other.hex()}, which the scheduler does not know; submit"
                    " that one first, or both together"
                )

    def link(self, task: TaskState, parent: TaskId | None, *, is_checkpoint: bool) -> None:
        """Link a new task to the tasks that it needs, and to the task that created it."""
        needs = [self._tasks.get(id) for id in task.needs]
        for need in needs:
            if need is not None:
                need.follow(task.id)
                task.pending += need.id not in self._services
        self._holds.hold(task.needs)
        # Equal ids are often different objects. To keep the need's own saves its copy, for each edge of a large graph.
        task.needs = tuple([id if need is None else need.id for id, need in zip(task.needs, needs, strict=True)])
        self._services.link(task)
        if is_checkpoint or self._services.of(task.id):
            self._checkpoints.add(task.id, task.needs, is_client=not is_checkpoint)
        creator = None if parent is None else self._tasks.get(parent)
        if creator is not None and creator.state is State.EXPANDED:
            self.lead(creator, task.id)
        if parent is not None:
            self._checkpoints.descend(task.id, parent)

    def lead(self, task: TaskState, id: TaskId) -> None:
        """Note that a task with an outcome led to another one, without which it is not complete."""
        other = self._tasks.get(id)
        if other is None or other.led_by == task.id:
            return
        if other.led_by is None:
            other.led_by = task.id
        else:
            self._led_by.setdefault(id, []).append(task.id)
        task.pending += 1

    # Tasks that are done

    def parents(self, task: TaskState) -> Sequence[TaskId]:
        """Return the tasks that led to one."""
        return () if task.led_by is None else (task.led_by, *self._led_by.get(task.id, ()))

    def without_outcome(self, ids: Iterable[TaskId]) -> list[TaskState]:
        """Pick the tasks that are still to have an outcome."""
        return [task for id in ids if (task := self._tasks.get(id)) is not None and not task.state.has_outcome]

    def count_down(self, tasks: Iterable[TaskState]) -> list[TaskState]:
        """Note that each of some tasks waits for one task less; return those that wait for none."""
        free = []
        for task in tasks:
            task.pending -= 1
            if not task.pending:
                free.append(task)
        return free

    def forget(self, id: TaskId) -> None:
        """Forget which tasks led to a task."""
        self._led_by.pop(id, None)

    def detach(self, task: TaskState) -> None:
        """Forget what a task needs and which tasks led to it, as if it had never been known."""
        if not task.state.has_outcome:
            for need in filter(None, map(self._tasks.get, task.needs)):
                need.unfollow(task.id)
        self.forget(task.id)

    # Tasks that wait forever

    def held_up_by(self, ids: Iterable[TaskId]) -> set[TaskId]:
        """Return some tasks, and all that cannot run or be complete before them."""
        found = set(ids)
        stack = list(found)
        while stack:
            waiting = [id for id in self._waiting_for(self._tasks[stack.pop()]) if id not in found]
            found.update(waiting)
            stack += waiting
        return found

    def _waiting_for(self, task: TaskState) -> Iterable[TaskId]:
        """Return the tasks that cannot run or be complete before a task is complete."""
        yield from {follower.id for follower in self.without_outcome(task.followers)}
        yield from self.parents(task)

    def stuck(self) -> list[TaskId]:
        """Return the tasks that wait although nothing they wait for was given up."""
        given_up = [task.id for task in self._tasks.values() if task.state is State.FAILED]
        unused = [id for id in self._tasks if given_up and id in self._services]
        explained = self.held_up_by([*given_up, *unused])
        return [id for id in self._tasks if id not in explained]
