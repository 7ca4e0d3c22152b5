"""Roll-backs and late shapes in the scheduler, on random trees of checkpoints."""

from __future__ import annotations

import pickle
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.scheduler_model import SMALL, name
from tests.mutation import examples
from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Policy, Scheduler, State
from toilfn.scheduler.events import (
    Complete,
    Failed,
    Finished,
    GaveUp,
    Kill,
    Lost,
    NewTask,
    Release,
    RequirementsResolved,
    ResolveRequirements,
    Retry,
    RollBack,
    ServiceStarted,
    Submit,
    Submitted,
)


class Trees:
    """A leader that runs a random tree: each task leads to its children anew whenever it runs."""

    def __init__(self, random: Random, failing: float) -> None:
        self.random = random
        self.failing = failing
        self.children: dict[bytes, tuple[NewTask, ...]] = {}
        self.number = 0
        self.root = self.grow(None, 3)
        self.scheduler = Scheduler(Capacity(Resources(cores=3, memory=100, disk=10)), Policy())
        self.known = {self.root.id}
        self.done: set[bytes] = set()
        self.complete: set[bytes] = set()
        self.failed: set[bytes] = set()
        self.batches: dict[int, list[bytes]] = {}
        self.now = 0.0

    def grow(self, parent: bytes | None, depth: int, needs: tuple[bytes, ...] = ()) -> NewTask:
        self.number += 1
        id = name(self.number)
        budget = Budget(error=self.random.choice([0, 1, 3]), backoff=self.random.choice([0.0, 1.0]))
        late = self.random.random() < 0.3
        task = NewTask(id, needs, SMALL, 0, budget, parent, late, is_checkpoint=self.random.random() < 0.5)
        made: list[NewTask] = []
        for _ in range(self.random.choice([0, 1, 2, 3]) if depth else 0):
            before = tuple(child.id for child in made if self.random.random() < 0.4)
            made.append(self.grow(id, depth - 1, before))
        self.children[id] = tuple(made)
        return task

    def under(self, id: bytes) -> set[bytes]:
        found = {child.id for child in self.children[id]}
        return found.union(*map(self.under, found))

    def obey(self, commands: list) -> None:
        for command in commands:
            getattr(self, f"on_{type(command).__name__.lower()}")(command)

    def tell(self, event: object) -> None:
        if self.random.random() < 0.2:
            self.scheduler = pickle.loads(pickle.dumps(self.scheduler))
        self.obey(self.scheduler.handle(event))
        self.scheduler.check()
        assert sum(self.scheduler.counts().values()) == len(self.known)

    def on_submit(self, command: Submit) -> None:
        assert not self.done & set(command.ids)
        assert set(command.ids) <= self.known
        self.batches[command.batch] = list(command.ids)

    def on_resolverequirements(self, command: ResolveRequirements) -> None:
        self.tell(RequirementsResolved(command.id, self.random.choice([SMALL, Resources(cores=2, memory=1, disk=1)])))

    def on_kill(self, command: Kill) -> None:
        self.batches[command.batch].clear()

    def on_complete(self, command: Complete) -> None:
        assert self.under(command.id) <= self.complete
        self.complete.add(command.id)

    def on_release(self, command: Release) -> None:
        assert command.id in self.done

    def on_retry(self, command: Retry) -> None:
        assert command.id in self.known

    def on_gaveup(self, command: GaveUp) -> None:
        self.failed.add(command.id)

    def on_rollback(self, command: RollBack) -> None:
        assert command.failed in self.failed
        assert set(command.family) == self.under(command.id) & self.known
        for kept in (self.known, self.done, self.complete, self.failed):
            kept.difference_update(command.family)
        self.done.discard(command.id)

    def step(self) -> None:
        self.obey(self.scheduler.dispatch(self.now))
        assert sum(self.scheduler.counts().values()) == len(self.known)
        if not self.batches:
            self.now += 1.0
            return None
        batch = self.random.choice(list(self.batches))
        if not self.batches[batch]:
            del self.batches[batch]
            return self.tell(Lost(batch, None, self.now))
        id = self.batches[batch].pop(0)
        if id not in self.known or id not in self.scheduler.running()[batch]:
            return None  # what a leader does not listen to after a roll-back
        if self.random.random() < self.failing:
            return self.tell(Failed(id, Cause.ERROR, self.now))
        self.done.add(id)
        self.known.update(child.id for child in self.children[id])
        return self.tell(Finished(id, self.children[id]))

    def run(self) -> None:
        self.tell(Submitted((self.root,)))
        for _ in range(20_000):
            if self.scheduler.idle and not self.batches:
                break
            self.step()
        assert self.scheduler.idle
        assert (self.root.id in self.complete) == (not self.failed)


