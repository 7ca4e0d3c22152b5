"""Measure the scheduler alone: time and memory per task, for graphs of several shapes.

Run with ``python benchmarks/scheduler.py [TASKS ...]``. Each case runs in a separate process. Bytes are the growth of
its peak resident memory. They include task ids, but not the values and records that a leader keeps.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from toilfn.ids import Budget, TaskId
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import Finished, Lost, NewTask, Submit, Submitted

SIZES = (10_000, 100_000, 1_000_000)
CHUNK = 5_000
FAN = 1_000
BRANCHES = 10
SHAPE = Resources(cores=1, memory=2**30, disk=2**30)
BUDGET = Budget()
CAPACITY = Capacity(Resources(cores=64, memory=2**40, disk=2**40))


def name(number: int) -> TaskId:
    return number.to_bytes(16, "big")


def task(number: int, *needs: int) -> NewTask:
    return NewTask(name(number), tuple(map(name, needs)), SHAPE, 0, BUDGET)


def flat(size: int) -> Iterator[NewTask]:
    """Iterate over independent tasks."""
    return map(task, range(size))


def chain(size: int) -> Iterator[NewTask]:
    """Iterate over tasks of which each needs the one before it."""
    yield task(0)
    yield from (task(number, number - 1) for number in range(1, size))


def pairs(size: int) -> Iterator[NewTask]:
    """Iterate over the tasks of many chains of two."""
    return (task(number, *([number - 1] if number % 2 else [])) for number in range(size))


def fan(size: int) -> Iterator[NewTask]:
    """Iterate over groups of tasks: one task, many tasks that need it, and one task that needs all of these."""
    for first in range(0, size, FAN):
        yield task(first, *([first - 1] if first else []))
        yield from (task(number, first) for number in range(first + 1, first + FAN - 1))
        yield task(first + FAN - 1, *range(first + 1, first + FAN - 1))


def root(_: int) -> Iterator[NewTask]:
    """Iterate over one task, whose children and their children are the rest of the graph."""
    yield task(0)


def no_children(number: int, size: int) -> tuple[NewTask, ...]:
    return ()


def tree_children(number: int, size: int) -> tuple[NewTask, ...]:
    first = number * BRANCHES + 1
    return tuple(map(task, range(first, min(size, first + BRANCHES))))


def tail_call(number: int, size: int) -> tuple[NewTask, ...]:
    return (task(number + 1),) if number + 1 < size else ()


CASES: dict[str, tuple[Callable[[int], Iterator[NewTask]], Callable[[int, int], tuple[NewTask, ...]]]] = {
    "flat": (flat, no_children),
    "chain": (chain, no_children),
    "pairs": (pairs, no_children),
    "fan": (fan, no_children),
    "tree": (root, tree_children),
    "loop": (root, tail_call),
}


def submit(scheduler: Scheduler, tasks: Iterator[NewTask]) -> None:
    while chunk := tuple(islice(tasks, CHUNK)):
        scheduler.handle(Submitted(chunk))


def run(scheduler: Scheduler, children: Callable[[int, int], tuple[NewTask, ...]], size: int) -> None:
    now = 0.0
    while not scheduler.idle:
        for command in scheduler.dispatch(now):
            assert isinstance(command, Submit)
            for id_ in command.ids:
                made = children(int.from_bytes(id_, "big"), size)
                scheduler.handle(Finished(id_, made, wall=0.001))
            scheduler.handle(Lost(command.batch, None, now))
        now += 0.001


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(case: str, size: int) -> tuple[float, float]:
    """Return the processor time in seconds, and the growth of the memory in bytes."""
    tasks, children = CASES[case]
    before, began = peak(), time.process_time()
    scheduler = Scheduler(CAPACITY)
    submit(scheduler, tasks(size))
    run(scheduler, children, size)
    took = time.process_time() - began
    assert scheduler.counts()["complete"] == size
    return took, peak() - before


def main(sizes: tuple[int, ...]) -> None:
    print(f"{'graph':8}{'tasks':>12}{'seconds':>10}{'us/task':>10}{'bytes/task':>12}")
    context = multiprocessing.get_context("spawn")
    for case in CASES:
        for size in sizes:
            with ProcessPoolExecutor(1, context) as process:
                took, grew = process.submit(measure, case, size).result()
            print(f"{case:8}{size:12,}{took:10.2f}{took / size * 1e6:10.2f}{grew / size:12.0f}", flush=True)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SIZES)
