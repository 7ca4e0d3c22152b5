"""What logs, statistics and files cost a task that uses none of them, as a share of the core's throughput.

    python benchmarks/observed.py [--tasks 20000] [--rounds 5]

The same no-op tasks run in turn on workers as they are, and on workers whose capture of output, meter and session
of files (with the node's cache behind it) were taken out. Processor time is compared, of leader and workers
together, without their start: with as many workers as cores, throughput is its inverse, and it bears a busy machine.
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

    def read(self):  # the scheduler needs to know how long tasks take
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
"""What Python runs first in a worker that observes nothing."""


@toil.task
def nothing(i: int) -> int:
    return i


@toil.task
def count(values: list[int]) -> int:
    return len(values)


def seconds(tasks: int) -> float:
    """Return the processor time of a run of so many tasks."""
    start = used()
    assert toil.compute(count(nothing.map(range(tasks))), workers=2, progress=False, clean="always") == tasks
    return used() - start


def used() -> float:
    """Return the processor time of this process and of those it started that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def each(tasks: int) -> float:
    """Return the processor time for each of so many tasks, without the start of the workers."""
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
    print(f"their share of the throughput: {1 - rest / whole:.0%}")


if __name__ == "__main__":
    main()
