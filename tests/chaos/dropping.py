"""Chains of tasks whose files are together ten times as large as their results: ``dropping.py DISK EDIT``."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import toilfn as toil

SIZE = 256 * 1024
CHAINS = 16
STEPS = 10
RESULTS = SIZE * CHAINS


WORK = 0.05
"""Seconds that a task takes, besides its files."""


def content(text: str) -> bytes:
    return hashlib.shake_128(text.encode()).digest(SIZE)


@toil.task
def first(chain: int) -> toil.File:
    with toil.open_write("part") as file:
        file.write(content(str(chain)))
    return file.file


@toil.task
def step(part: toil.File, number: int) -> toil.File:
    time.sleep(WORK)
    with toil.open_write("part") as file:
        file.write(content(hashlib.sha256(part.read_bytes()).hexdigest() + str(number)))
    return file.file


@toil.task
def branch(part: toil.File, number: int) -> toil.File:
    """Hand the file to a task of its own, by its name."""
    return step(part, number)


def expected(chain: int, edit: int) -> str:
    """The digest of a result."""
    data = content(str(chain))
    for number in range(STEPS):
        data = content(hashlib.sha256(data).hexdigest() + str(number + edit * (number == STEPS - 1)))
    return hashlib.sha256(data).hexdigest()


def graph(edit: int) -> list[toil.File]:
    parts = []
    for chain in range(CHAINS):
        part = first(chain)
        for number in range(STEPS):
            call = branch if number % 3 == 1 else step
            part = call(part, number + edit * (number == STEPS - 1))
        parts.append(part)
    return parts


if __name__ == "__main__":
    disk, edit = Path(sys.argv[1]), int(sys.argv[2])
    files = toil.compute(
        graph(edit), store=disk / "store", work_dir=disk / "work", workers=2, retries=0, progress=False,
        intermediates="drop",
    )  # fmt: skip
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    print(digests == [expected(chain, edit) for chain in range(CHAINS)])
