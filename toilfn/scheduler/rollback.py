"""Rolls checkpoints back: takes away all that they led to, as if it had never been."""

from __future__ import annotations

from collections.abc import Iterator

from toilfn.ids import Cause, TaskId
from toilfn.scheduler.events import Command, Kill, Release, Retry, RollBack
from toilfn.scheduler.links import Links
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["RollBacks"]


class RollBacks:
    """Takes away all that a checkpoint led to, so that it can run again."""

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
        """Take a task away as if it had never been."""
        is_at_work = task.state.is_at_work
        self._links.detach(task)
        self._state.remove(task)
        if is_at_work and self._running.is_over(task.batch):
            effects.append(Kill(task.batch))
        effects += self._services.forget(task)
        self._unresolved.discard(task.id)
