"""When services start, who may use them, and when they stop."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.scheduler_model import name, new, typed
from tests.mutation import examples
from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Scheduler, State
from toilfn.scheduler.events import (
    Adopted,
    Deadlock,
    Failed,
    Finished,
    GaveUp,
    Kill,
    Lost,
    Retry,
    Returned,
    ServiceStarted,
    StopService,
    Submit,
    Submitted,
)

SMALL = Resources(cores=1, memory=10, disk=1)


def service(number, *needs, shape=SMALL, **fields):
    return new(number, *needs, shape=shape, **fields)._replace(is_service=True)


def make(*tasks, cores=4, services=None, batches=None):
    scheduler = Scheduler(Capacity(Resources(cores=cores, memory=1000, disk=100), None, batches, services))
    scheduler.handle(Submitted(tasks))
    return scheduler


def dispatched(scheduler, now=0.0):
    """The tasks of each batch that starts, by the batch's number."""
    return {
        command.batch: [id[-1] for id in command.ids]
        for command in scheduler.dispatch(now)
        if isinstance(command, Submit)
    }


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


def start(scheduler, batch, number):
    return scheduler.handle(ServiceStarted(batch, name(number)))


def finish(scheduler, batch, number, **fields):
    commands = scheduler.handle(Finished(name(number), **fields))
    return [*commands, *scheduler.handle(Lost(batch, None, 0.0))]


def test_service_runs_from_before_its_first_user_until_after_its_last():
    scheduler = make(service(1), new(2, 1), new(3, 1), cores=2)
    assert dispatched(scheduler) == {1: [1]}
    assert dispatched(scheduler) == {}
    start(scheduler, 1, 1)
    assert dispatched(scheduler) == {2: [2]}
    assert of(StopService, finish(scheduler, 2, 2)) == []
    assert dispatched(scheduler) == {3: [3]}
    assert of(StopService, finish(scheduler, 3, 3)) == [StopService(name(1), 1)]
    assert not scheduler.idle
    finish(scheduler, 1, 1)
    assert scheduler.idle
    assert scheduler.is_complete(name(1))


def test_user_waits_for_the_room_of_a_batch_that_has_answered_and_not_ended():
    scheduler = make(service(1), new(2, 1), new(3), cores=2, batches=2)
    assert dispatched(scheduler) == {1: [1], 2: [3]}
    start(scheduler, 1, 1)
    scheduler.handle(Finished(name(3)))
    assert of(Deadlock, scheduler.dispatch(0.0)) == []
    scheduler.handle(Lost(2, None, 0.0))
    assert dispatched(scheduler) == {3: [2]}


def test_a_service_is_used_until_all_descendants_of_its_client_are_complete():
    scheduler = make(service(1), new(2, 1))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    assert of(StopService, finish(scheduler, 2, 2, children=(new(5),))) == []
    assert dispatched(scheduler) == {3: [5]}
    assert of(StopService, finish(scheduler, 3, 5)) == [StopService(name(1), 1)]


def test_service_waits_until_a_user_needs_nothing_else():
    scheduler = make(service(1), new(2), new(3, 1, 2))
    assert dispatched(scheduler) == {1: [2]}
    finish(scheduler, 1, 2)
    assert dispatched(scheduler) == {2: [1]}


def test_user_waits_until_what_its_service_needs_is_complete():
    scheduler = make(new(1), service(2, 1), service(3), new(4, 2, 3))
    assert dispatched(scheduler) == {1: [1]}
    finish(scheduler, 1, 1)
    assert sorted(dispatched(scheduler).values()) == [[2], [3]]


def test_services_of_services_start_in_order_and_stop_in_reverse():
    scheduler = make(service(1), service(2, 1), new(3, 2))
    assert dispatched(scheduler) == {1: [1]}
    start(scheduler, 1, 1)
    assert dispatched(scheduler) == {2: [2]}
    start(scheduler, 2, 2)
    assert dispatched(scheduler) == {3: [3]}
    assert of(StopService, finish(scheduler, 3, 3)) == [StopService(name(2), 2)]
    assert of(StopService, finish(scheduler, 2, 2)) == [StopService(name(1), 1)]
    finish(scheduler, 1, 1)
    assert scheduler.idle


def test_services_never_take_the_resources_of_their_users():
    pairs = [one for i in (1, 3, 5) for one in (service(i), new(i + 1, i))]
    scheduler = make(*pairs, cores=2)
    order = []
    for batch in (1, 3, 5):
        ((_, [first]),) = dispatched(scheduler).items()
        start(scheduler, batch, first)
        ((_, [second]),) = dispatched(scheduler).items()
        order += [first, second]
        finish(scheduler, batch + 1, second)
        finish(scheduler, batch, first)
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert scheduler.idle


def test_limit_of_services_leaves_tasks_alone():
    scheduler = make(service(1), new(2, 1), service(3), new(4, 3), new(5), services=1, batches=1)
    assert sorted(dispatched(scheduler).values()) == [[1], [5]]


