"""A workflow for tests that kill it: ``python program.py STORE SHAPE SIZE SEED MARKS``.

Every attempt of a task adds one byte to a file of its own under MARKS, so that a test can see
what ran, and how often.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import toilfn as toil


def mark(folder: str) -> None:
    with Path(folder, toil.current().id).open("ab") as file:
        file.write(b"x")


@toil.task
def combine(key: int, inputs: list[int], folder: str) -> int:
    mark(folder)
    time.sleep(random.Random(key).choice([0, 0, 0.002, 0.02]))
    return (key + 31 * sum(inputs)) % 1_000_003


@toil.task
def expand(key: int, inputs: list[int], folder: str) -> Any:
    """A task whose value is made by tasks of its own."""
    mark(folder)
    parts = [combine(key + i, inputs, folder) for i in range(3)]
    toil.spawn(combine(key + 3, [], folder))
    return combine(key, parts, folder)


@toil.task
def through_file(key: int, inputs: list[int], folder: str) -> int:
    """A task that passes its value on through a file of the store."""
    mark(folder)
    with toil.open_write(f"{key}.txt", "w") as file:
        file.write(str(key + sum(inputs)))
    return read_back(file.file, folder)


@toil.task
def read_back(file: toil.File, folder: str) -> int:
    mark(folder)
    return int(file.read_text()) % 1_000_003


@toil.task
def total(values: list[int], folder: str) -> int:
    mark(folder)
    return sum(values) % 1_000_003


def graph(size: int, seed: int, folder: str) -> Any:
    """A random graph of about `size` tasks."""
    rng = random.Random(seed)
    kinds = [combine] * 8 + [expand, through_file]
    promises: list[Any] = []
    made = 0
    while made < size:
        inputs = rng.sample(promises, min(len(promises), rng.randrange(4)))
        kind = rng.choice(kinds)
        promises.append(kind(1000 * len(promises), inputs, folder))
        made += {combine: 1, expand: 6, through_file: 2}[kind]
    return total(promises, folder)


@toil.task
def sort(file: toil.File, least: int, folder: str) -> Any:
    """A merge sort through files."""
    mark(folder)
    lines = file.read_text().splitlines(keepends=True)
    if len(lines) <= least:
        return written(sorted(lines))
    middle = len(lines) // 2
    return merge(*[sort(written(half), least, folder) for half in (lines[:middle], lines[middle:])], folder)


@toil.task
def merge(first: toil.File, second: toil.File, folder: str) -> toil.File:
    mark(folder)
    return written(sorted(first.read_text().splitlines(keepends=True) + second.read_text().splitlines(keepends=True)))


def written(lines: list[str]) -> toil.File:
    with toil.open_write("lines.txt", "w") as file:
        file.writelines(lines)
    return file.file


@toil.task
def make_lines(size: int, seed: int, folder: str) -> toil.File:
    mark(folder)
    rng = random.Random(seed)
    return written([f"{rng.randrange(10**9)}\n" for _ in range(size)])


@toil.task
def check(file: toil.File, folder: str) -> int:
    """Whether it is sorted, as a number."""
    mark(folder)
    numbers = file.read_text().splitlines()
    assert numbers == sorted(numbers)
    return sum(map(int, numbers)) % 1_000_003


def main() -> None:
    store, shape, size, seed, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    Path(folder).mkdir(exist_ok=True)
    if shape == "graph":
        wanted = graph(size, seed, folder)
    else:
        wanted = check(sort(make_lines(size, seed, folder), max(10, size // 64), folder), folder)
    print(toil.compute(wanted, store=store, cluster=toil.LocalCluster(workers=2), progress=False, lost_retries=1000))


if __name__ == "__main__":
    main()
