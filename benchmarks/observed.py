"""Measure the cost of logs, statistics and files for a task that uses none of them.

    python benchmarks/observed.py [--tasks 20000] [--rounds 5]

The same no-op tasks run alternately on ordinary workers and on workers that capture no output, take no statistics
and prepare no files (and no cache of the node). The benchmark compares the processor time of leader and workers
together, without their start. With as many workers as cores, the throughput is the inverse of that time, and other
work of the machine changes it little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
from pathlib import Path

import toilfn as toil

TAKEN_OUT = """
import time

import toilfn.worker.capture as capture
import toilfn.worker.execute as execute
from toilfn.model.records import Stats


class Meter:
    def __init__(self):
        self.start, self._clock = time.time(), time.perf_counter()

    def read(self):  # the scheduler needs the wall time of tasks
        return Stats(self.start, time.perf_counter() - self._clock)


class TaskFiles:
    made = deleted = temporary = ()

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


execute.Meter, execute.TaskFiles = Meter, TaskFiles
capture.Capture.take = lambda self: b""
"""
"""The module ``sitecustomize`` of a worker without logs, statistics and files."""


@toil.task
def nothing(i: int) -> int:
    return i


@toil.task
def count(values: list[int]) -> int:
    return len(values)


def seconds(tasks: int) -> float:
    """Return the processor time of a run of `tasks` tasks, in seconds."""
    start = used()
    assert toil.compute(count(nothing.map(range(tasks))), workers=2, progress=False, clean="always") == tasks
    return used() - start


def used() -> float:
    """Return the processor time of this process and of its children that have ended, in seconds."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def each(tasks: int) -> float:
    """Return the processor time per task, in seconds, without the start of the workers."""
    return (seconds(tasks) - seconds(1)) / tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    observed, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(TAKEN_OUT)
        for _ in range(given.rounds):
            os.environ.pop("PYTHONPATH", None)
            observed.append(each(given.tasks))
            os.environ["PYTHONPATH"] = folder
            bare.append(each(given.tasks))
    whole, rest = statistics.median(observed), statistics.median(bare)
    print(f"a no-op task: {whole * 1e6:.1f} us with logs, statistics and files, {rest * 1e6:.1f} us without them")
    print(f"logs, statistics and files take {1 - rest / whole:.0%} of the processor time")


if __name__ == "__main__":
    main()
