"""The tasks that run side by side, and those that go into one batch."""

from __future__ import annotations

import pytest

from tests.core.scheduler_model import SMALL, name, new, typed
from toilfn.ids import Budget, Cause
from toilfn.resources import Accelerator, Capacity, Resources
from toilfn.scheduler import Policy, Scheduler
from toilfn.scheduler.events import Finished, GaveUp, Lost, Recall, Returned, Submit, Submitted

ONE_BY_ONE = Policy(target_seconds=0.0, max_batch=1)


def machine(cores=2.0, memory=1000, disk=100, **more):
    return Resources(cores, memory, disk, **more)


def make(capacity, *tasks, policy=ONE_BY_ONE):
    scheduler = Scheduler(capacity, policy)
    return scheduler, scheduler.handle(Submitted(tasks))


def numbers(commands):
    return [[int.from_bytes(id, "big") for id in command.ids] for command in commands if isinstance(command, Submit)]


def end(scheduler, submit, now=0.0, wall=0.01):
    """Let a batch succeed and end."""
    for id in submit.ids:
        scheduler.handle(Finished(id, wall=wall))
    scheduler.handle(Lost(submit.batch, None, now))


def trained(capacity, *tasks, policy, seconds):
    """A scheduler that knows how long tasks of kinds 0 and 1 take."""
    scheduler, _ = make(capacity, new(900), new(901, kind=1), policy=policy)
    scheduler.handle(Finished(name(900), wall=seconds))
    scheduler.handle(Finished(name(901), wall=seconds))
    scheduler.handle(Submitted(tasks))
    return scheduler


# Side by side


@pytest.mark.parametrize(
    ("total", "shape", "fit"),
    [
        (machine(cores=1), Resources(0.1, 0, 0), 10),
        (machine(cores=0.3), Resources(0.1, 0, 0), 3),
        (machine(memory=35), Resources(0, 10, 0), 3),
        (machine(disk=5), Resources(0, 0, 2), 2),
        (machine(cores=4, accelerators=(Accelerator(3),)), Resources(1, 0, 0, (Accelerator(1),)), 3),
        (machine(cores=4, accelerators=(Accelerator(3),)), Resources(1, 0, 0, (Accelerator(2),)), 1),
    ],
)
def test_resources_are_used_up_and_not_oversubscribed(total, shape, fit):
    scheduler, _ = make(Capacity(total), *(new(i, shape=shape) for i in range(12)))
    submits = scheduler.dispatch(0.0)
    assert len(submits) == fit
    end(scheduler, submits[0])
    assert len(scheduler.dispatch(0.0)) == 1


def test_batches_limit_a_cluster_that_queues_by_itself():
    scheduler, _ = make(Capacity(None, batches=3), *(new(i) for i in range(9)))
    assert len(scheduler.dispatch(0.0)) == 3


def test_specific_accelerators_are_left_for_those_who_name_them():
    sorts = (Accelerator(1, model="a100", brand="nvidia"), Accelerator(1, brand="nvidia"))
    any_gpu, a100 = (Resources(0, 0, 0, (wish,)) for wish in (Accelerator(), Accelerator(model="a100")))
    scheduler, _ = make(Capacity(machine(accelerators=sorts)), new(1, shape=any_gpu), new(2, shape=a100))
    assert numbers(scheduler.dispatch(0.0)) == [[1], [2]]


@pytest.mark.parametrize(
    "shape",
    [
        machine(cores=2.001),
        machine(memory=1001),
        machine(disk=101),
        machine(accelerators=(Accelerator(),)),
        machine(accelerators=(Accelerator(kind="tpu"),)),
        machine(walltime=61.0),
    ],
)
@pytest.mark.parametrize("needs", [(), (1,)])
def test_task_that_asks_for_too_much_is_given_up_at_once(shape, needs):
    capacity = Capacity(machine(walltime=60.0, accelerators=(Accelerator(kind="fpga"),)))
    _, commands = make(capacity, new(1), new(2, *needs, shape=shape))
    assert typed(*commands) == typed(GaveUp(name(2), Cause.INPUT))
    capacity = Capacity(None, largest=machine(walltime=60.0))
    _, commands = make(capacity, new(1), new(2, *needs, shape=shape))
    assert typed(*commands) == typed(GaveUp(name(2), Cause.INPUT))


