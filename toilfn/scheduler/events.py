"""The events that go into the scheduler, and the commands that come out.

These are plain values: they contain no clock, store or thread. Times are in seconds on any monotonic
scale, as long as it is always the same one.
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
    """Tasks that must be complete first, for their values or for the order only. The scheduler must know them."""
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
    """Whether it is rolled back and run again when a task that it led to is given up."""


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
    """A worker has started a task that its own batch has just created (a tail call); the task runs in that batch."""

    batch: BatchId
    id: TaskId


class JobStarted(NamedTuple):
    """A batch has left the cluster's queue, and runs."""

    batch: BatchId
    now: float


class Failed(NamedTuple):
    """An attempt of a task has ended without an outcome."""

    id: TaskId
    cause: Cause
    now: float


class Returned(NamedTuple):
    """A batch has returned tasks that it did not start; this counts as no attempt."""

    batch: BatchId
    ids: tuple[TaskId, ...]


class ServiceStarted(NamedTuple):
    """A service has returned its value, and its clients can run."""

    batch: BatchId
    id: TaskId


class RequirementsResolved(NamedTuple):
    """The answer to `ResolveRequirements`."""

    id: TaskId
    shape: Resources | None
    """None if its requirements could not be computed: the task is given up."""


class Lost(NamedTuple):
    """A batch has ended, with success or not. Of its tasks without an outcome, the first one is charged
    with `cause` (none if `cause` is None); the others are ready again at no cost."""

    batch: BatchId
    cause: Cause | None
    now: float
    running: TaskId | None = None
    """The task that was running, if that is known; by default, the first one without an outcome."""
    is_sure: bool = True
    """Whether it is certain which task was running. If not, and one of several has probably ended its worker,
    none is charged, and each runs alone from now on: so the failing one is found, and the others do not pay for it."""


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
    """Enough resources for each of its tasks."""
    walltime: float | None = None
    """How many seconds the batch may take: what is not begun early enough to have its own walltime is returned."""


class Recall(NamedTuple):
    """Ask a batch to return the tasks that it has not started: other workers are idle. Answered by `Returned`."""

    batch: BatchId


class ResolveRequirements(NamedTuple):
    """Compute the requirements of a task whose inputs are complete. Answered by `RequirementsResolved`."""

    id: TaskId


class Kill(NamedTuple):
    """Kill a batch: none of its tasks is needed any longer, or a service that it uses has died."""

    batch: BatchId
    service: TaskId | None = None
    """The service that has died."""


class Complete(NamedTuple):
    """A task and all tasks that it led to are done, so its value can be resolved."""

    id: TaskId


class Release(NamedTuple):
    """Every task that needs this one's value has an outcome, so the value can be dropped from memory."""

    id: TaskId


class Retry(NamedTuple):
    """The task will be tried again, not before ``at``."""

    id: TaskId
    cause: Cause
    attempt: int
    """Attempts charged so far."""
    at: float


class GaveUp(NamedTuple):
    """The task has used up its retries. The tasks that need it will not run; all others continue."""

    id: TaskId
    cause: Cause


class RollBack(NamedTuple):
    """A task that has an outcome runs again, and everything that followed from the outcome is void.

    It is a checkpoint that led to something that was given up, or a client whose service has died.
    """

    id: TaskId
    family: tuple[TaskId, ...]
    """All tasks that it led to since this scheduler was created; the scheduler has forgotten them."""
    failed: TaskId
    """The task that was given up, or the service."""
    cause: Cause
    """`Cause.LOST` if it was a service."""
    attempt: int
    """Attempts charged so far."""


class StopService(NamedTuple):
    """A service is no longer needed, or has to make room for others.

    Answered by `Finished`, or, while it has users, by `Returned`.
    """

    id: TaskId
    batch: BatchId | None
    """The batch in which it runs; None if it runs nowhere, and has finished without."""


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
