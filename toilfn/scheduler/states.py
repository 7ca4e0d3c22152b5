"""Define the states of a task and the moves between them.

========  ========  ==============================================================
from      to        when
========  ========  ==============================================================
waiting   ready     the last of its needs is complete
waiting   running   it goes along in the batch that runs its needs; `TailCallStarted`, `Adopted`
waiting   failed    it requests more than the capacity can ever give
ready     running   a batch takes it; `TailCallStarted`, `Adopted`
ready     failed    the capacity shrank below what it requests
running   running   `TailCallStarted` by another batch than the one it was given to
running   ready     `Returned`, `Lost` at no cost, or a retry that is due at once
running   waiting   the same, while one of its needs is not complete
running   backoff   `Failed` or `Lost`, to be tried again later
running   failed    `Failed` or `Lost`, and its budget is used up
running   serving   a service has started
serving   any       as from running
ready     waiting   a service that it uses has died
backoff   ready     its time came
backoff   waiting   its time came, and one of its needs is not complete
backoff   failed    its time came, and the capacity shrank below what it requests
any but   expanded  `Finished`: from every state without an outcome, since late outcomes
outcome             and those of earlier leaders count
expanded  complete  all that it led to is complete
expanded  backoff   it is a checkpoint, and something that it led to was given up; also to ready and to waiting
========  ========  ==============================================================

Any other move is a bug. `Checkpoints` and `Holds` keep what spans several tasks: who led to whom, and which values are
still needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum

from toilfn.ids import BatchId, Budget, TaskId
from toilfn.scheduler.events import Release
from toilfn.scheduler.packing import Shape

__all__ = ["MOVES", "Checkpoints", "Holds", "State", "TaskState"]


class State(IntEnum):
    """The state of a task."""

    WAITING = 0
    """One of its needs is not complete."""
    READY = 1
    """It can run as soon as there is room."""
    RUNNING = 2
    """It belongs to a batch that was submitted."""
    SERVING = 3
    """It is a service that runs and that its users can use."""
    BACKOFF = 4
    """It failed and will be tried again later."""
    FAILED = 5
    """It was given up."""
    EXPANDED = 6
    """It has an outcome, and a task that it led to is not complete."""
    COMPLETE = 7
    """It and all that it led to have outcomes. Only its id is kept."""

    @property
    def has_outcome(self) -> bool:
        """Whether the task itself is done."""
        return self >= State.EXPANDED

    @property
    def is_at_work(self) -> bool:
        """Whether the task belongs to a batch that was submitted."""
        return self is State.RUNNING or self is State.SERVING


MOVES: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.RUNNING, State.FAILED, State.EXPANDED}),
    State.READY: frozenset({State.RUNNING, State.WAITING, State.FAILED, State.EXPANDED}),
    State.RUNNING: frozenset(
        {State.RUNNING, State.READY, State.WAITING, State.SERVING, State.BACKOFF, State.FAILED, State.EXPANDED}
    ),
    State.SERVING: frozenset({State.READY, State.WAITING, State.BACKOFF, State.FAILED, State.EXPANDED}),
    State.BACKOFF: frozenset({State.READY, State.WAITING, State.FAILED, State.EXPANDED}),
    State.FAILED: frozenset({State.EXPANDED}),
    State.EXPANDED: frozenset({State.COMPLETE, State.READY, State.WAITING, State.BACKOFF, State.FAILED}),
    State.COMPLETE: frozenset(),
}
"""For each state, the states that can follow."""


class TaskState:
    """A task that is not complete.

    There may be millions of these, so other tasks are named by id, and what is rare is kept
    elsewhere: that also keeps pickles of a scheduler flat.
    """

    __slots__ = ("_followers", "batch", "budget", "held", "id", "kind", "led_by", "needs", "pending", "shape", "state")

    def __init__(self, id: TaskId, needs: tuple[TaskId, ...], shape: Shape, kind: int, budget: Budget) -> None:
        self.id = id
        #: The tasks that it needs; once it has an outcome, those that its value refers to.
        self.needs = needs
        self.shape = shape
        self.kind = kind
        self.budget = budget
        self.state = State.WAITING
        #: How many incomplete tasks it waits for: needs before it has an outcome, children and others after.
        self.pending = 0
        #: How many others will load its value.
        self.held = 0
        #: The first task with an outcome that is complete only when this one is: as a rule its parent.
        self.led_by: TaskId | None = None
        #: The batch in which it runs, while it runs.
        self.batch: BatchId = 0
        self._followers: TaskId | list[TaskId] | None = None

    @property
    def followers(self) -> Sequence[TaskId]:
        """The tasks that need this one."""
        if self._followers is None:
            return ()
        return self._followers if isinstance(self._followers, list) else (self._followers,)

    def follow(self, id: TaskId) -> None:
        """Note that another task needs this one."""
        if self._followers is None:
            self._followers = id
        elif isinstance(self._followers, list):
            self._followers.append(id)
        else:
            self._followers = [self._followers, id]

    def unfollow(self, id: TaskId) -> None:
        """Note that another task no longer needs this one."""
        self._followers = [follower for follower in self.followers if follower != id]

    def __repr__(self) -> str:
        return f"<task {self.id.hex()} {self.state.name.lower()}, waits for {self.pending}, batch {self.batch}>"


class Checkpoints:
    """The checkpoints among the tasks that are not complete, and their families: all that they led to.

    A task belongs to the family of the innermost checkpoint above it. A checkpoint within another belongs to that
    one's family, and so its own family goes with it. Clients of services count as checkpoints, except that
    the only reason to roll them back is that a service of theirs has died.
    """

    def __init__(self) -> None:
        self._needs: dict[TaskId, tuple[TaskId, ...]] = {}
        self._clients: set[TaskId] = set()
        self._above: dict[TaskId, TaskId] = {}
        self._families: dict[TaskId, list[TaskId]] = {}
        #: Tasks of families that were given up.
        self.given_up_members: list[TaskId] = []
        #: Clients whose outcomes have led to tasks that may use a dead service, and that service.
        self.clients_to_rerun: list[tuple[TaskId, TaskId]] = []

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint may have to be rolled back."""
        return bool(self.given_up_members or self.clients_to_rerun)

    def __contains__(self, id: object) -> bool:
        return id in self._needs

    def add(self, id: TaskId, needs: tuple[TaskId, ...], *, is_client: bool = False) -> None:
        """Add a checkpoint, or a mere client of services, with the tasks that it needs, also when it runs again."""
        self._needs[id] = needs
        if is_client:
            self._clients.add(id)

    def needs(self, id: TaskId) -> tuple[TaskId, ...]:
        """Return the tasks that a checkpoint needs."""
        return self._needs[id]

    def descend(self, id: TaskId, parent: TaskId) -> None:
        """Add a task that another one led to."""
        above = parent if parent in self._needs else self._above.get(parent)
        if above is not None and id not in self._above:
            self._above[id] = above
            self._families.setdefault(above, []).append(id)

    def give_up(self, id: TaskId) -> None:
        """Note that a task was given up: the checkpoint above it, if any, has to be rolled back."""
        if any(True for _ in self.above(id)):
            self.given_up_members.append(id)

    def above(self, id: TaskId) -> Iterator[TaskId]:
        """Return the checkpoints above a task, the innermost first, without mere clients of services."""
        return (above for above in self._all_above(id) if above not in self._clients)

    def _all_above(self, id: TaskId) -> Iterator[TaskId]:
        while (above := self._above.get(id)) is not None:
            yield above
            id = above

    def outermost(self, id: TaskId) -> TaskId | None:
        """Return the outermost checkpoint that is this task or above it; None if there is none."""
        last = id if id in self._needs else None
        for above in self._all_above(id):
            last = above
        return last

    def family(self, id: TaskId) -> list[TaskId]:
        """Return all tasks that a checkpoint led to, with the families of the checkpoints among them."""
        found = list(self._families.get(id, ()))
        for member in found:  # grows
            found += self._families.get(member, ())
        return found

    def forget(self, id: TaskId) -> None:
        """Forget a checkpoint's family."""
        family = self.family(id)
        self._families.pop(id, None)
        self._drop(family)

    def complete(self, id: TaskId) -> None:
        """Note that a checkpoint is complete; the roll-back of another one above it can still remove it."""
        if id not in self._above:
            self.forget(id)
            self._drop([id])

    def _drop(self, ids: Iterable[TaskId]) -> None:
        for id in ids:
            self._clients.discard(id)
            for kept in (self._needs, self._above, self._families):
                kept.pop(id, None)


