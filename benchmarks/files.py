"""Many tasks on one machine read one file of a store that is on another file system.

    python benchmarks/files.py [FOLDER] [MEGABYTES] [TASKS]

FOLDER is for the store (default /dev/shm), and should be on another file system than the temporary
directory, so that the file has to be copied; 200 MB and 50 tasks if not said otherwise.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import toilfn as toil


@toil.task
def make(megabytes: int) -> toil.File:
    with toil.open_write("large") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(2**20))
    return stream.file


@toil.task
def read(file: toil.File, number: int) -> tuple[int, float]:
    """Return the number of the copy that was used, and how long it took to get it."""
    began = time.perf_counter()
    return file.path().stat().st_ino, time.perf_counter() - began


def measure(folder: str, megabytes: int, tasks: int, cache_size: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as store:
        file = toil.compute(make(megabytes), store=f"{store}/store")
        began = time.perf_counter()
        answers = toil.compute([read(file, i) for i in range(tasks)], store=f"{store}/store", cache_size=cache_size)
        took = time.perf_counter() - began
    waits = sorted(wait for _, wait in answers)
    copies = len({number for number, _ in answers}) if cache_size != "0" else tasks
    print(f"{cache_size:>8} {copies:>8} {took:>10.2f} {1000 * waits[tasks // 2]:>14.2f} {1000 * waits[-1]:>14.2f}")


def main() -> None:
    folder, megabytes, tasks = [*sys.argv[1:], *["/dev/shm", "200", "50"][len(sys.argv) - 1 :]]  # noqa: S108
    print(f"{tasks} tasks read one file of {megabytes} MB in {folder}")
    print(f"{'cache':>8} {'copies':>8} {'run, s':>10} {'median, ms':>14} {'slowest, ms':>14}")
    for cache_size in ("10G", "0"):
        measure(folder, int(megabytes), int(tasks), cache_size)


if __name__ == "__main__":
    main()
