"""Deep and wide graphs, under a low recursion limit."""

from __future__ import annotations

import inspect
import pickle
import sys
import tracemalloc

import pytest

from tests.core.scheduler_model import name, new
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Policy, Scheduler
from toilfn.scheduler.events import Complete, Finished, Lost, NewTask, Release, Submit, Submitted

DEEP = 100_000
CAPACITY = Capacity(Resources(cores=2, memory=1000, disk=100))


@pytest.fixture(autouse=True)
def shallow():
    """Let nothing recurse over a graph."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    yield
    sys.setrecursionlimit(limit)


def run(scheduler, children=lambda id: (), waits=lambda id: ()):
    """Run to the end; how often each task was completed and released."""
    complete, released = [], []

    def note(commands):
        complete.extend(command.id for command in commands if isinstance(command, Complete))
        released.extend(command.id for command in commands if isinstance(command, Release))

    while not scheduler.idle:
        for command in scheduler.dispatch(0.0):
            assert isinstance(command, Submit)
            for id in command.ids:
                note(scheduler.handle(Finished(id, children(id), waits(id), 0.001)))
            note(scheduler.handle(Lost(command.batch, None, 0.0)))
    assert len(complete) == len(set(complete))
    assert len(released) == len(set(released))
    return complete, released


def test_long_chain():
    scheduler = Scheduler(CAPACITY)
    scheduler.handle(Submitted(tuple(new(i, *([i - 1] if i else [])) for i in reversed(range(DEEP)))))
    scheduler = pickle.loads(pickle.dumps(scheduler))
    complete, released = run(scheduler)
    assert complete == [name(i) for i in range(DEEP)]
    assert released == complete


def test_long_chain_of_tail_calls():
    scheduler = Scheduler(CAPACITY, Policy(max_batch=1))
    scheduler.handle(Submitted((new(0), new(DEEP, 0))))

    def follows(id):
        number = int.from_bytes(id, "big") + 1
        return (new(number),) if number < DEEP else ()

    def refers(id):
        return tuple(child.id for child in follows(id))

    complete, released = run(scheduler, follows, refers)
    assert complete == [name(i) for i in (*reversed(range(DEEP)), DEEP)]
    assert set(released) == set(complete)


def test_deep_tree_is_walked_depth_first():
    branches = 10
    scheduler = Scheduler(CAPACITY)
    scheduler.handle(Submitted((new(0),)))
    highest = 0

    def children(id):
        nonlocal highest
        counts = scheduler.counts()
        highest = max(highest, counts["ready"] + counts["expanded"])
        first = int.from_bytes(id, "big") * branches + 1
        return tuple(map(new, range(first, min(DEEP, first + branches))))

    complete, _ = run(scheduler, children)
    assert len(complete) == DEEP
    assert highest < 5000


def test_wide_fan():
    scheduler = Scheduler(CAPACITY)
    middle = range(1, DEEP)
    scheduler.handle(Submitted((new(0), *(new(i, 0) for i in middle), new(DEEP, *middle))))
    complete, released = run(scheduler)
    assert len(complete) == len(released) == DEEP + 1
    assert complete[-1] == name(DEEP)


@pytest.mark.parametrize("needs", [0, 1])
def test_a_task_takes_less_than_450_bytes(needs):
    count = 20_000
    first = new(0)
    scheduler = Scheduler(CAPACITY)
    scheduler.handle(Submitted((first,)))
    tracemalloc.start()
    for i in range(1, count):
        id = name(i)
        need = (name(i - 1),) if needs else ()
        scheduler.handle(Submitted((NewTask(id, need, first.shape, 0, first.budget),)))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / count < 450