@settings(max_examples=examples(150))
@given(random=st.randoms(use_true_random=False), failing=st.sampled_from([0.0, 0.1, 0.4]))
def test_roll_backs_leave_nothing_behind_and_end(random: Random, failing: float) -> None:
    Trees(random, failing).run()


def test_a_checkpoint_pays_for_its_roll_backs_and_the_next_one_above_follows() -> None:
    outer = NewTask(name(1), (), SMALL, 0, Budget(error=1, backoff=0.0), is_checkpoint=True)
    inner = NewTask(name(2), (), SMALL, 0, Budget(error=1, backoff=0.0), name(1), is_checkpoint=True)
    child = NewTask(name(3), (), SMALL, 0, Budget(error=0), name(2))
    scheduler = Scheduler(Capacity(Resources(cores=1, memory=100, disk=10)))
    scheduler.handle(Submitted((outer,)))
    rolled, leads_to = [], {outer.id: (inner,), inner.id: (child,)}
    for _ in range(30):
        commands = scheduler.dispatch(0.0)
        rolled += [command.id for command in commands if isinstance(command, RollBack)]
        for batch, ids in scheduler.running().items():
            for id in ids:
                scheduler.handle(Failed(id, Cause.ERROR, 0.0) if id == child.id else Finished(id, leads_to[id]))
            scheduler.handle(Lost(batch, None, 0.0))
    assert rolled == [inner.id, outer.id, inner.id]
    assert scheduler.idle
    assert scheduler.counts()["failed"] == 1


def test_a_roll_back_names_what_failed_why_and_all_that_is_forgotten() -> None:
    checkpoint = NewTask(name(1), (), SMALL, 0, Budget(error=2, backoff=0.0), is_checkpoint=True)
    first = NewTask(name(2), (), SMALL, 0, Budget(error=0), name(1))
    second = NewTask(name(3), (name(2),), SMALL, 0, Budget(error=0), name(1))
    scheduler = Scheduler(Capacity(Resources(cores=1, memory=100, disk=10)), Policy(max_batch=1))
    scheduler.handle(Submitted((checkpoint,)))
    for attempt in (1, 2):
        (batch,) = scheduler.running() or [command.batch for command in scheduler.dispatch(0.0)]
        scheduler.handle(Finished(checkpoint.id, (first, second)))
        scheduler.handle(Lost(batch, None, 0.0))
        (submit,) = scheduler.dispatch(0.0)
        assert GaveUp(first.id, Cause.ERROR) in scheduler.handle(Failed(first.id, Cause.ERROR, 0.0))
        scheduler.handle(Lost(submit.batch, None, 0.0))
        assert scheduler.outermost_checkpoint(second.id) == checkpoint.id
        rollback, again = scheduler.dispatch(0.0)
        assert rollback == RollBack(checkpoint.id, (first.id, second.id), first.id, Cause.ERROR, attempt)
        assert again.ids == (checkpoint.id,)
        assert {state: count for state, count in scheduler.counts().items() if count} == {"running": 1}


