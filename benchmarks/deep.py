"""Measure the time and memory of recursion and tail calls 100,000 deep, and of 100,000 children of one task.

    python benchmarks/deep.py [N]

Memory is the peak of the leader, and of its largest worker. Each shape runs in a separate process.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from processes import run

import toilfn as toil


@toil.task
def countdown(n: int) -> Any:
    return "done" if n == 0 else countdown(n - 1)


@toil.task
def plus(x: int, y: int) -> int:
    return x + y


@toil.task
def recursive_sum(n: int) -> Any:
    return 0 if n == 0 else plus(n, recursive_sum(n - 1))


@toil.task
def total(xs: list[int]) -> int:
    return sum(xs)


@toil.task
def fan_out(n: int) -> Any:
    return total([plus(i, 0) for i in range(n)])


SHAPES: dict[str, Any] = {"tail calls": countdown, "recursion": recursive_sum, "children": fan_out}


def peak(who: int) -> int:
    """Return the peak memory of this process or of its children, in megabytes."""
    return resource.getrusage(who).ru_maxrss // 1024


def measure(shape: str, size: int) -> str:
    began = time.perf_counter()
    value = toil.compute(SHAPES[shape](size), workers=2, progress=False)
    took = time.perf_counter() - began
    assert (
        value == {"tail calls": "done", "recursion": size * (size + 1) // 2, "children": size * (size - 1) // 2}[shape]
    )
    leader, worker = peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)
    times = f"{took:7.1f} s, {took / size * 1e6:5.0f} µs each"
    return f"{shape:10} {size:>8,}: {times}, leader {leader} MB, worker {worker} MB"


def main() -> None:
    if sys.argv[1:2] == ["--only"]:
        print(measure(sys.argv[2], int(sys.argv[3])))
        return
    size = sys.argv[1] if len(sys.argv) > 1 else "100000"
    for shape in SHAPES:
        print(run(__file__, "--only", shape, size), flush=True)


if __name__ == "__main__":
    main()