def test_task_that_fits_the_largest_waits_for_the_cluster_to_grow():
    scheduler, commands = make(Capacity(machine(cores=1), machine(cores=8)), new(1, shape=Resources(4, 0, 0)))
    assert commands == scheduler.dispatch(0.0) == []
    scheduler.handle(Capacity(machine(cores=4), machine(cores=8)))
    assert numbers(scheduler.dispatch(0.0)) == [[1]]


def test_ready_tasks_are_given_up_when_the_capacity_shrinks_permanently():
    scheduler, _ = make(Capacity(machine(cores=4)), new(1, shape=Resources(4, 0, 0)), new(2), new(3, 2))
    assert typed(*scheduler.handle(Capacity(machine(cores=1)))) == typed(GaveUp(name(1), Cause.INPUT))
    assert numbers(scheduler.dispatch(0.0)) == [[2]]


def test_running_tasks_survive_a_capacity_that_shrinks():
    scheduler, _ = make(Capacity(machine(cores=4)), *(new(i) for i in range(6)))
    submits = scheduler.dispatch(0.0)
    scheduler.handle(Capacity(machine(cores=1)))
    for submit in submits[:3]:
        end(scheduler, submit)
        assert scheduler.dispatch(0.0) == []
    end(scheduler, submits[3])
    assert len(scheduler.dispatch(0.0)) == 1


def test_small_tasks_go_past_one_that_does_not_fit_now():
    scheduler, _ = make(Capacity(machine(cores=4)), new(1), new(2, shape=Resources(4, 0, 0)), new(3), new(4))
    assert numbers(scheduler.dispatch(0.0)) == [[1], [3], [4]]


def test_large_task_does_not_starve():
    policy = Policy(target_seconds=0.0, max_batch=1, patience=5)
    small = [new(i) for i in range(2, 100)]
    scheduler, _ = make(Capacity(machine(cores=2)), new(1), new(1000, shape=Resources(2, 0, 0)), *small, policy=policy)
    running = scheduler.dispatch(0.0)
    started = len(running)
    while running:
        end(scheduler, running.pop(0))
        fresh = scheduler.dispatch(0.0)
        if numbers(fresh) == [[1000]]:
            break
        running += fresh
        started += len(fresh)
    assert 5 <= started <= 10
    end(scheduler, fresh[0])
    assert len(scheduler.dispatch(0.0)) == 2


def test_no_task_is_held_back_for_one_that_waits_for_the_cluster_to_grow():
    policy = Policy(target_seconds=0.0, max_batch=1, patience=5)
    grown = new(1000, shape=Resources(4, 0, 0))
    large = new(1001, shape=Resources(2, 0, 0))
    small = [new(i) for i in range(2, 100)]
    capacity = Capacity(machine(cores=2), machine(cores=8))
    scheduler, _ = make(capacity, new(1), grown, large, *small, policy=policy)
    running = scheduler.dispatch(0.0)
    started = []
    while running:
        started += numbers(running[:1])
        end(scheduler, running.pop(0))
        running += scheduler.dispatch(0.0)
    assert started.index([1001]) < 12
    assert len(started) == 100


def test_shapes_of_children_take_turns():
    other = Resources(1, 20, 1)
    scheduler, _ = make(Capacity(machine(cores=4)), new(1000))
    children = tuple(new(i, shape=other if i > 50 else SMALL) for i in range(100))
    scheduler.handle(Finished(name(1000), children))
    assert sorted(numbers(scheduler.dispatch(0.0))) == [[0], [1], [51], [52]]


def test_shapes_take_turns():
    other = Resources(1, 20, 1)
    scheduler, _ = make(Capacity(machine(cores=4)), *(new(i, shape=other if i > 50 else SMALL) for i in range(100)))
    assert sorted(numbers(scheduler.dispatch(0.0))) == [[0], [1], [51], [52]]


