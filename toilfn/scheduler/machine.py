"""The scheduler: a state machine that is told what happened and says what to do.

A task's way through its states is the table in `toilfn.scheduler.states`. Nothing here looks at the
whole graph: an event costs what it is about, and `dispatch` costs what it starts. A further
kind of event is one more method and one more line in `_HANDLERS`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar

from toilfn.events import (
    Adopted,
    BatchId,
    Capacity,
    Cause,
    Command,
    Complete,
    Deadlock,
    Event,
    Failed,
    Finished,
    GaveUp,
    Kept,
    Kill,
    Lost,
    NewTask,
    Resolve,
    Retry,
    Returned,
    ServiceStarted,
    Shaped,
    Submitted,
    TaskId,
)
from toilfn.resources import Resources
from toilfn.scheduler.batching import Draft, Durations, Policy
from toilfn.scheduler.checkpoints import Checkpoints
from toilfn.scheduler.holds import Holds
from toilfn.scheduler.packing import Pool, Shape, Shapes
from toilfn.scheduler.ready import Ready
from toilfn.scheduler.retries import Charges, enlarged
from toilfn.scheduler.rollback import RollBacks
from toilfn.scheduler.running import Running
from toilfn.scheduler.services import Services
from toilfn.scheduler.states import MOVES, State, Task

__all__ = ["Scheduler"]

_GOING_ON = (State.READY, State.RUNNING, State.SERVING, State.BACKOFF)

_STORY = 256
"""How many moves are remembered, for the report of a bug."""


class Scheduler:
    """Decides what runs when.

    It has no clock: times are seconds on any scale, as long as it is always the same one. It can be pickled.

    Parameters
    ----------
    capacity : Capacity
        What the cluster can give; a `Capacity` event changes it.
    policy : Policy, optional
    """

    def __init__(self, capacity: Capacity, policy: Policy = Policy()) -> None:  # noqa: B008 - it is immutable
        self._policy = policy
        self._tasks: dict[TaskId, Task] = {}
        self._counts = [0] * len(State)
        self._story: deque[tuple[TaskId, State, State]] = deque(maxlen=_STORY)
        self._shapes = Shapes()
        self._pool = Pool(capacity)
        self._ready = Ready(policy.patience)
        self._durations = Durations()
        self._charges = Charges()
        self._holds = Holds(self._tasks)
        #: For a task that several others led to: all but the first of these.
        self._led_by: dict[TaskId, list[TaskId]] = {}
        self._backoff: list[tuple[float, TaskId]] = []
        self._shapeless: set[TaskId] = set()
        self._running = Running(self._tasks, self._pool, policy)
        self._services = Services(self._tasks, self._pool)
        self._checkpoints = Checkpoints()
        self._rollback = RollBacks(
            self._tasks, self._counts, self._checkpoints, self._charges, self._holds, self._running, self._ready,
            self._services, self._led_by, self._shapeless,
        )  # fmt: skip

    # What others want to know

    @property
    def idle(self) -> bool:
        """Whether nothing is ready, running or to be tried again: the run is over."""
        return not (
            self._services.queue or self._checkpoints.hopeless or any(self._counts[state] for state in _GOING_ON)
        )

    @property
    def largest(self) -> Resources | None:
        """The most that the cluster can ever give to one task; None where that is not known."""
        return self._pool.largest

    @property
    def wake_at(self) -> float | None:
        """The time at which `dispatch` is due even if nothing happens; None if it is not."""
        times = [self._backoff[0][0]] if self._backoff else []
        due = self._running.wake_at(is_all_started=not self._ready)
        return min(times if due is None else [*times, due], default=None)

    def counts(self) -> dict[str, int]:
        """Count the tasks in each state, by the state's name in lower case."""
        return {state.name.lower(): self._counts[state] for state in State}

    def is_complete(self, id: TaskId) -> bool:
        """Say whether a task, and all that it led to, have outcomes."""
        return id in self._holds.complete

    def state(self, id: TaskId) -> State | None:
        """Give a task's state; None for one that is not known."""
        task = self._tasks.get(id)
        if task is None:
            return State.COMPLETE if self.is_complete(id) else None
        return task.state

    def shape(self, id: TaskId) -> Resources:
        """Say what a task that is not complete asks for now: more than at first, perhaps, if it has failed."""
        return self._tasks[id].shape.resources

    def outermost_checkpoint(self, id: TaskId) -> TaskId | None:
        """Give the outermost checkpoint that is not complete and is this task or led to it."""
        return self._checkpoints.outermost(id)

    def is_wanted(self, id: TaskId) -> bool:
        """Say whether a service has users that are neither complete nor given up."""
        return self._services.is_wanted(id)

    def running(self) -> dict[BatchId, tuple[TaskId, ...]]:
        """Give each batch that has not ended, with the tasks it still has to answer for."""
        return {batch: tuple(task.id for task in self._running.left(batch)) for batch in self._running}

    def left(self, batch: BatchId) -> list[TaskId]:
        """Give the tasks that a batch still has to answer for, in the order in which they run."""
        return [task.id for task in self._running.left(batch)]

    def stuck(self) -> list[TaskId]:
        """Give the tasks that wait for good although nothing they wait for was given up: they need each other.

        Tasks that wait for such tasks are among them. Empty as long as the scheduler is not idle.
        """
        if not self.idle:
            return []
        given_up = [task.id for task in self._tasks.values() if task.state is State.FAILED]
        unused = [id for id in self._tasks if given_up and id in self._services]
        explained = self._held_up_by([*given_up, *unused])
        return [id for id in self._tasks if id not in explained]

    def _held_up_by(self, ids: Iterable[TaskId]) -> set[TaskId]:
        """Give some tasks and all that cannot go on before they are complete."""
        found = set(ids)
        stack = list(found)
        while stack:
            waiting = [id for id in self._waiting_for(self._tasks[stack.pop()]) if id not in found]
            found.update(waiting)
            stack += waiting
        return found

    def _waiting_for(self, task: Task) -> Iterable[TaskId]:
        """Give what cannot go on before a task is complete."""
        followers = (self._tasks[id] for id in task.followers if id in self._tasks)
        yield from {follower.id for follower in followers if not follower.state.has_outcome}
        yield from self._leaders(task)

    # Events

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened.

        Events may be late or come twice; what they say of tasks that are done, or not known, is ignored.

        Raises
        ------
        ValueError
            If a task needs one, or its value refers to one, that is not known. Nothing is changed then.
        """
        commands: list[Command] = []
        self._HANDLERS[type(event)](self, event, commands)
        return commands

    def _submitted(self, event: Submitted, commands: list[Command]) -> None:
        self._insert(self._unknown(event.tasks), commands, urgent=False)

    def _adopted(self, event: Adopted, commands: list[Command]) -> None:
        known = [task for id in event.ids if (task := self._tasks.get(id)) is not None]
        tasks = [
            task for task in known if task.state in (State.WAITING, State.READY) and task.id not in self._shapeless
        ]
        if not tasks or any(task.id in self._services or self._services.of(task.id) for task in tasks):
            return  # what ran with the services of that leader ended with it
        draft = Draft(tasks[0].shape, self._policy, math.inf, math.inf)
        for task in tasks:
            self._move(task, State.RUNNING)
            draft.ids.append(task.id)
        commands.append(self._running.begin(draft, event.now))

    def _finished(self, event: Finished, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or task.state.has_outcome or self._services.is_wanted(event.id):
            return
        fresh = self._unknown(event.children)
        self._check_known(event.id, event.waits, fresh)
        if event.wall > 0:
            self._durations.learn(task.kind, event.wall)
        self._move(task, State.EXPANDED)
        if task.id not in self._checkpoints:
            self._charges.forget(task.id)
        self._shapeless.discard(task.id)
        self._running.forget(task.id)
        self._expand(task, event, fresh, commands)
        if not task.pending:
            self._complete(task, commands)

    def _expand(self, task: Task, event: Finished, fresh: dict[TaskId, NewTask], commands: list[Command]) -> None:
        """Replace what a task needed by what it led to."""
        task.pending = 0
        self._insert(fresh, commands, urgent=True)
        for child in event.children:
            self._lead(task, child.id)
        for id in event.waits:
            self._lead(task, id)
        self._holds.hold(event.waits)
        if task.id not in self._checkpoints:  # which may run again
            commands += self._holds.let_go(task.needs)
        task.needs = event.waits

    def _kept(self, event: Kept, _: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or event.batch not in self._running or self._running.has(event.batch, event.id):
            return
        if task.state in (State.WAITING, State.READY, State.RUNNING):
            if task.state is State.RUNNING:
                self._running.doubt(task)
            self._move(task, State.RUNNING)
            self._running.keep(event.batch, task)

    def _failed(self, event: Failed, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is not None and task.state.is_at_work:
            cause = Cause.LOST if task.batch in self._services.doomed else event.cause
            self._charge(task, cause, event.now, commands)

    def _service_started(self, event: ServiceStarted, commands: list[Command]) -> None:
        if not self._running.has(event.batch, event.id) or self._tasks[event.id].state is State.SERVING:
            return
        service = self._tasks[event.id]
        self._move(service, State.SERVING)
        for user in reversed(self._users(service)):
            if user.state is State.WAITING and not user.pending:
                self._settle(user, commands)

    def _users(self, service: Task) -> list[Task]:
        """Give the tasks that need a service and have no outcome."""
        users = (self._tasks.get(id) for id in service.followers)
        return [user for user in users if user is not None and not user.state.has_outcome]

    def _fall(self, service: Task, commands: list[Command]) -> None:
        """End what uses a service that does not serve any more."""
        for user in self._users(service):
            if user.state is State.READY:
                self._move(user, State.WAITING)
            elif user.state.is_at_work and user.batch not in self._services.doomed:
                self._services.doomed.add(user.batch)
                commands.append(Kill(user.batch, service.id))

    def _returned(self, event: Returned, commands: list[Command]) -> None:
        for id in reversed(event.ids):
            if event.batch in self._running and self._running.has(event.batch, id):
                self._settle(self._tasks[id], commands)

    def _shaped(self, event: Shaped, commands: list[Command]) -> None:
        task = self._tasks.get(event.id)
        if task is None or event.id not in self._shapeless or task.state is not State.WAITING:
            return
        self._shapeless.discard(event.id)
        if event.shape is None:
            self._give_up(task, commands)
            return
        task.shape = self._shapes.of(event.shape, is_service=task.shape.is_service)
        self._settle(task, commands)

    def _lost(self, event: Lost, commands: list[Command]) -> None:
        left = self._running.end(event.batch, is_lost=event.cause is not None)
        self._services.doomed.discard(event.batch)
        guilty = next((task for task in left if task.id == event.running), left[0]) if left else None
        for task in reversed(left):
            if event.cause is not None and task is guilty:
                self._charge(task, event.cause, event.now, commands)
            else:
                self._settle(task, commands)

    def _capacity(self, event: Capacity, commands: list[Command]) -> None:
        self._pool.resize(event)
        for shape in self._ready.shapes():
            if not self._pool.can_ever(shape):
                while (task := self._next(shape)) is not None:
                    self._give_up(task, commands)

    _HANDLERS: ClassVar[dict[type, Callable[[Scheduler, Any, list[Command]], None]]] = {
        Submitted: _submitted,
        Adopted: _adopted,
        Finished: _finished,
        Kept: _kept,
        Failed: _failed,
        Returned: _returned,
        ServiceStarted: _service_started,
        Shaped: _shaped,
        Lost: _lost,
        Capacity: _capacity,
    }

    # New tasks

    def _unknown(self, tasks: Iterable[NewTask]) -> dict[TaskId, NewTask]:
        """Pick the tasks that are not known, and check that they need none that is neither known nor new."""
        fresh: dict[TaskId, NewTask] = {}
        for new in tasks:
            if not self._knows(new.id):
                fresh.setdefault(new.id, new)
        for new in fresh.values():
            self._check_known(new.id, new.needs, fresh)
        return fresh

    def _knows(self, id: TaskId) -> bool:
        return id in self._tasks or id in self._holds.complete

    def _check_known(self, id: TaskId, others: Iterable[TaskId], fresh: dict[TaskId, NewTask]) -> None:
        for other in others:
            if other not in fresh and not self._knows(other):
                raise ValueError(
                    f"task {id.hex()} depends on task {other.hex()}, which the scheduler does not know; "
                    f"submit that one first, or both together"
                )

    def _insert(self, fresh: dict[TaskId, NewTask], commands: list[Command], *, urgent: bool) -> None:
        tasks = [self._create(new) for new in fresh.values()]
        for task, new in zip(tasks, fresh.values(), strict=True):
            self._link(task, new.parent, is_checkpoint=new.is_checkpoint)
        for task in reversed(tasks) if urgent else tasks:
            if task.id not in self._shapeless and not self._pool.can_ever(task.shape):
                self._give_up(task, commands)
            elif not task.pending:
                self._settle(task, commands, urgent=urgent)

    def _create(self, new: NewTask) -> Task:
        shape = self._shapes.of(new.shape, is_service=new.is_service)
        task = Task(new.id, new.needs, shape, new.kind, new.budget)
        if new.is_service:
            self._services.add(new.id)
        if new.is_late:
            self._shapeless.add(new.id)
        self._tasks[new.id] = task
        self._counts[State.WAITING] += 1
        return task

    def _link(self, task: Task, parent: TaskId | None, *, is_checkpoint: bool) -> None:
        needs = [self._tasks.get(id) for id in task.needs]
        for need in needs:
            if need is not None:
                need.follow(task.id)
                task.pending += need.id not in self._services
        self._holds.hold(task.needs)
        # Equal ids are often different objects: this one keeps the task's own.
        task.needs = tuple([id if need is None else need.id for id, need in zip(task.needs, needs, strict=True)])
        self._services.link(task)
        if is_checkpoint:
            self._checkpoints.add(task.id, task.needs)
        creator = None if parent is None else self._tasks.get(parent)
        if creator is not None and creator.state is State.EXPANDED:
            self._lead(creator, task.id)
        if parent is not None:
            self._checkpoints.descend(task.id, parent)

    def _lead(self, task: Task, id: TaskId) -> None:
        """Note that a task with an outcome led to another one, without which it is not complete."""
        other = self._tasks.get(id)
        if other is None or other.led_by == task.id:
            return
        if other.led_by is None:
            other.led_by = task.id
        else:
            self._led_by.setdefault(id, []).append(task.id)
        task.pending += 1

    def _leaders(self, task: Task) -> Sequence[TaskId]:
        """Give the tasks that led to one."""
        return () if task.led_by is None else (task.led_by, *self._led_by.get(task.id, ()))

    # Moves

    def _move(self, task: Task, state: State) -> None:
        old = task.state
        if state not in MOVES[old]:
            raise RuntimeError(
                f"the scheduler has a bug: {task!r} cannot become {state.name.lower()}. {self._tell(task.id)}"
            )
        self._story.append((task.id, old, state))
        self._counts[old] -= 1
        self._counts[state] += 1
        task.state = state
        if old is State.READY:
            self._ready.discard(task.shape)
        elif old.is_at_work and state is not State.SERVING:
            self._running.leave(task)
            self._services.ended(task.id)

    def _tell(self, id: TaskId) -> str:
        moves = [f"{old.name} to {new.name}" for moved, old, new in self._story if moved == id]
        return f"Its latest moves: {', '.join(moves).lower() or 'none'}"

    def _settle(self, task: Task, commands: list[Command], *, urgent: bool = True) -> None:
        """Put a task that is nowhere where it belongs: it waits, is ready or cannot be run."""
        if task.state is State.SERVING:
            self._fall(task, commands)
        if task.pending or not self._services.may_start(task):
            if task.state is not State.WAITING:
                self._move(task, State.WAITING)
            if self._services.is_over(task.id):
                commands += self._services.stop(task)
        elif task.id in self._shapeless:
            commands.append(Resolve(task.id))
        elif self._pool.can_ever(task.shape):
            self._move(task, State.READY)
            self._ready.add(task.id, task.shape, urgent=urgent)
        else:
            self._give_up(task, commands)

    def _give_up(self, task: Task, commands: list[Command]) -> None:
        """Give up a task that asks for too much."""
        self._move(task, State.FAILED)
        commands.append(GaveUp(task.id, Cause.INPUT))
        self._checkpoints.give_up(task.id)
        commands += self._services.leave(task)

    def _charge(self, task: Task, cause: Cause, now: float, commands: list[Command]) -> None:
        if self._services.is_over(task.id):
            self._settle(task, commands)
            return
        if task.state is State.SERVING:
            self._fall(task, commands)
        verdict = self._charges.charge(task.id, cause, task.budget, now)
        commands.append(verdict)
        if isinstance(verdict, GaveUp):
            self._move(task, State.FAILED)
            commands += self._services.leave(task)
            self._checkpoints.give_up(task.id)
            return
        asked = enlarged(task.shape.resources, cause, task.budget, self._pool.most_memory, self._pool.longest)
        task.shape = self._shapes.of(asked, is_service=task.shape.is_service)
        self._postpone(task, verdict, now, commands)

    def _postpone(self, task: Task, retry: Retry, now: float, commands: list[Command]) -> None:
        if retry.at > now:
            self._move(task, State.BACKOFF)
            heapq.heappush(self._backoff, (retry.at, task.id))
        else:
            self._settle(task, commands)

    def _complete(self, task: Task, commands: list[Command]) -> None:
        """Complete a task, and those that it was the last to be waited for."""
        stack = [task]
        while stack:
            task = stack.pop()
            self._move(task, State.COMPLETE)
            del self._tasks[task.id]
            commands.append(Complete(task.id))
            commands += self._holds.finish(task)
            if task.id in self._checkpoints:
                commands += self._rollback.complete(task.id)
            if task.id not in self._services:  # its followers never waited for its end
                self._wake(task, commands)
            commands += self._services.forget(task)
            stack += self._count_down(self._leaders(task))
            self._led_by.pop(task.id, None)

    def _wake(self, task: Task, commands: list[Command]) -> None:
        """Tell the followers of a task that it is complete."""
        without = (id for id in task.followers if (other := self._tasks.get(id)) and not other.state.has_outcome)
        for follower in reversed(self._count_down(without)):
            if follower.state is State.WAITING:
                self._settle(follower, commands)

    def _count_down(self, ids: Iterable[TaskId]) -> list[Task]:
        """Note that each of some tasks waits for one less; those that wait for none any more."""
        free = []
        for id in ids:
            task = self._tasks[id]
            task.pending -= 1
            if not task.pending:
                free.append(task)
        return free

    # Batches

    def dispatch(self, now: float) -> list[Command]:
        """Start what can be started, and whatever else is due."""
        commands: list[Command] = []
        self._end_backoffs(now, commands)
        for checkpoint, verdict, undone in self._rollback.due(now):
            commands += undone
            self._postpone(checkpoint, verdict, now, commands)
        self._admit(commands)
        while (shape := self._ready.choose(self._pool)) is not None:
            commands.append(self._running.begin(self._draft(shape), now))
        commands += self._running.due(now, is_all_started=not self._ready)
        self._unblock(commands)
        return commands

    def _admit(self, commands: list[Command]) -> None:
        """Let tasks have the services that they ask for."""
        if not self._services.queue:
            return
        tasks, hopeless = self._services.admit()
        for task in tasks:
            self._settle(task, commands)
        for task in hopeless:
            self._give_up_beside(self._services.of(task.id), task, commands)

    def _unblock(self, commands: list[Command]) -> None:
        """When nothing goes on but services, stop those that nobody can use now; if there is none, it is a deadlock."""
        serving = self._counts[State.SERVING]
        if not serving or self._counts[State.RUNNING] or self._counts[State.BACKOFF] or self._services.is_stopping:
            return
        blocked = [task.id for task in self._tasks.values() if task.state is State.READY]
        blocked += [id for id in self._services.queue if id in self._tasks]
        stops = self._services.release(self._held_up_by(blocked))
        commands += stops
        if blocked and not stops:
            self._give_up_beside(self._services.serving(), self._tasks[blocked[0]], commands)

    def _give_up_beside(self, services: Iterable[TaskId], task: Task, commands: list[Command]) -> None:
        """Give up a task for which there is no room beside services."""
        commands.append(Deadlock(task.id, tuple(services)))
        self._give_up(task, commands)

    def _end_backoffs(self, now: float, commands: list[Command]) -> None:
        while self._backoff and self._backoff[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._backoff)[1])
            if task is not None and task.state is State.BACKOFF:
                self._settle(task, commands)

    def _draft(self, shape: Shape) -> Draft:
        slots = self._pool.slots(shape)
        share = math.inf if math.isinf(slots) else math.ceil(self._ready.count(shape) / slots)
        draft = Draft(shape, self._policy, self._pool.longest, share)
        covered: dict[TaskId, int] = {}
        while (task := self._next(shape)) is not None and draft.offer(task.id, self._durations.expect(task.kind)):
            self._ready.pop(shape)
            self._move(task, State.RUNNING)
            if shape.is_service:
                break
            self._take_followers(draft, covered)
        return draft

    def _next(self, shape: Shape) -> Task | None:
        """Give the next ready task of a shape; it stays in its queue."""
        while self._ready.count(shape):
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
                if id in self._shapeless or self._services.of(id):  # neither can go along
                    continue
                covered[id] = covered.get(id, 0) + 1
                is_link = follower.pending == len(task.followers) == 1
                seconds = self._durations.expect(follower.kind)
                if covered[id] == follower.pending and draft.offer_follower(
                    id, seconds, follower.shape, is_link=is_link
                ):
                    self._move(follower, State.RUNNING)
