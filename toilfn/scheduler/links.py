"""Record which task waits for which other (`Links`), and roll checkpoints back (`RollBacks`).

A roll-back follows the same edges: it takes away all that a checkpoint led to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from toilfn.ids import Cause, TaskId
from toilfn.scheduler.events import Command, Kill, NewTask, Release, Retry, RollBack
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Links", "RollBacks"]


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
        """Return the tasks that are new, and check that all their needs are known or new."""
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
        """Check that all tasks that a task depends on are known or new.

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

    # Tasks with an outcome

    def parents(self, task: TaskState) -> Sequence[TaskId]:
        """Return the tasks that led to one."""
        return () if task.led_by is None else (task.led_by, *self._led_by.get(task.id, ()))

    def without_outcome(self, ids: Iterable[TaskId]) -> list[TaskState]:
        """Return those of the tasks that have no outcome yet."""
        return [task for id in ids if (task := self._tasks.get(id)) is not None and not task.state.has_outcome]

    def count_down(self, tasks: Iterable[TaskState]) -> list[TaskState]:
        """Note that each of these tasks waits for one task less; return those that now wait for none."""
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
        """Return the given tasks, and all tasks that cannot run or be complete before them."""
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
        """Return the tasks that wait forever although no task that they wait for was given up."""
        given_up = [task.id for task in self._tasks.values() if task.state is State.FAILED]
        unused = [id for id in self._tasks if given_up and id in self._services]
        explained = self.held_up_by([*given_up, *unused])
        return [id for id in self._tasks if id not in explained]


class RollBacks:
    """Forgets all tasks that a checkpoint led to, so that it can run again."""

    def __init__(self, state: SchedulerState, links: Links) -> None:
        self._state = state
        self._links = links
        self._tasks = state.tasks
        self._checkpoints = state.checkpoints
        self._charges = state.charges
        self._holds = state.holds
        self._running = state.running
        self._services = state.services
        self._unresolved = state.unresolved

    def complete(self, id: TaskId) -> list[Release]:
        """Note that a checkpoint is complete: it never runs again."""
        self._charges.forget(id)
        needs = self._checkpoints.needs(id)
        self._checkpoints.complete(id)
        return self._holds.let_go(needs)

    def due(self, now: float) -> Iterator[tuple[TaskState, Retry, list[Command]]]:
        """Perform the roll-backs that are due.

        Of the checkpoints above a task that was given up, that is the innermost one that has retries left.

        Yield each such checkpoint, which is now where it was before it ran, when it may run again, and the commands.
        """
        clients_to_rerun, self._checkpoints.clients_to_rerun = self._checkpoints.clients_to_rerun, []
        for id, service in clients_to_rerun:
            client = self._tasks.get(id)
            if client is not None and client.state is State.EXPANDED:
                verdict = Retry(id, Cause.LOST, self._charges.count(id), now)
                yield client, verdict, self._forget_family(client, service, verdict)
        given_up, self._checkpoints.given_up_members = self._checkpoints.given_up_members, []
        for id in given_up:
            task = self._tasks.get(id)
            if task is not None and task.state is State.FAILED:
                yield from self._give_up_below(task, now)

    def _give_up_below(self, task: TaskState, now: float) -> Iterator[tuple[TaskState, Retry, list[Command]]]:
        for id in self._checkpoints.above(task.id):
            checkpoint = self._tasks[id]
            verdict = self._charges.charge(id, Cause.ERROR, checkpoint.budget, now)
            if isinstance(verdict, Retry):
                yield checkpoint, verdict, self._forget_family(checkpoint, task.id, verdict)
                return

    def _forget_family(self, checkpoint: TaskState, failed: TaskId, verdict: Retry) -> list[Command]:
        """Forget all that a checkpoint led to, and its outcome."""
        family = dict.fromkeys(self._checkpoints.family(checkpoint.id))
        live = [self._tasks[id] for id in family if id in self._tasks]
        effects: list[Command] = [*self._holds.let_go(checkpoint.needs)]
        for task in live:
            needs = self._checkpoints.needs(task.id) if task.id in self._checkpoints else ()
            effects += self._holds.let_go([*task.needs, *(needs if task.state.has_outcome else ())])
        for task in live:
            self._remove(task, effects)
        for id in family:
            self._charges.forget(id)
            self._running.forget(id)
        self._state.counts[State.COMPLETE] -= self._holds.forget(family)
        self._checkpoints.forget(checkpoint.id)
        checkpoint.needs = self._checkpoints.needs(checkpoint.id)
        waits = (need for need in checkpoint.needs if need in self._tasks and need not in self._services)
        checkpoint.pending = sum(1 for _ in waits)
        outside = [command for command in effects if getattr(command, "id", None) not in family]
        return [RollBack(checkpoint.id, tuple(family), failed, verdict.cause, verdict.attempt), *outside]

    def _remove(self, task: TaskState, effects: list[Command]) -> None:
        """Remove a task as if it had never existed."""
        is_at_work = task.state.is_at_work
        self._links.detach(task)
        self._state.remove(task)
        if is_at_work and self._running.is_over(task.batch):
            effects.append(Kill(task.batch))
        effects += self._services.forget(task)
        self._unresolved.discard(task.id)
