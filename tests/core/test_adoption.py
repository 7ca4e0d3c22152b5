"""The scheduler takes over batches of an earlier leader."""

from __future__ import annotations

from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import Adopted, Complete, Finished, Lost, NewTask, Retry, Submit, Submitted

SHAPE = Resources()


def scheduler_with(*tasks):
    scheduler = Scheduler(Capacity(total=None, batches=10))
    scheduler.handle(Submitted(tuple(NewTask(id, needs, SHAPE, 0, Budget(backoff=0)) for id, needs in tasks)))
    return scheduler


def submits(commands):
    return [command for command in commands if isinstance(command, Submit)]


def test_adopted_tasks_are_not_submitted_again():
    scheduler = scheduler_with((b"a", ()), (b"b", (b"a",)), (b"c", ()))
    (adopted,) = scheduler.handle(Adopted((b"a", b"b"), 0.0))
    assert adopted.ids == (b"a", b"b")
    assert [command.ids for command in submits(scheduler.dispatch(0.0))] == [(b"c",)]
    assert scheduler.left(adopted.batch) == [b"a", b"b"]
    assert Complete(b"a") in scheduler.handle(Finished(b"a"))
    assert Complete(b"b") in scheduler.handle(Finished(b"b"))


def test_an_adopted_batch_that_is_lost_is_run_again():
    scheduler = scheduler_with((b"a", ()), (b"b", (b"a",)))
    (adopted,) = scheduler.handle(Adopted((b"a", b"b"), 0.0))
    (retry,) = scheduler.handle(Lost(adopted.batch, Cause.LOST, 1.0))
    assert isinstance(retry, Retry)
    assert retry.id == b"a"
    assert [command.ids[0] for command in submits(scheduler.dispatch(retry.at))] == [b"a"]


def test_a_batch_of_which_nothing_is_needed_is_not_adopted():
    scheduler = scheduler_with((b"a", ()))
    scheduler.handle(Finished(b"a"))
    assert scheduler.handle(Adopted((b"a", b"unknown"), 0.0)) == []
