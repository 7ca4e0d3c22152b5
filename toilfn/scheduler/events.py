"""The events that go into the scheduler, and the commands that come out.

These are plain values: no clock, no store, no threads. Times are seconds on any
monotonic scale that the caller keeps to.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from toilfn.ids import BatchId, Budget, Cause, TaskId
from toilfn.resources import Capacity, Resources

__all__ = [
    "Adopted", "Command", "Complete", "Deadlock", "Event", "Failed", "Finished", "GaveUp", "JobStarted", "Kill", "Lost",
    "NewTask", "Recall", "Release", "RequirementsResolved", "ResolveRequirements", "Retry", "Returned", "RollBack",
    "ServiceStarted", "StopService", "Submit", "Submitted", "TailCallStarted",
]  # fmt: skip


class NewTask(NamedTuple):
    """A task for the scheduler to run."""

    id: TaskId
    needs: tuple[TaskId, ...]
    """Tasks that must be complete first (data or order). Only tasks the scheduler knows."""
    shape: Resources
    kind: int
    """An index of the task's function; tasks of one kind are expected to take similar time."""
    budget: Budget
    parent: TaskId | None = None
    """The task that created this one, which is complete only when this one is."""
    is_late: bool = False
    """Whether its shape depends on the values it needs: `ResolveRequirements` requests it when these are complete."""
    is_service: bool = False
    """Whether it runs beside the tasks that need it, until these and all that they led to are complete."""
    is_checkpoint: bool = False
    """Whether it is rolled back and run again when something it led to is given up."""


class Submitted(NamedTuple):
    """Tasks that are new to the scheduler, in any order; needs may point forwards within the tuple."""

    tasks: tuple[NewTask, ...]


class Finished(NamedTuple):
    """A task has an outcome. Accepted from every state but done, so also from an attempt that was
    thought lost, and for a task that an earlier leader has run. A second one is ignored."""

    id: TaskId
    children: tuple[NewTask, ...] = ()
    """The tasks that it created. It is complete only when all of them are."""
    waits: tuple[TaskId, ...] = ()
    """Other tasks its value refers to: it is complete only when they are."""
    wall: float = 0.0
    """Seconds the attempt took; 0 for an outcome that was not run now."""


class Adopted(NamedTuple):
    """An earlier leader's batch still runs, or waits in the cluster's queue. Answered by `Submit` for what of it is
    still needed: that batch is out already, and only gets a number. No answer: nothing of it is needed."""

    ids: tuple[TaskId, ...]
    """Its tasks, in the order in which they run."""
    now: float


class TailCallStarted(NamedTuple):
    """A worker has started a task that its own batch just created (a tail call): the task runs in that batch."""

    batch: BatchId
    id: TaskId


class JobStarted(NamedTuple):
    """A batch that waited in the cluster's queue runs now."""

    batch: BatchId
    now: float


class Failed(NamedTuple):
    """An attempt of a task ended without an outcome."""

    id: TaskId
    cause: Cause
    now: float


class Returned(NamedTuple):
    """A batch gives back tasks that it did not start; they cost no attempt."""

    batch: BatchId
    ids: tuple[TaskId, ...]


class ServiceStarted(NamedTuple):
    """A service has given its value and serves: what needs it can run."""

    batch: BatchId
    id: TaskId


class RequirementsResolved(NamedTuple):
    """The answer to `ResolveRequirements`."""

    id: TaskId
    shape: Resources | None
    """None: its requirements cannot be known, and it is given up."""


class Lost(NamedTuple):
    """A batch has ended, well or badly. Tasks of it without an outcome: the first in order is charged
    with `cause` (none is when `cause` is None), the others are ready again at no cost."""

    batch: BatchId
    cause: Cause | None
    now: float
    running: TaskId | None = None
    """The task that was running, when it is known better than by order."""
    is_sure: bool = True
    """Whether it is certain then which task was running. If not, and one of several has probably ended its worker,
    none is charged and each runs alone from now on: so that one is found, and the others do not pay for it."""


Event: TypeAlias = (
    Submitted
    | Adopted
    | Finished
    | TailCallStarted
    | JobStarted
    | Failed
    | Returned
    | ServiceStarted
    | RequirementsResolved
    | Lost
    | Capacity
)


class Submit(NamedTuple):
    """Run these tasks, one after the other, on one worker.

    A later task of a batch may need earlier ones of the same batch, and nothing else that is not complete.
    """

    batch: BatchId
    ids: tuple[TaskId, ...]
    shape: Resources
    """The largest of its tasks' resources."""
    walltime: float | None = None
    """How many seconds the batch may take: what is not begun early enough to have its own walltime is returned."""


class Recall(NamedTuple):
    """Ask a batch to return the tasks that it has not started: other workers are idle. Answered by `Returned`."""

    batch: BatchId


class ResolveRequirements(NamedTuple):
    """Compute the requirements of a task: its inputs are complete. Answered by `RequirementsResolved`."""

    id: TaskId


class Kill(NamedTuple):
    """End a batch: nothing in it is needed any longer, or a service that it uses has died."""

    batch: BatchId
    service: TaskId | None = None
    """The service that has died."""


class Complete(NamedTuple):
    """A task and all that it led to is done: its value can be resolved."""

    id: TaskId


class Release(NamedTuple):
    """Every task that needs this one's value has an outcome; it can be dropped from memory."""

    id: TaskId


class Retry(NamedTuple):
    """The task will be tried again, not before ``at``."""

    id: TaskId
    cause: Cause
    attempt: int
    """Attempts charged so far."""
    at: float


class GaveUp(NamedTuple):
    """The task's budget is used up; the tasks that need it will not run. All others continue."""

    id: TaskId
    cause: Cause


class RollBack(NamedTuple):
    """A task that has an outcome runs again: what follows from its outcome is void.

    It is a checkpoint that led to something that was given up, or a client whose service has died.
    """

    id: TaskId
    family: tuple[TaskId, ...]
    """All that it led to in this scheduler's time; the scheduler no longer knows these."""
    failed: TaskId
    """The task that was given up, or the service."""
    cause: Cause
    """Lost, if it was a service."""
    attempt: int
    """Attempts charged so far."""


class StopService(NamedTuple):
    """A service is no longer needed, or not now. Answered by `Finished`, or, while it has users, by `Returned`."""

    id: TaskId
    batch: BatchId | None
    """Where it runs. None: nowhere, and it has finished without."""


class Deadlock(NamedTuple):
    """A task can never start beside services: those that it needs itself, or that wait for it. `GaveUp` follows."""

    id: TaskId
    services: tuple[TaskId, ...]


Command: TypeAlias = (
    Submit
    | ResolveRequirements
    | Recall
    | Kill
    | Complete
    | Release
    | Retry
    | GaveUp
    | RollBack
    | StopService
    | Deadlock
)
