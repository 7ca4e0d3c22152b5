"""Measure `status`, `stats` and `report` on a store of very many finished tasks.

    python benchmarks/reading.py [--tasks 1000000] [--store DIR]

This script writes the store, record by record, as a leader with forty workers would: there are four kinds of tasks,
each task of the last three kinds needs one of the kind before it, and one attempt in a thousand fails. Each command
runs in a separate process; its memory is the peak of that process.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from toilfn.model.records import (
    BlobRef,
    End,
    Epoch,
    Failure,
    Function,
    Outcome,
    Record,
    Run,
    Started,
    Stats,
    TaskRecord,
    encode,
)
from toilfn.stores import open_store

KINDS = ("fetch", "align", "call_variants", "summarise")
BEGIN = 1_700_000_000.0
WORKERS = 40
SEGMENT = 4096
ENTRY = """
import resource, sys
from toilfn.cli import main
main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def id_of(number: int) -> bytes:
    """Return the id of a task."""
    return random.Random(number).randbytes(16)


def history(tasks: int, is_open: bool) -> Iterator[Record]:
    """Iterate over the records of a run."""
    luck = random.Random(0)
    width = max(1, tasks // len(KINDS))
    payload = BlobRef("function", 100, bytes(16))
    ids = [id_of(number) for number in range(width * len(KINDS))]
    yield Epoch(1, "leader.example", 100, BEGIN)
    for kind, name in enumerate(KINDS):
        yield Function(bytes([kind]) * 16, name, {"memory": 2**30 * (kind + 1)}, payload, {})
    yield Run(1, "/home/user/cohort.py", b"", tuple(ids[-width:]), {}, None, BEGIN)
    for number, id in enumerate(ids):
        kind = number // width
        needs = (ids[number - width],) if kind else ()
        args = b"arguments of this task"
        yield TaskRecord(id, bytes([kind]) * 16, args, needs, (), {}, None, {"0": "00" * 16}, b"l" * 16)
    clocks = [BEGIN + 1.0] * WORKERS
    numbers = range(len(ids)) if not is_open else range(len(ids) - width // 2)
    for first in range(0, len(numbers), 64):
        block = numbers[first : first + 64]
        worker = first // 64 % WORKERS
        yield Started(tuple(ids[n] for n in block), f"job-{first}", clocks[worker])
        for number in block:
            wall = luck.lognormvariate(-1, 1) * (1 + number // width)
            host, pid = f"node{worker // 10:02d}.example", 1000 + worker
            memory = int(luck.gauss(2**29, 2**26)) * (1 + number // width)
            stats = Stats(clocks[worker], wall, wall * luck.random(), memory, host, pid, 10**6, 10**5, 0, 10**7, 2**25)
            clocks[worker] += wall
            if luck.random() < 0.001:
                yield Failure(ids[number], 1, "error", "ValueError: bad luck", "Traceback ...\nValueError: bad luck\n",
                              b"reading\n", stats)  # fmt: skip
                clocks[worker] += wall
                stats = stats._replace(start=stats.start + wall)
            yield Outcome(ids[number], 1, b"value", (), (), (), (), (), b"some output\n", stats)
    if not is_open:
        yield End(1, "done", max(clocks))


def write(folder: Path, tasks: int, *, is_open: bool = False) -> None:
    """Write a store with the records of a run."""
    store = open_store(str(folder), workflow="benchmark", sync=False)
    records = map(encode, history(tasks, is_open))
    while block := list(itertools.islice(records, SEGMENT)):
        store.log.append(block)


def measure(*words: str) -> str:
    """Run a command and return a line with its time and its peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    began = time.perf_counter()
    command = [sys.executable, "-c", ENTRY, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took = time.perf_counter() - began
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return f"{took:6.1f} s ({cpu:.1f} s of processor time), {int(done.stderr.split()[-1]) / 1024:4.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, help="store to keep; if it exists, it is used as it is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder, "store")
        if not store.exists():
            write(store, given.tasks)
        for words in (["status"], ["stats"], ["report", "-o", str(Path(folder, "report.html"))]):
            print(f"{words[0]:8} {measure(words[0], str(store), *words[1:])}", flush=True)


if __name__ == "__main__":
    main()