def test_turns_are_quick_with_thousands_of_shapes_that_do_not_fit():
    shapes = [Resources(2, memory, 0) for memory in range(3000)]
    scheduler, _ = make(Capacity(machine(cores=3, memory=9000)), *(new(i, shape=s) for i, s in enumerate(shapes)))
    looked = []
    scheduler._pool.has_room, real = lambda shape: looked.append(shape) or real(shape), scheduler._pool.has_room
    assert len(scheduler.dispatch(0.0)) == 1
    assert len(looked) < 100


# Together


def test_tasks_of_an_unknown_kind_go_alone():
    scheduler, _ = make(Capacity(machine(cores=2)), *(new(i) for i in range(10)), policy=Policy())
    assert numbers(scheduler.dispatch(0.0)) == [[0], [1]]


def test_batch_has_about_the_target_amount_of_work():
    policy = Policy(target_seconds=1.0)
    scheduler = trained(Capacity(machine(cores=2)), *(new(i) for i in range(100)), policy=policy, seconds=0.25)
    assert numbers(scheduler.dispatch(0.0)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_ready_tasks_are_shared_among_free_slots():
    policy = Policy(target_seconds=100.0)
    scheduler = trained(Capacity(machine(cores=4)), *(new(i) for i in range(10)), policy=policy, seconds=0.25)
    assert list(map(len, numbers(scheduler.dispatch(0.0)))) == [3, 3, 2, 2]


def test_batches_stay_below_the_most_tasks():
    policy = Policy(target_seconds=100.0, max_batch=3)
    chain = [new(0), *(new(i, i - 1) for i in range(1, 8))]
    scheduler = trained(Capacity(machine(cores=1)), *chain, policy=policy, seconds=0.001)
    assert numbers(scheduler.dispatch(0.0)) == [[0, 1, 2]]


def test_chain_stays_together_whatever_it_takes():
    chain = [new(0), *(new(i, i - 1, kind=i) for i in range(1, 8))]
    scheduler, _ = make(Capacity(None), *chain, policy=Policy(target_seconds=0.0))
    assert numbers(scheduler.dispatch(0.0)) == [list(range(8))]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Resources(2, 10, 1), Resources(1, 5, 0), True),
        (Resources(1, 10, 1), Resources(2, 10, 1), False),
        (Resources(1, 10, 1), Resources(1, 11, 1), False),
        (Resources(1, 1, 1), Resources(1, 1, 1, preemptible=True), True),
        (Resources(1, 1, 1, preemptible=True), Resources(1, 1, 1), False),
        (Resources(1, 1, 1), Resources(1, 1, 1, local=True), False),
        (Resources(1, 1, 1, walltime=10.0), Resources(1, 1, 1), False),
        (Resources(1, 1, 1), Resources(1, 1, 1, walltime=10.0), True),
        (Resources(1, 1, 1), Resources(1, 1, 1, (Accelerator(),)), False),
        (Resources(1, 1, 1, (Accelerator(2),)), Resources(1, 1, 1, (Accelerator(),)), True),
    ],
)
def test_chain_stays_together_where_its_resources_fit(first, second, together):
    scheduler, _ = make(Capacity(None), new(1, shape=first), new(2, 1, shape=second), policy=Policy())
    (submit,) = scheduler.dispatch(0.0)
    assert numbers([submit]) == ([[1, 2]] if together else [[1]])
    assert submit.shape == first


def test_chain_is_not_longer_than_the_longest_job():
    hour = Resources(1, 1, 1, walltime=3600.0)
    capacity = Capacity(None, largest=machine(walltime=7200.0))
    scheduler, _ = make(capacity, new(1, shape=hour), new(2, 1, shape=hour), new(3, 2, shape=hour), policy=Policy())
    assert numbers(scheduler.dispatch(0.0)) == [[1, 2]]


def test_followers_that_are_no_chain_go_along_only_while_there_is_time():
    tasks = [new(1), *(new(i, 1, kind=1) for i in range(2, 10))]
    policy = Policy(target_seconds=1.0)
    assert numbers(trained(Capacity(machine()), *tasks, policy=policy, seconds=0.3).dispatch(0.0)) == [[1, 2, 3]]
    assert numbers(trained(Capacity(machine()), *tasks, policy=policy, seconds=0.6).dispatch(0.0)) == [[1]]


