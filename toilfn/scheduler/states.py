"""The states of a task, and the moves between them.

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

Any other move is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from toilfn.ids import BatchId, Budget, TaskId
from toilfn.scheduler.packing import Shape

__all__ = ["MOVES", "State", "TaskState"]


class State(IntEnum):
    """Where a task is on its way."""

    WAITING = 0
    """Something it needs is not complete."""
    READY = 1
    """It can run as soon as there is room."""
    RUNNING = 2
    """It is in a batch that was submitted."""
    SERVING = 3
    """It is a service that runs and can be used."""
    BACKOFF = 4
    """It failed and will be tried again later."""
    FAILED = 5
    """It was given up."""
    EXPANDED = 6
    """It has an outcome, and something it led to is not complete."""
    COMPLETE = 7
    """It and all that it led to have outcomes. Only its id is kept."""

    @property
    def has_outcome(self) -> bool:
        """Whether the task itself is done."""
        return self >= State.EXPANDED

    @property
    def is_at_work(self) -> bool:
        """Whether the task is in a batch that was submitted."""
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
        #: Where it runs, while it runs.
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