def test_preemptible_services_have_a_limit_of_their_own():
    cheap = Resources(cores=1, memory=10, disk=1, preemptible=True)
    scheduler = make(service(1), service(2, shape=cheap), new(3, 1, 2), services=1)
    assert len(dispatched(scheduler)) == 2


def test_user_that_can_never_run_beside_its_services_is_given_up_with_their_names():
    scheduler = make(service(1), service(2), new(3, 1, 2), cores=2)
    assert typed(*scheduler.dispatch(0.0)) == typed(
        Deadlock(name(3), (name(1), name(2))), GaveUp(name(3), Cause.INPUT),
        StopService(name(1), None), StopService(name(2), None),
    )  # fmt: skip
    assert scheduler.idle


def test_users_that_wait_in_the_queue_of_a_cluster_are_no_deadlock():
    scheduler = Scheduler(Capacity(None, batches=2))
    scheduler.handle(Submitted((service(1), new(2, 1), new(3, 1))))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    for now in range(100):
        assert of(Deadlock, scheduler.dispatch(60.0 * now)) == []


def test_descendant_that_does_not_fit_beside_the_service_is_a_deadlock():
    scheduler = make(service(1), new(2, 1), cores=2)
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    large = Resources(cores=2, memory=10, disk=1)
    finish(scheduler, 2, 2, children=(new(5, shape=large),))
    commands = scheduler.dispatch(0.0)
    assert typed(*commands) == typed(Deadlock(name(5), (name(1),)), GaveUp(name(5), Cause.INPUT))
    assert typed(*scheduler.dispatch(0.0)) == typed(StopService(name(1), 1))
    scheduler.handle(Returned(1, (name(1),)))
    scheduler.handle(Lost(1, None, 0.0))
    assert scheduler.idle


def test_idle_service_makes_room_and_runs_again_later():
    large = Resources(cores=4, memory=10, disk=1)
    scheduler = make(service(1), new(2, 1), new(3, shape=large), new(4, 1, 3))
    assert dispatched(scheduler) == {1: [1]}
    start(scheduler, 1, 1)
    assert dispatched(scheduler) == {2: [2]}
    finish(scheduler, 2, 2)
    assert of(StopService, scheduler.dispatch(1.0)) == [StopService(name(1), 1)]
    scheduler.handle(Returned(1, (name(1),)))
    scheduler.handle(Lost(1, None, 1.0))
    assert dispatched(scheduler) == {3: [3]}
    finish(scheduler, 3, 3)
    assert dispatched(scheduler) == {4: [1]}


def test_running_users_of_a_dead_service_are_lost_and_wait_for_a_new_one():
    scheduler = make(service(1), new(2, 1), new(3, 1), cores=3)
    dispatched(scheduler)
    start(scheduler, 1, 1)
    assert dispatched(scheduler) == {2: [2], 3: [3]}
    commands = scheduler.handle(Lost(1, Cause.LOST, 0.0, name(1)))
    assert typed(*commands) == typed(Kill(2, name(1)), Kill(3, name(1)), Retry(name(1), Cause.LOST, 1, 0.0))
    assert of(Retry, scheduler.handle(Failed(name(2), Cause.ERROR, 0.0))) == [Retry(name(2), Cause.LOST, 1, 0.0)]
    scheduler.handle(Lost(2, Cause.LOST, 0.0))
    scheduler.handle(Lost(3, Cause.LOST, 0.0, name(3)))
    assert scheduler.state(name(2)) is scheduler.state(name(3)) is State.WAITING
    assert dispatched(scheduler) == {4: [1]}
    start(scheduler, 4, 1)
    assert sorted(dispatched(scheduler).values()) == [[2], [3]]


def test_ready_users_of_a_dead_service_wait_for_a_new_one():
    scheduler = make(service(1), new(2, 1))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    scheduler.handle(Lost(1, Cause.LOST, 0.0, name(1)))
    assert scheduler.state(name(2)) is State.WAITING
    assert dispatched(scheduler) == {2: [1]}


def test_services_stop_when_their_users_are_given_up():
    scheduler = make(service(1), new(2, 1, budget=Budget(error=0)))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    commands = scheduler.handle(Failed(name(2), Cause.ERROR, 0.0))
    assert typed(*commands) == typed(GaveUp(name(2), Cause.ERROR), StopService(name(1), 1))


def test_services_stop_when_no_remaining_task_needs_them():
    scheduler = make(service(1), new(2, 1))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    finish(scheduler, 2, 2, children=(new(5, budget=Budget(error=0)),))
    dispatched(scheduler)
    scheduler.handle(Failed(name(5), Cause.ERROR, 0.0))
    scheduler.handle(Lost(3, None, 0.0))
    assert typed(*scheduler.dispatch(0.0)) == typed(StopService(name(1), 1))
    assert scheduler.is_wanted(name(1))
    scheduler.handle(Returned(1, (name(1),)))
    scheduler.handle(Lost(1, None, 0.0))
    assert scheduler.idle
    assert scheduler.stuck() == []