def test_gathering_task_goes_along_when_all_it_needs_does():
    tasks = [new(1), new(2, 1), new(3, 1), new(4, 2, 3)]
    scheduler = trained(Capacity(machine()), *tasks, policy=Policy(target_seconds=1.0), seconds=0.1)
    assert numbers(scheduler.dispatch(0.0)) == [[1, 2, 3, 4]]
    scheduler = trained(Capacity(machine()), *tasks, new(5), policy=Policy(target_seconds=0.25), seconds=0.1)
    assert numbers(scheduler.dispatch(0.0)) == [[1, 2], [5]]


def test_returned_tasks_wait_for_what_they_need():
    scheduler, _ = make(Capacity(machine()), new(1), new(2, 1), policy=Policy())
    assert numbers(scheduler.dispatch(0.0)) == [[1, 2]]
    scheduler.handle(Finished(name(1), children=(new(3),)))
    scheduler.handle(Returned(1, (name(2),)))
    scheduler.handle(Lost(1, None, 0.0))
    assert numbers(scheduler.dispatch(0.0)) == [[3]]


# Recalling


def overdue():
    """One of two slots is idle while the other has a batch that takes too long."""
    policy = Policy(target_seconds=1.0, recall_factor=4.0, recall_after=1.0)
    scheduler = trained(Capacity(machine(cores=2)), *(new(i) for i in range(8)), policy=policy, seconds=0.2)
    first, second = scheduler.dispatch(10.0)
    end(scheduler, second, now=10.5)
    return scheduler, first


def test_overdue_batch_is_asked_once_for_what_it_has_not_started():
    scheduler, batch = overdue()
    assert scheduler.dispatch(10.5) == []
    assert scheduler.wake_at == pytest.approx(10.0 + 4 * 4 * 0.2)
    assert scheduler.dispatch(13.1) == []
    assert typed(*scheduler.dispatch(13.3)) == typed(Recall(batch.batch))
    assert scheduler.dispatch(20.0) == []
    scheduler.handle(Returned(batch.batch, batch.ids[1:]))
    assert numbers(scheduler.dispatch(20.0)) == [[1, 2, 3]]


def test_nothing_is_recalled_while_no_slot_is_idle():
    scheduler, batch = overdue()
    scheduler.handle(Submitted((new(50),)))
    assert numbers(scheduler.dispatch(10.5)) == [[50]]
    assert scheduler.wake_at is None
    assert scheduler.dispatch(100.0) == []
    end(scheduler, Submit(3, (name(50),), SMALL))
    assert typed(*scheduler.dispatch(100.0)) == typed(Recall(batch.batch))


def test_batch_is_recalled_once_there_is_something_that_could_run_elsewhere():
    tasks = [new(1), new(2, 1), new(3, 1)]
    policy = Policy(target_seconds=1.0, recall_after=1.0)
    scheduler = trained(Capacity(machine(cores=2)), *tasks, policy=policy, seconds=0.1)
    assert numbers(scheduler.dispatch(0.0)) == [[1, 2, 3]]
    assert scheduler.dispatch(2.0) == []
    scheduler.handle(Finished(name(1)))
    assert scheduler.wake_at == 4.0
    assert typed(*scheduler.dispatch(4.0)) == typed(Recall(1))


def test_chain_is_not_recalled():
    scheduler, _ = make(Capacity(machine(cores=2)), new(1), new(2, 1), policy=Policy())
    scheduler.dispatch(0.0)
    assert scheduler.wake_at is None
    assert scheduler.dispatch(1000.0) == []


def test_batches_of_a_cluster_that_queues_are_not_recalled():
    policy = Policy(target_seconds=1.0)
    scheduler = trained(Capacity(None, batches=5), new(1), new(2), new(3, 1), policy=policy, seconds=0.1)
    scheduler.handle(Capacity(None))
    scheduler.dispatch(0.0)
    assert scheduler.wake_at is None


