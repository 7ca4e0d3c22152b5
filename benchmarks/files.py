"""Measure the cost of files: bytes written to disk, and time.

    python benchmarks/files.py cache [FOLDER] [MEGABYTES] [TASKS]   many tasks read one file of another file system
    python benchmarks/files.py link [GIGABYTES]                     a task opens a sparse file imported as a link
    python benchmarks/files.py array [MEGABYTES] [TASKS]            many tasks read one array

For `cache`, FOLDER contains the store (default /dev/shm). It should not be on the file system of the temporary
directory, so that the file has to be copied. `copies.py` compares bytes written with other runners, and `small.py`
measures small files.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import toilfn as toil


@toil.task
def make(megabytes: int) -> toil.File:
    with toil.open_write("large") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(2**20))
    return stream.file


@toil.task
def read(file: toil.File, number: int) -> tuple[int, float]:
    """Return the inode of the local copy, and the seconds it took to get the copy."""
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


def link(gigabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "sparse.bin")
        with source.open("wb") as stream:
            stream.truncate(gigabytes * 10**9)
        toil.compute(make(0), store=f"{folder}/store", cluster="inline", progress=False)  # import all modules first
        began = time.perf_counter()
        file = toil.import_file(source, link="symlink")
        toil.compute(file, store=f"{folder}/store", cluster="inline", progress=False)
        imported = time.perf_counter()
        same = toil.compute(is_same(file, str(source)), store=f"{folder}/store", workers=1, progress=False)
        ended = time.perf_counter()
    print(f"{gigabytes} GB, imported as a link in {imported - began:.2f} s")
    print(f"opened by a task of a new worker in {ended - imported:.2f} s; the file itself: {same}")


@toil.task
def is_same(file: toil.File, source: str) -> bool:
    return file.path().samefile(source)


@toil.task
def ones(megabytes: int) -> Any:
    import numpy as np

    return np.ones(megabytes * 2**17)


@toil.task
def total(values: Any, number: int) -> float:
    return float(values[::512].sum()) + number  # read one number of each page of memory


def array(megabytes: int, tasks: int) -> None:
    """Pass an array to tasks that read all of it, and measure the peak memory of all workers together.

    Pages of files count once: they are in memory once, even if several workers map them.
    """
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            parts = [memory_of(process) for process in psutil.Process().children(recursive=True)]
            peak = max(peak, sum(own for own, _ in parts) + max((files for _, files in parts), default=0))

    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as folder:
        watcher.start()
        began = time.perf_counter()
        values = ones(megabytes)
        work = [total(values, number) for number in range(tasks)]
        toil.compute(work, store=f"{folder}/store", progress=False, durability="none")
        took = time.perf_counter() - began
        ended.set()
        watcher.join()
    print(f"an array of {megabytes} MB, read by {tasks} tasks: {took:.1f} s, workers' peak {peak / 2**20:.0f} MB")


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Return a worker's share of anonymous memory and its resident pages of mapped files, in bytes."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup}
    files = next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssFile:")), 0)
    return sizes.get("Pss_Anon:", 0) + sizes.get("Pss_Shmem:", 0), files


def main() -> None:
    names = {"cache": cache, "link": link, "array": array}
    defaults = {
        "cache": ["/dev/shm", 200, 50], "link": [50], "array": [2000, 50],  # noqa: S108
    }  # fmt: skip
    name = sys.argv[1] if sys.argv[1:] else "cache"
    given = [int(word) if word.isdecimal() else word for word in sys.argv[2:]]
    values: Any = [*given, *defaults[name][len(given) :]]
    names[name](*values)


def cache(folder: str, megabytes: int, tasks: int) -> None:
    print(f"{tasks} tasks read one file of {megabytes} MB in {folder}")
    print(f"{'cache':>8} {'copies':>8} {'run, s':>10} {'median, ms':>14} {'slowest, ms':>14}")
    for cache_size in ("10G", "0"):
        measure(folder, megabytes, tasks, cache_size)


if __name__ == "__main__":
    main()
