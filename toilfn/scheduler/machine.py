"""The scheduler: a state machine that receives events and returns commands.

`toilfn.scheduler.states` has the table of a task's states and moves. No method looks at the whole graph: the time of
an event depends on the tasks that it names, and the time of `dispatch` on the tasks that it starts. To add a kind of
event, add a method and a line in `_HANDLERS`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from toilfn.ids import BatchId, Cause, TaskId
from toilfn.resources import Capacity, Resources
from toilfn.scheduler.drafting import Drafting, Probes
from toilfn.scheduler.events import (
    Adopted,
    Command,
    Complete,
    Deadlock,
    Event,
    Failed,
    Finished,
    GaveUp,
    JobStarted,
    Kill,
    Lost,
    NewTask,
    RequirementsResolved,
    ResolveRequirements,
    Retry,
    Returned,
    ServiceStarted,
    Submitted,
    TailCallStarted,
)
from toilfn.scheduler.links import Links, RollBacks
from toilfn.scheduler.packing import Pool
from toilfn.scheduler.ready import Gathering, enlarged
from toilfn.scheduler.running import Draft, Policy
from toilfn.scheduler.state import SchedulerState
from toilfn.scheduler.states import State, TaskState

__all__ = ["Scheduler"]

_GOING_ON = (State.READY, State.RUNNING, State.SERVING, State.BACKOFF)


class Scheduler:
    """Decides when each task runs.

    It has no clock: times are seconds on any scale, as long as it is always the same one. It can be pickled.

    Parameters
    ----------
    capacity : Capacity
        The resources that the cluster has; a `Capacity` event changes it.
    policy : Policy, optional
    """

    def __init__(self, capacity: Capacity, policy: Policy = Policy()) -> None:  # noqa: B008 - it is immutable
        self._state = state = SchedulerState(policy, Pool(capacity))
        self._policy = policy
        # The parts of the state by short names: each is looked up several times for each task.
        self._tasks = state.tasks
        self._pool = state.pool
        self._shapes = state.shapes
        self._ready = state.ready
        self._durations = state.durations
        self._charges = state.charges
        self._holds = state.holds
        self._backoff = state.backoff
        self._unresolved = state.unresolved
        self._running = state.running
        self._services = state.services
        self._checkpoints = state.checkpoints
        self._gathering = Gathering(policy.gather)
        self._probes = Probes(state)
        self._links = Links(state)
        self._drafting = Drafting(state)
        self._rollback = RollBacks(state, self._links)

    # Questions

    def check(self) -> None:
        """Check all conditions that hold between two calls; for tests, and to find a bug.

        Raises
        ------
        RuntimeError
            If the state contradicts itself.
        """
        self._state.check()

    @property
    def idle(self) -> bool:
        """Whether no task is ready, running or waiting for a retry: the run is over."""
        is_due = self._services.queue or self._checkpoints.is_due or self._probes
        return not (is_due or any(self._state.counts[state] for state in _GOING_ON))

    @property
    def largest(self) -> Resources | None:
        """The most resources that the cluster can ever give to one task; None where that is not known."""
        return self._pool.largest

    @property
    def wake_at(self) -> float | None:
        """The time at which to call `dispatch` even if no event arrives; None if no time is due."""
        times = (
            self._backoff[0][0] if self._backoff else None,
            self._running.wake_at(is_all_started=not self._ready),
            self._probes.wake_at,
            self._gathering.over_at,
        )
        return min((time for time in times if time is not None), default=None)

    def counts(self) -> dict[str, int]:
        """Count the tasks in each state, by the state's name in lower case."""
        return {state.name.lower(): self._state.counts[state] for state in State}

    def open_tasks(self) -> list[tuple[TaskId, State]]:
        """Return the tasks that are not complete, and their states; another thread may ask."""
        return [(task.id, task.state) for task in list(self._tasks.values())]

    def is_complete(self, id: TaskId) -> bool:
        """Return whether a task, and all that it led to, have outcomes."""
        return id in self._holds.complete

    def state(self, id: TaskId) -> State | None:
        """Return a task's state; None for one that is not known."""
        task = self._tasks.get(id)
        if task is None:
            return State.COMPLETE if self.is_complete(id) else None
        return task.state

    def shape(self, id: TaskId) -> Resources:
        """Return the resources that an incomplete task requests now; they may have grown after a failure."""
        return self._tasks[id].shape.resources

    def outermost_checkpoint(self, id: TaskId) -> TaskId | None:
        """Return the outermost incomplete checkpoint that is this task or led to it."""
        return self._checkpoints.outermost(id)

    def is_wanted(self, id: TaskId) -> bool:
        """Return whether a service has users that are neither complete nor given up."""
        return self._services.is_wanted(id)

    def running(self) -> dict[BatchId, tuple[TaskId, ...]]:
        """Return each batch that has not ended, with its tasks that have no outcome yet."""
        return {batch: tuple(task.id for task in self._running.left(batch)) for batch in self._running}

    def left(self, batch: BatchId) -> list[TaskId]:
        """Return the tasks of a batch that have no outcome yet, in the order in which they run."""
        return [task.id for task in self._running.left(batch)]

    def stuck(self) -> list[TaskId]:
        """Return the tasks that wait forever because they need each other, not because a task was given up.

        Tasks that wait for such tasks are among them. Empty as long as the scheduler is not idle.
        """
        return self._links.stuck() if self.idle else []

    # Events

    def handle(self, event: Event) -> list[Command]:
        """Process an event.

        Events may be late or come twice; what they say about tasks that are done, or not known, is ignored.

        Raises
        ------
        ValueError
            If a task needs one, or its value refers to one, that is not known. Nothing is changed then.
        """
        commands: list[Command] = []
        self._HANDLERS[type(event)](self, event, commands)
        return commands

    def _submitted(self, event: Submitted, commands: list[Command]) -> None:
        self._insert(self._links.unknown(event.tasks), commands, urgent=False)

    def _adopted(self, event: Adopted, commands: list[Command]) -> None:
        known = [task for id in event.ids if (task := self._tasks.get(id)) is not None]
        tasks = [
            task for task in known if task.state in (State.WAITING, State.READY) and task.id not in self._unresolved
        ]
        if not tasks or any(task.id in self._services or self._services.of(task.id) for task in tasks):
            return  # what ran with the services of that leader ended with it
        draft = Draft(tasks[0].shape, self._policy, math.inf, math.inf)
        for task in tasks:
            self._state.move(task, State.RUNNING)
            draft.ids.append(task.id)
        commands.append(self._running.begin(draft, event.now))

    def _finished(self, event: Finished, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or task.state.has_outcome or self._services.is_wanted(event.id):
            return
        fresh = self._links.unknown(event.children)
        self._links.check_known(event.id, event.waits, fresh)
        if event.wall > 0:
            self._durations.learn(task.kind, event.wall)
        dead_service = self._services.of(task.id)[:1] if task.batch in self._services.dying_batches else ()
        self._state.move(task, State.EXPANDED)
        if task.id not in self._checkpoints:
            self._charges.forget(task.id)
        self._unresolved.discard(task.id)
        self._running.forget(task.id)
        self._drafting.forget(task.id)
        self._expand(task, event, fresh, commands)
        if not task.pending:
            self._complete(task, commands)
        else:
            self._checkpoints.clients_to_rerun += [(task.id, service) for service in dead_service]

    def _expand(self, task: TaskState, event: Finished, fresh: dict[TaskId, NewTask], commands: list[Command]) -> None:
        """Let a task with an outcome wait for the tasks that it led to, not for its needs."""
        task.pending = 0
        if fresh:
            self._insert(fresh, commands, urgent=True)
        for child in event.children:
            self._links.lead(task, child.id)
        for id in event.waits:
            self._links.lead(task, id)
        if event.waits:
            self._holds.hold(event.waits)
        if task.needs and task.id not in self._checkpoints:  # which may run again
            commands += self._holds.let_go(task.needs)
        task.needs = event.waits

    def _tail_call_started(self, event: TailCallStarted, _: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or event.batch not in self._running or self._running.has(event.batch, event.id):
            return
        if task.state in (State.WAITING, State.READY, State.RUNNING):
            if task.state is State.RUNNING:
                self._running.doubt(task)
            self._state.move(task, State.RUNNING)
            self._running.keep(event.batch, task)

    def _job_started(self, event: JobStarted, _: list[Command]) -> None:
        self._probes.began(event.batch, event.now)

    def _failed(self, event: Failed, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is not None and task.state.is_at_work:
            cause = Cause.LOST if task.batch in self._services.dying_batches else event.cause
            self._charge(task, cause, event.now, commands)

    def _service_started(self, event: ServiceStarted, commands: list[Command]) -> None:
        if not self._running.has(event.batch, event.id) or self._tasks[event.id].state is State.SERVING:
            return
        service = self._tasks[event.id]
        self._state.move(service, State.SERVING)
        for user in reversed(self._links.without_outcome(service.followers)):
            if user.state is State.WAITING and not user.pending:
                self._settle(user, commands)

    def _end_users(self, service: TaskState, commands: list[Command]) -> None:
        """Kill the batches of clients of a service that no longer serves."""
        for user in self._links.without_outcome(service.followers):
            if user.state is State.READY:
                self._state.move(user, State.WAITING)
            elif user.state.is_at_work and user.batch not in self._services.dying_batches:
                self._services.dying_batches.add(user.batch)
                commands.append(Kill(user.batch, service.id))

    def _rerun_clients(self, service: TaskState) -> None:
        """Run clients of a dead service again if tasks that they led to may still use it."""
        clients = (client for id in service.followers if (client := self._tasks.get(id)))
        expanded = [client.id for client in clients if client.state is State.EXPANDED]
        self._checkpoints.clients_to_rerun += [(id, service.id) for id in expanded]

    def _returned(self, event: Returned, commands: list[Command]) -> None:
        for id in reversed(event.ids):
            if event.batch in self._running and self._running.has(event.batch, id):
                self._settle(self._tasks[id], commands)

    def _requirements_resolved(self, event: RequirementsResolved, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or event.id not in self._unresolved or task.state is not State.WAITING:
            return
        self._unresolved.discard(event.id)
        if event.shape is None:
            self._give_up(task, commands)
            return
        task.shape = self._shapes.of(event.shape, is_service=task.shape.is_service)
        self._settle(task, commands)

    def _lost(self, event: Lost, commands: list[Command]) -> None:
        left = self._running.end(event.batch, is_lost=event.cause is not None)
        self._services.dying_batches.discard(event.batch)
        guilty = next((task for task in left if task.id == event.running), left[0]) if left else None
        if not event.is_sure and len(left) > 1 and self._is_somebodys_fault(left, event.cause):
            self._drafting.separate(left)
            guilty = None
        for task in reversed(left):
            if event.cause is not None and task is guilty:
                self._charge(task, event.cause, event.now, commands)
            else:
                self._settle(task, commands)

    def _is_somebodys_fault(self, left: Sequence[TaskState], cause: Cause | None) -> bool:
        """Return whether one of these tasks probably ended its worker: a node rarely dies twice with the same tasks."""
        if cause is Cause.LOST:
            return self._charges.count(left[0].id) > 0
        return cause is not None and cause is not Cause.PREEMPTED

    def _capacity(self, event: Capacity, commands: list[Command]) -> None:
        self._pool.resize(event)
        for shape in self._ready.shapes():
            if not self._pool.can_ever(shape):
                while (task := self._drafting.next(shape)) is not None:
                    self._give_up(task, commands)

    _HANDLERS: ClassVar[dict[type, Callable[[Scheduler, Any, list[Command]], None]]] = {
        Submitted: _submitted,
        Adopted: _adopted,
        Finished: _finished,
        TailCallStarted: _tail_call_started,
        JobStarted: _job_started,
        Failed: _failed,
        Returned: _returned,
        ServiceStarted: _service_started,
        RequirementsResolved: _requirements_resolved,
        Lost: _lost,
        Capacity: _capacity,
    }

    # New tasks

    def _insert(self, fresh: dict[TaskId, NewTask], commands: list[Command], *, urgent: bool) -> None:
        tasks = [self._create(new) for new in fresh.values()]
        for task, new in zip(tasks, fresh.values(), strict=True):
            self._links.link(task, new.parent, is_checkpoint=new.is_checkpoint)
        for task in reversed(tasks) if urgent else tasks:
            if task.id not in self._unresolved and not self._pool.can_ever(task.shape):
                self._give_up(task, commands)
            elif not task.pending:
                self._settle(task, commands, urgent=urgent)

    def _create(self, new: NewTask) -> TaskState:
        shape = self._shapes.of(new.shape, is_service=new.is_service)
        task = TaskState(new.id, new.needs, shape, new.kind, new.budget)
        if new.is_service:
            self._services.add(new.id)
        if new.is_late:
            self._unresolved.add(new.id)
        self._state.add(task)
        return task

    # Moves

    def _settle(self, task: TaskState, commands: list[Command], *, urgent: bool = True) -> None:
        """Move a task that is in no queue or batch to where it belongs: it waits, is ready, or can never run."""
        if task.state is State.SERVING:
            self._end_users(task, commands)
        if task.pending or not self._services.may_start(task):
            if task.state is not State.WAITING:
                self._state.move(task, State.WAITING)
            if self._services.is_over(task.id):
                commands += self._services.stop(task)
        elif task.id in self._unresolved:
            commands.append(ResolveRequirements(task.id))
        elif not self._pool.can_ever(task.shape):
            self._give_up(task, commands)
        elif self._probes.may_start(task, urgent=urgent):
            self._state.move(task, State.READY)
            self._ready.add(task.id, task.shape, urgent=urgent)
        elif task.state is not State.WAITING:
            self._state.move(task, State.WAITING)

    def _give_up(self, task: TaskState, commands: list[Command]) -> None:
        """Fail a task that requests more than the cluster can ever offer."""
        self._state.move(task, State.FAILED)
        commands.append(GaveUp(task.id, Cause.INPUT))
        self._checkpoints.give_up(task.id)
        commands += self._services.leave(task)

    def _charge(self, task: TaskState, cause: Cause, now: float, commands: list[Command]) -> None:
        if self._services.is_over(task.id):
            self._settle(task, commands)
            return
        if task.state is State.SERVING:
            self._end_users(task, commands)
            self._rerun_clients(task)
        verdict = self._charges.charge(task.id, cause, task.budget, now)
        commands.append(verdict)
        if isinstance(verdict, GaveUp):
            self._state.move(task, State.FAILED)
            commands += self._services.leave(task)
            self._checkpoints.give_up(task.id)
            return
        asked = enlarged(task.shape.resources, cause, task.budget, self._pool.most_memory, self._pool.longest)
        task.shape = self._shapes.of(asked, is_service=task.shape.is_service)
        self._postpone(task, verdict, now, commands)

    def _postpone(self, task: TaskState, retry: Retry, now: float, commands: list[Command]) -> None:
        if retry.at > now:
            self._state.move(task, State.BACKOFF)
            heapq.heappush(self._backoff, (retry.at, task.id))
        else:
            self._settle(task, commands)

    def _complete(self, task: TaskState, commands: list[Command]) -> None:
        """Complete a task, and the tasks that waited for it alone."""
        stack = [task]
        while stack:
            task = stack.pop()
            self._state.move(task, State.COMPLETE)
            del self._tasks[task.id]
            commands.append(Complete(task.id))
            commands += self._holds.finish(task)
            if task.id in self._checkpoints:
                commands += self._rollback.complete(task.id)
            if task.id not in self._services:  # its followers never waited for its end
                self._wake(task, commands)
            commands += self._services.forget(task)
            if task.led_by is not None:
                stack += self._links.count_down(self._tasks[id] for id in self._links.parents(task))
                self._links.forget(task.id)

    def _wake(self, task: TaskState, commands: list[Command]) -> None:
        """Free the followers of a task that is complete."""
        for follower in reversed(self._links.count_down(self._links.without_outcome(task.followers))):
            if follower.state is State.WAITING:
                self._settle(follower, commands)

    # Batches

    def dispatch(self, now: float, *, holds: bool = False) -> list[Command]:
        """Start tasks, and return all other commands that are due.

        If it `holds`, tasks that nothing led to wait for as long as anything else runs; then they start one by one.
        """
        if self._policy.check:
            self._state.check()
        commands: list[Command] = []
        self._end_backoffs(now, commands)
        for checkpoint, verdict, undone in self._rollback.due(now):
            commands += undone
            self._postpone(checkpoint, verdict, now, commands)
        self._admit(commands)
        for task, urgent in self._probes.free(now):
            self._settle(task, commands, urgent=urgent)
        if self._ready and not self._gathering.is_over(now):
            return commands
        if holds:
            commands += self._start_few(now)
        else:
            while (shape := self._ready.choose(self._pool)) is not None:
                commands.append(self._drafting.start(shape, now))
        commands += self._running.due(now, is_all_started=not self._ready)
        self._unblock(commands)
        return commands

    def _start_few(self, now: float) -> Iterator[Command]:
        """Start only tasks that other tasks led to; if nothing runs, start one task."""
        while (shape := self._ready.choose_urgent(self._pool)) is not None:
            if self._drafting.next(shape, only_urgent=True) is not None:
                yield self._drafting.start(shape, now, only_urgent=True)
        if not self._state.counts[State.RUNNING] and (shape := self._ready.choose(self._pool)) is not None:
            yield self._drafting.start(shape, now, most=1)

    def _admit(self, commands: list[Command]) -> None:
        """Admit users to the services that they request."""
        if not self._services.queue:
            return
        tasks, without_room = self._services.admit()
        for task in tasks:
            self._settle(task, commands)
        for task in without_room:
            self._give_up_beside(self._services.of(task.id), task, commands)

    def _unblock(self, commands: list[Command]) -> None:
        """When only services run, stop those that no task can use now; if there are none, report a deadlock."""
        serving = self._state.counts[State.SERVING]
        if (
            not serving
            or self._state.counts[State.RUNNING]
            or self._state.counts[State.BACKOFF]
            or self._services.is_stopping
        ):
            return
        blocked = [task.id for task in self._tasks.values() if task.state is State.READY]
        blocked += [id for id in self._services.queue if id in self._tasks]
        stops = self._services.release(self._links.held_up_by(blocked))
        commands += stops
        # A batch keeps its room until it has ended, which is after the outcome of its last task.
        if blocked and not stops and len(self._running) == serving:
            self._give_up_beside(self._services.serving(), self._tasks[blocked[0]], commands)

    def _give_up_beside(self, services: Iterable[TaskId], task: TaskState, commands: list[Command]) -> None:
        """Fail a task for which there is no room beside services."""
        commands.append(Deadlock(task.id, tuple(services)))
        self._give_up(task, commands)

    def _end_backoffs(self, now: float, commands: list[Command]) -> None:
        while self._backoff and self._backoff[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._backoff)[1])
            if task is not None and task.state is State.BACKOFF:
                self._settle(task, commands)