LIMITS = [
    (Capacity(None, cores=2), {"cores": 2}, {"cores": 3}),
    (Capacity(None, memory=100), {"memory": 100}, {"memory": 101}),
    (Capacity(None, disk=10), {"disk": 10}, {"disk": 11}),
    (Capacity(machine(8.0), machine(8.0), cores=2), {"cores": 2}, {"cores": 3}),
]


@pytest.mark.parametrize(("capacity", "most", "more"), LIMITS)
def test_a_task_over_the_users_limits_is_given_up_at_once_on_every_cluster(capacity, most, more):
    base = {"cores": 1, "memory": 1, "disk": 1}
    scheduler, commands = make(
        capacity, new(1, shape=Resources(**(base | more))), new(2, shape=Resources(**(base | most)))
    )
    assert typed(*commands) == typed(GaveUp(name(1), Cause.INPUT))
    assert numbers(scheduler.dispatch(0.0)) == [[2]]


@pytest.mark.parametrize(("capacity", "most", "more"), LIMITS)
def test_the_users_limits_bound_what_runs_at_one_time_on_every_cluster(capacity, most, more):
    shape = Resources(**({"cores": 1, "memory": 1, "disk": 1} | most))
    scheduler, _ = make(capacity, new(1, shape=shape), new(2, shape=shape))
    (submit,) = scheduler.dispatch(0.0)
    assert scheduler.dispatch(1.0) == []
    end(scheduler, submit)
    assert numbers(scheduler.dispatch(2.0)) == [[2]]


def test_memory_is_not_doubled_over_the_users_limit():
    shape = Resources(cores=1, memory=60, disk=1)
    budget = Budget(double_memory=True, backoff=0.0)
    scheduler, _ = make(Capacity(None, memory=100), new(1, shape=shape, budget=budget))
    (submit,) = scheduler.dispatch(0.0)
    scheduler.handle(Lost(submit.batch, Cause.MEMORY, 0.0))
    (again,) = scheduler.dispatch(1.0)
    assert again.shape.memory == 100


def test_a_task_that_needs_all_resources_runs_alone():
    shape = Resources(2.0, 1000, 100, walltime=3600.0)
    capacity = Capacity(machine(walltime=3600.0))
    scheduler, commands = make(capacity, new(1, shape=shape), new(2, shape=shape))
    assert commands == []
    assert numbers(scheduler.dispatch(0.0)) == [[1]]
    scheduler.handle(Finished(name(1), wall=1.0))
    scheduler.handle(Lost(1, None, 1.0))
    assert numbers(scheduler.dispatch(1.0)) == [[2]]


@pytest.mark.parametrize("more", [{"cores": 2.1}, {"memory": 1001}, {"disk": 101}, {"walltime": 3601.0}])
def test_a_task_that_needs_more_than_the_cluster_has_fails_at_once(more):
    shape = machine(**{"walltime": 3600.0, **more})
    _, commands = make(Capacity(machine(walltime=3600.0)), new(1, shape=shape))
    assert typed(*commands) == typed(GaveUp(name(1), Cause.INPUT))


def test_a_task_whose_requirements_are_not_known_does_not_join_a_batch():
    late = new(2, 1)._replace(is_late=True)
    scheduler = trained(Capacity(machine()), new(1), late, new(3, 1), policy=Policy(), seconds=0.01)
    (batch,) = numbers(scheduler.dispatch(0.0))
    assert batch == [1, 3]


def test_accelerators_of_several_kinds_are_counted_apart():
    a, b = Accelerator(1, "gpu", "a"), Accelerator(1, "gpu", "b")
    wants_any = machine(1.0, 1, 1, accelerators=(Accelerator(2, "gpu"),))
    there = machine(8.0, accelerators=(a, b))
    scheduler, commands = make(
        Capacity(there), new(1, shape=wants_any), new(2, shape=machine(1.0, 1, 1, accelerators=(b,)))
    )
    assert commands == []
    assert numbers(scheduler.dispatch(0.0)) == [[1]]
    scheduler.handle(Finished(name(1), wall=1.0))
    scheduler.handle(Lost(1, None, 1.0))
    assert numbers(scheduler.dispatch(1.0)) == [[2]]
