"""Many tiny tasks in few jobs, on a cluster that queues by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.scheduler_model import SMALL, name, new, typed
from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Policy, Scheduler
from toilfn.scheduler.events import Failed, Finished, GaveUp, JobStarted, Lost, Submit, Submitted

BUNDLES = Policy(target_seconds=30.0, max_batch=1000, probes=2)


def make(*tasks, policy=BUNDLES, **capacity):
    scheduler = Scheduler(Capacity(None, **capacity), policy)
    scheduler.handle(Submitted(tasks))
    return scheduler


def submits(commands):
    return [command for command in commands if isinstance(command, Submit)]


def sizes(commands):
    return [len(command.ids) for command in submits(commands)]


def end(scheduler, submit, seconds, now=0.0):
    for id in submit.ids:
        scheduler.handle(Finished(id, wall=seconds))
    return scheduler.handle(Lost(submit.batch, None, now))


def test_a_few_jobs_measure_how_long_a_task_takes_and_the_others_follow_together():
    scheduler = make(*map(new, range(102)))
    first, second = submits(scheduler.dispatch(0.0))
    assert len(first.ids) == len(second.ids) == 1
    assert scheduler.dispatch(100.0) == []
    end(scheduler, first, 1.0)
    assert sizes(scheduler.dispatch(101.0)) == [30, 30, 30, 10]


def test_each_kind_has_probes_of_its_own():
    scheduler = make(*(new(i, kind=i % 3) for i in range(90)))
    assert sizes(scheduler.dispatch(0.0)) == [1] * 6


def test_tasks_that_run_for_longer_than_a_bundle_go_alone_before_the_first_has_ended():
    scheduler = make(*map(new, range(12)))
    first, _ = submits(scheduler.dispatch(0.0))
    scheduler.handle(JobStarted(first.batch, 50.0))
    assert scheduler.wake_at == 80.0
    assert scheduler.dispatch(79.0) == []
    assert sizes(scheduler.dispatch(80.0)) == [1] * 10


def test_probes_that_fail_permanently_are_replaced():
    scheduler = make(*(new(i, budget=Budget(error=0)) for i in range(5)))
    started = []
    while now := submits(scheduler.dispatch(0.0)):
        started.append(len(now))
        for submit in now:
            assert typed(*scheduler.handle(Failed(submit.ids[0], Cause.ERROR, 0.0))) == typed(
                GaveUp(submit.ids[0], Cause.ERROR)
            )
            scheduler.handle(Lost(submit.batch, None, 0.0))
            assert len(started) == 3 or not scheduler.idle
    assert started == [2, 2, 1]
    assert scheduler.idle


def test_a_probe_that_waits_for_what_it_led_to_does_not_hold_that_back():
    scheduler = make(new(1), new(2), new(3, 1), policy=Policy(probes=1))
    (batch,) = submits(scheduler.dispatch(0.0))
    assert batch.ids == (name(1), name(3))
    scheduler.handle(Finished(name(1), children=(new(4), new(5))))
    scheduler.handle(Lost(batch.batch, None, 0.0))
    while now := submits(scheduler.dispatch(0.0)):
        for submit in now:
            end(scheduler, submit, 0.0)
    assert scheduler.counts()["complete"] == 5


def test_the_failure_of_one_task_concerns_that_one_only():
    scheduler = make(*map(new, range(12)))
    for submit in submits(scheduler.dispatch(0.0)):
        end(scheduler, submit, 1.0)
    (bundle,) = submits(scheduler.dispatch(1.0))
    for id in bundle.ids[1:]:
        scheduler.handle(Finished(id, wall=1.0))
    scheduler.handle(Failed(bundle.ids[0], Cause.ERROR, 2.0))
    scheduler.handle(Lost(bundle.batch, None, 2.0))
    (again,) = submits(scheduler.dispatch(60.0))
    assert again.ids == bundle.ids[:1]


@given(walltime=st.floats(1.0, 1e5), seconds=st.floats(0.01, 20.0), count=st.integers(3, 50))
def test_a_bundle_requests_the_resources_of_one_task_and_little_more_time(walltime, seconds, count):
    shape = Resources(2, 10, 1, walltime=walltime)
    scheduler = make(*(new(i, shape=shape) for i in range(count + 2)))
    for submit in submits(scheduler.dispatch(0.0)):
        assert submit.walltime == walltime
        end(scheduler, submit, seconds)
    for submit in submits(scheduler.dispatch(1.0)):
        assert submit.shape == shape
        assert walltime <= submit.walltime <= walltime + 4 * 30.0
        assert submit.walltime <= len(submit.ids) * walltime + 1e-6


def test_without_a_walltime_there_is_none():
    scheduler = make(new(1, shape=SMALL))
    assert submits(scheduler.dispatch(0.0))[0].walltime is None


def test_links_of_a_chain_have_their_own_time():
    hour = Resources(1, 1, 1, walltime=3600.0)
    scheduler = make(new(1, shape=hour), new(2, 1, shape=hour), new(3, 2, shape=hour))
    (submit,) = submits(scheduler.dispatch(0.0))
    assert (len(submit.ids), submit.walltime) == (3, 3 * 3600.0)


# Gathering


@pytest.fixture
def gathering():
    return make(new(1), policy=Policy(gather=0.5))


def test_tasks_that_become_ready_shortly_after_are_submitted_with_the_first(gathering):
    assert gathering.dispatch(10.0) == []
    assert gathering.wake_at == 10.5
    gathering.handle(Submitted((new(2),)))
    assert gathering.dispatch(10.4) == []
    gathering.handle(Submitted((new(3),)))
    assert sizes(gathering.dispatch(10.5)) == [1, 1, 1]
    assert gathering.wake_at is None


def test_nothing_waits_twice(gathering):
    gathering.dispatch(10.0)
    gathering.dispatch(10.5)
    gathering.handle(Submitted((new(2),)))
    assert gathering.dispatch(11.0) == []
    assert sizes(gathering.dispatch(20.0)) == [1]


def test_without_gathering_nothing_waits():
    assert sizes(make(new(1), policy=Policy()).dispatch(10.0)) == [1]


# Who has ended the worker


def lost(*causes):
    """A bundle of three dies so often; the sizes of what is started after each time."""
    scheduler = make(*map(new, range(5)))
    for submit in submits(scheduler.dispatch(0.0)):
        end(scheduler, submit, 1.0)
    sizes = []
    for n, cause in enumerate(causes):
        batch = submits(scheduler.dispatch(100.0 * n))[0]
        retries = scheduler.handle(Lost(batch.batch, cause, 100.0 * n, batch.ids[0], is_sure=False))
        sizes.append(len(retries))
    return scheduler, [*sizes, *(len(command.ids) for command in submits(scheduler.dispatch(1000.0)))]


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.MEMORY, Cause.WALLTIME])
def test_tasks_run_alone_at_no_cost_when_the_one_that_ended_the_worker_is_not_known(cause):
    scheduler, sizes = lost(cause)
    assert sizes == [0, 1, 1, 1]
    ((guilty, batch), *_) = [(ids[0], batch) for batch, ids in scheduler.running().items()]
    (retry,) = scheduler.handle(Lost(batch, cause, 1000.0, guilty, is_sure=False))
    assert retry.attempt == 1


def test_a_node_that_dies_once_ends_no_bundles():
    assert lost(Cause.LOST)[1] == [1, 3]
    assert lost(Cause.LOST, Cause.LOST)[1] == [1, 0, 1, 1, 1]
    assert lost(Cause.PREEMPTED, Cause.PREEMPTED)[1] == [1, 1, 3]


def test_later_tasks_run_alone_too():
    scheduler = make(new(1), new(2, 1), new(3, 2))
    (chain,) = submits(scheduler.dispatch(0.0))
    scheduler.handle(Lost(chain.batch, Cause.MEMORY, 0.0, is_sure=False))
    for number in (1, 2, 3):
        (alone,) = submits(scheduler.dispatch(1.0))
        assert alone.ids == (name(number),)
        end(scheduler, alone, 1.0)


SPREAD = Policy(target_seconds=120.0, max_batch=1000, probes=16, probe_patience=600.0, spread=32)


def test_ten_thousand_ready_tasks_do_not_become_ten_thousand_jobs():
    """The first few go alone; what they tell decides how few jobs do for the others."""
    scheduler = make(*map(new, range(10_000)), policy=SPREAD)
    probes = submits(scheduler.dispatch(0.0))
    assert [len(submit.ids) for submit in probes] == [1] * 16
    for submit in probes:
        end(scheduler, submit, 1.0)
    after = sizes(scheduler.dispatch(2.0))
    assert sum(after) == 10_000 - 16
    assert len(after) <= 10_000 / 120 + 32


@pytest.mark.parametrize("count", [5, 32])
def test_few_tasks_run_side_by_side_also_when_they_are_short(count):
    scheduler = make(new(1), policy=SPREAD)
    (first,) = submits(scheduler.dispatch(0.0))
    end(scheduler, first, 1.0)
    scheduler.handle(Submitted(tuple(map(new, range(10, 10 + count)))))
    assert sizes(scheduler.dispatch(1.0)) == [1] * count


def test_followers_that_could_run_side_by_side_are_not_put_into_one_job():
    scheduler = make(new(1), policy=SPREAD)
    end(scheduler, *submits(scheduler.dispatch(0.0)), 1.0)
    scheduler.handle(Submitted((new(10), new(11, 10), new(12, 10))))
    assert sizes(scheduler.dispatch(1.0)) == [1]


def test_probes_that_wait_for_long_in_the_queue_do_not_hold_the_others_for_ever():
    scheduler = make(*map(new, range(20)), policy=SPREAD)
    assert sizes(scheduler.dispatch(0.0)) == [1] * 16
    assert scheduler.dispatch(599.0) == []
    assert scheduler.wake_at == 600.0
    assert sizes(scheduler.dispatch(600.0)) == [1] * 4