class Holds:
    """Counts, for each task, how many others will still load its value.

    A task without an outcome holds what it needs. A value holds the ones it refers to, except while
    it is released itself.

    Parameters
    ----------
    tasks : dict
        The tasks that are not complete: their counts are kept in them.
    """

    def __init__(self, tasks: dict[TaskId, TaskState]) -> None:
        self._tasks = tasks
        self._counts: dict[TaskId, int] = {}
        self._refs: dict[TaskId, tuple[TaskId, ...]] = {}
        #: Ids of all complete tasks.
        self.complete: set[TaskId] = set()

    def hold(self, ids: Iterable[TaskId]) -> None:
        """Keep values; each call counts."""
        stack = list(ids)
        while stack:
            id = stack.pop()
            task = self._tasks.get(id)
            if task is not None:
                task.held += 1
                continue
            if id not in self._counts:  # it was released: what it refers to is needed again, too
                self._counts[id] = 0
                stack += self._refs.get(id, ())
            self._counts[id] += 1

    def let_go(self, ids: Iterable[TaskId]) -> list[Release]:
        """Undo one call of `hold`."""
        return [release for id in ids if self._drop(id) for release in self._release(id)]

    def finish(self, task: TaskState) -> list[Release]:
        """Note that a task is complete; from now on, its needs are the tasks that its value refers to."""
        self.complete.add(task.id)
        if task.needs:
            self._refs[task.id] = task.needs
        if not task.held:
            return self._release(task.id)
        self._counts[task.id] = task.held
        return []

    def forget(self, ids: Iterable[TaskId]) -> int:
        """Forget complete tasks whose values no task holds; return how many of the given tasks were complete."""
        gone = [id for id in ids if id in self.complete]
        for id in gone:
            self.complete.discard(id)
            self._refs.pop(id, None)
            self._counts.pop(id, None)
        return len(gone)

    def _drop(self, id: TaskId) -> bool:
        """Remove one hold; return whether the value may be dropped now."""
        task = self._tasks.get(id)
        if task is not None:
            task.held -= 1
            return False
        self._counts[id] -= 1
        if self._counts[id]:
            return False
        del self._counts[id]
        return True

    def _release(self, id: TaskId) -> list[Release]:
        released = [Release(id)]
        for release in released:  # grows as values go that only released ones referred to
            released += [Release(ref) for ref in self._refs.get(release.id, ()) if self._drop(ref)]
        return released