def test_other_services_of_a_user_stop_when_one_cannot_run():
    scheduler = make(service(1), service(2, budget=Budget(error=0)), new(3, 1, 2))
    (batch,) = (batch for batch, ids in dispatched(scheduler).items() if ids == [1])
    start(scheduler, batch, 1)
    assert of(GaveUp, scheduler.handle(Failed(name(2), Cause.ERROR, 0.0))) == [GaveUp(name(2), Cause.ERROR)]
    assert typed(*scheduler.dispatch(0.0)) == typed(StopService(name(1), batch))


def test_service_that_fails_in_its_clean_up_is_not_run_again():
    scheduler = make(service(1), new(2, 1))
    dispatched(scheduler)
    start(scheduler, 1, 1)
    dispatched(scheduler)
    finish(scheduler, 2, 2)
    assert typed(*scheduler.handle(Failed(name(1), Cause.ERROR, 0.0))) == typed(StopService(name(1), None))


def test_service_without_users_never_runs():
    scheduler = Scheduler(Capacity(None))
    assert typed(*scheduler.handle(Submitted((service(1),)))) == typed(StopService(name(1), None))
    assert dispatched(scheduler) == {}


def test_batches_of_an_earlier_leader_that_used_its_services_are_not_adopted():
    scheduler = make(service(1), new(2, 1), new(3))
    assert scheduler.handle(Adopted((name(1),), 0.0)) == []
    assert scheduler.handle(Adopted((name(3), name(2)), 0.0)) == []


class Simulation:
    """Random graphs with services, on workers that are quick, slow or dead."""

    def __init__(self, random, cores):
        self.random = random
        self.cores = cores
        self.budget = Budget(error=1000, lost=None)
        self.tasks = {}
        self.done = set()
        self.serving = {}
        self.batches = {}

    def grow(self, count):
        services = []
        for number in range(1, count + 1):
            needs = self.random.sample(range(1, number), min(number - 1, self.random.choice([0, 1, 2])))
            needs = [need for need in needs if need not in services or self.depth(need) < 2]
            make = service if self.random.random() < 0.4 else new
            services += [number] if make is service else []
            self.tasks[number] = make(number, *needs, budget=self.budget)
        self.scheduler = Scheduler(Capacity(Resources(cores=self.cores, memory=1000, disk=100)))
        self.obey(self.scheduler.handle(Submitted(tuple(self.tasks.values()))))

    def depth(self, number):
        """How many services must run for this one."""
        needs = [need[-1] for need in self.tasks[number].needs]
        return 1 + sum(self.depth(need) for need in needs if self.tasks[need].is_service)

    def users(self, number):
        return [one for one, task in self.tasks.items() if name(number) in task.needs]

    def obey(self, commands):
        self.scheduler.check()
        for command in commands:
            getattr(self, type(command).__name__, lambda _: None)(command)

    def Submit(self, command):  # noqa: N802 - named as the commands are
        before = set()
        for id in command.ids:
            for need in self.tasks[id[-1]].needs:
                assert need[-1] in (self.serving if self.tasks[need[-1]].is_service else self.done | before)
            before.add(id[-1])
        self.batches[command.batch] = [id[-1] for id in command.ids]
        assert len(self.batches) <= self.cores

    def StopService(self, command):  # noqa: N802
        number = command.id[-1]
        wanted = not self.done.issuperset(self.users(number))
        if command.batch is None:
            assert not wanted
            self.finish(number)
        else:
            self.end(command.batch, Returned(command.batch, (command.id,)) if wanted else None)

    def Kill(self, command):  # noqa: N802
        if command.batch in self.batches:
            self.end(command.batch, Lost(command.batch, Cause.LOST, 0.0))

    def finish(self, number):
        self.done.add(number)
        self.obey(self.scheduler.handle(Finished(name(number))))

    def end(self, batch, event):
        numbers = self.batches.pop(batch)
        self.serving = {number: where for number, where in self.serving.items() if where != batch}
        if event is None:
            for number in numbers:
                self.finish(number)
        else:
            self.obey(self.scheduler.handle(event))
        self.obey(self.scheduler.handle(Lost(batch, None, 0.0)))

    def step(self):
        self.obey(self.scheduler.dispatch(0.0))
        if not self.batches:
            return
        batch = self.random.choice(list(self.batches))
        (first, *_) = self.batches[batch]
        if self.random.random() < 0.1:
            self.end(batch, Lost(batch, Cause.LOST, 0.0, name(first)))
        elif not self.tasks[first].is_service:
            self.end(batch, None)
        elif first not in self.serving:
            self.serving[first] = batch
            self.obey(self.scheduler.handle(ServiceStarted(batch, name(first))))


@settings(max_examples=examples(80), suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False), count=st.integers(1, 25), cores=st.integers(3, 6))
def test_all_tasks_complete_beside_their_services_whatever_dies(random, count, cores):
    simulation = Simulation(random, cores)
    simulation.grow(count)
    for _ in range(5000):
        if simulation.scheduler.idle:
            break
        simulation.step()
    assert simulation.scheduler.idle
    assert simulation.done == simulation.tasks.keys()
    assert not simulation.batches