def test_a_client_of_a_service_that_died_is_run_again_at_no_cost() -> None:
    service = NewTask(name(1), (), SMALL, 0, Budget(lost=1, backoff=0.0))._replace(is_service=True)
    client = NewTask(name(2), (name(1),), SMALL, 0, Budget(error=1, backoff=0.0))
    child = NewTask(name(3), (), SMALL, 0, Budget(), name(2))
    scheduler = Scheduler(Capacity(Resources(cores=4, memory=100, disk=10)), Policy(max_batch=1, check=True))
    scheduler.handle(Submitted((service, client)))
    scheduler.dispatch(0.0)
    scheduler.handle(ServiceStarted(1, service.id))
    scheduler.dispatch(0.0)
    scheduler.handle(Finished(client.id, (child,)))
    scheduler.handle(Lost(2, None, 0.0))
    scheduler.dispatch(0.0)
    scheduler.handle(Lost(1, Cause.LOST, 5.0))
    (rollback, *_) = [command for command in scheduler.dispatch(5.0) if isinstance(command, RollBack)]
    assert rollback == RollBack(client.id, (child.id,), service.id, Cause.LOST, 0)
    assert scheduler.state(child.id) is None
    assert scheduler.state(client.id) is State.WAITING


def test_a_child_that_requests_too_much_rolls_its_checkpoint_back() -> None:
    checkpoint = NewTask(name(1), (), SMALL, 0, Budget(error=1, backoff=0.0), is_checkpoint=True)
    huge = NewTask(name(2), (), Resources(cores=99), 0, Budget(), name(1))
    scheduler = Scheduler(Capacity(Resources(cores=1, memory=100, disk=10)))
    scheduler.handle(Submitted((checkpoint,)))
    scheduler.dispatch(0.0)
    assert GaveUp(huge.id, Cause.INPUT) in scheduler.handle(Finished(checkpoint.id, (huge,)))
    scheduler.handle(Lost(1, None, 0.0))
    rollback, _ = scheduler.dispatch(0.0)
    assert rollback == RollBack(checkpoint.id, (huge.id,), huge.id, Cause.ERROR, 1)


def test_all_checkpoints_that_are_due_are_rolled_back_at_once() -> None:
    checkpoints = [NewTask(name(n), (), SMALL, 0, Budget(error=1, backoff=0.0), is_checkpoint=True) for n in (1, 2)]
    scheduler = Scheduler(Capacity(Resources(cores=2, memory=100, disk=10)), Policy(max_batch=1))
    scheduler.handle(Submitted(tuple(checkpoints)))
    for submit in scheduler.dispatch(0.0):
        (id,) = submit.ids
        child = NewTask(name(10 + id[-1]), (), SMALL, 0, Budget(error=0), id)
        scheduler.handle(Finished(id, (child,)))
        scheduler.handle(Lost(submit.batch, None, 0.0))
    for submit in scheduler.dispatch(0.0):
        scheduler.handle(Failed(submit.ids[0], Cause.ERROR, 0.0))
        scheduler.handle(Lost(submit.batch, None, 0.0))
    rolled = [command.id for command in scheduler.dispatch(0.0) if isinstance(command, RollBack)]
    assert sorted(rolled) == [name(1), name(2)]


def test_all_clients_of_a_service_that_died_are_run_again() -> None:
    service = NewTask(name(1), (), SMALL, 0, Budget(lost=1, backoff=0.0))._replace(is_service=True)
    clients = [NewTask(name(n), (name(1),), SMALL, 0, Budget(error=1, backoff=0.0)) for n in (2, 3)]
    scheduler = Scheduler(Capacity(Resources(cores=4, memory=100, disk=10)), Policy(max_batch=1, check=True))
    scheduler.handle(Submitted((service, *clients)))
    scheduler.dispatch(0.0)
    scheduler.handle(ServiceStarted(1, service.id))
    for submit in scheduler.dispatch(0.0):
        (id,) = submit.ids
        scheduler.handle(Finished(id, (NewTask(name(10 + id[-1]), (), SMALL, 0, Budget(), id),)))
        scheduler.handle(Lost(submit.batch, None, 0.0))
    scheduler.dispatch(0.0)
    scheduler.handle(Lost(1, Cause.LOST, 5.0))
    rolled = [command for command in scheduler.dispatch(5.0) if isinstance(command, RollBack)]
    assert rolled == [RollBack(name(n), (name(10 + n),), service.id, Cause.LOST, 0) for n in (2, 3)]
