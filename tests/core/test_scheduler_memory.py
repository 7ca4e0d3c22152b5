"""The data that a scheduler keeps when everything is done: a leader runs for weeks, and sees millions of tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.core.scheduler_model import SMALL, name, new
from toilfn.ids import Budget, Cause, TaskId
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Policy, Scheduler
from toilfn.scheduler.events import (
    Command,
    Event,
    Failed,
    Finished,
    JobStarted,
    Lost,
    NewTask,
    RequirementsResolved,
    ResolveRequirements,
    ServiceStarted,
    StopService,
    Submit,
    Submitted,
    TailCallStarted,
)

ALLOWED = {
    "pool._services",  # two numbers
    "counts",
    "latest_moves",  # a ring
    "durations._seconds",  # one number for each kind of task
    "holds.complete",  # the ids of complete tasks
    "holds._refs",  # the tasks that their values refer to
}
"""The containers that may hold something in the end."""

DAY = 86_400.0
AGAIN = Budget(error=3, lost=3, backoff=0.0)


def containers(thing: object, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, object]]:
    """Yield the containers in a scheduler's objects, with their paths."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, dict | list | set | deque):
        yield path, thing
    elif type(thing).__module__.startswith("toilfn.scheduler"):
        slots = [slot for cls in type(thing).__mro__ for slot in getattr(cls, "__slots__", ())]
        names = [*getattr(thing, "__dict__", ()), *slots]
        for each in names:
            yield from containers(
                getattr(thing, each, None), f"{path}.{each}".removeprefix("._state").lstrip("."), seen
            )


@dataclass
class Leader:
    """Runs tasks as they are scripted: each fails so often, and then leads to its children."""

    children: dict[int, tuple[NewTask, ...]] = field(default_factory=dict)
    waits: dict[int, tuple[int, ...]] = field(default_factory=dict)
    failures: dict[int, list[Cause]] = field(default_factory=dict)
    tail_calls: dict[int, int] = field(default_factory=dict)
    policy: Policy = Policy(check=True)  # noqa: RUF009 - immutable
    capacity: Capacity = Capacity(Resources(cores=4, memory=1000, disk=100))  # noqa: RUF009 - immutable
    now: float = 0.0

    def run(self, *tasks: NewTask) -> Scheduler:
        self.scheduler = Scheduler(self.capacity, self.policy)
        self.tell(Submitted(tasks))
        for _ in range(100):
            if self.scheduler.idle:
                break
            self.obey(self.scheduler.dispatch(self.now))
            self.now += 1.0
        self.obey(self.scheduler.dispatch(self.now + DAY))  # entries with a time are dropped when it comes
        return self.scheduler

    def tell(self, event: Event) -> None:
        self.obey(self.scheduler.handle(event))

    def obey(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, ResolveRequirements):
                self.tell(RequirementsResolved(command.id, SMALL))
            elif isinstance(command, StopService) and command.batch is not None:
                self.tell(Finished(command.id))
                self.tell(Lost(command.batch, None, self.now))
            elif isinstance(command, Submit):
                self.work(command)

    def work(self, submit: Submit) -> None:
        self.tell(JobStarted(submit.batch, self.now))
        for id in submit.ids:
            if not self.answer(submit.batch, id):
                return
        self.tell(Lost(submit.batch, None, self.now))

    def answer(self, batch: int, id: TaskId) -> bool:
        """Run a task; return whether its batch continues."""
        number = id[-1]
        if self.failures.get(number):
            cause = self.failures[number].pop(0)
            if cause is Cause.LOST:
                self.tell(Lost(batch, cause, self.now, running=id))
                return False
            self.tell(Failed(id, cause, self.now))
            return True
        if number in SERVICES:
            self.tell(ServiceStarted(batch, id))
            return False
        if number in self.tail_calls:
            called = name(self.tail_calls[number])
            self.tell(Finished(id, self.children.get(number, ()), tuple(map(name, self.waits.get(number, ())))))
            self.tell(TailCallStarted(batch, called))
            return self.answer(batch, called)
        waits = tuple(map(name, self.waits.get(number, ())))
        self.tell(Finished(id, self.children.get(number, ()), waits, wall=1.0))
        return True


SERVICES = (200, 201)


def service(number: int, *needs: int) -> NewTask:
    return new(number, *needs)._replace(is_service=True)


def child(number: int, parent: int, *needs: int, **fields: object) -> NewTask:
    return new(number, *needs, budget=AGAIN)._replace(parent=name(parent), **fields)


CASES = {
    "a chain": (Leader(), [new(1), new(2, 1), new(3, 1, 2)]),
    "children": (Leader({1: (child(2, 1), child(3, 1, 2))}, waits={1: (3,)}), [new(1), new(4, 1)]),
    "tail calls": (Leader({1: (child(2, 1),)}, waits={1: (2,)}, tail_calls={1: 2}), [new(1), new(4, 1)]),
    "late requirements": (Leader(), [new(1), new(2, 1)._replace(is_late=True)]),
    "failures": (
        Leader(failures={1: [Cause.ERROR, Cause.LOST], 2: [Cause.LOST, Cause.LOST]}),
        [new(1, budget=AGAIN), new(2, 1, budget=AGAIN)],
    ),
    "failures that wait": (
        Leader(failures={1: [Cause.ERROR]}), [new(1, budget=Budget(error=1, backoff=2.0)), new(2, 1)]
    ),
    "batches that die": (
        Leader(failures={2: [Cause.LOST, Cause.LOST]}, policy=Policy(target_seconds=60.0, max_batch=10, check=True)),
        [new(1, budget=AGAIN), new(2, 1, budget=AGAIN), new(3, 2, budget=AGAIN)],
    ),
    "a service": (Leader(), [service(200), new(1, 200), new(2, 200, 1)]),
    "a service of a service": (Leader(), [service(200), service(201, 200), new(1, 201), new(2)]),
    "a service whose needs run first": (Leader(), [new(3), service(200, 3), new(1, 200)]),
    "a checkpoint": (
        Leader({1: (child(2, 1), child(3, 1, 2))}), [new(1, budget=AGAIN)._replace(is_checkpoint=True), new(4, 1)]
    ),
    "a checkpoint that is rolled back": (
        Leader({1: (new(2, budget=Budget(error=0))._replace(parent=name(1)),)}, failures={2: [Cause.ERROR]}),
        [new(5), new(1, 5, budget=AGAIN)._replace(is_checkpoint=True), new(4, 1)],
    ),
    "checkpoints in a checkpoint": (
        Leader(
            {1: (child(2, 1, is_checkpoint=True),), 2: (new(3, budget=Budget(error=0))._replace(parent=name(2)),)},
            failures={3: [Cause.ERROR]},
        ),
        [new(1, budget=AGAIN)._replace(is_checkpoint=True)],
    ),
    "tasks that are held back": (
        Leader(policy=Policy(target_seconds=30.0, max_batch=10, probes=2, check=True), capacity=Capacity(None)),
        [new(number) for number in range(1, 9)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_scheduler_that_is_done_keeps_the_ids_of_complete_tasks_only(case: str) -> None:
    leader, tasks = CASES[case]
    scheduler = leader.run(*tasks)
    assert scheduler.idle
    assert {path: kept for path, kept in containers(scheduler) if kept and path not in ALLOWED} == {}
    assert scheduler.counts()["complete"] == len(tasks) + sum(map(len, leader.children.values()))
