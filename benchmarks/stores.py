"""Measure how many records per second a store writes to the disk and reads back.

    python benchmarks/stores.py [FOLDER]

Segments of 1, 100 and 10,000 records of 200 bytes are appended to a store in FOLDER (default: the system's
temporary folder), with and without flushing to the disk, and read back by a newly opened store.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from toilfn.stores import open_store

RECORD = bytes(200)
SECONDS = 2.0


def repeat(call: Callable[[], object]) -> float:
    """Call a function repeatedly for two seconds, and return the number of calls per second."""
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - began)


def measure(folder: Path, size: int, *, sync: bool) -> None:
    store = open_store(folder, sync=sync)
    records = [RECORD] * size
    appends = repeat(lambda: store.log.append(records))
    began = time.perf_counter()
    count = sum(1 for _ in open_store(folder).log.read())
    reads = count / (time.perf_counter() - began)
    store.destroy()
    print(f"{size:>8,} {'yes' if sync else 'no':>6} {appends:>12,.0f} {appends * size:>14,.0f} {reads:>14,.0f}")


def measure_fsync(folder: Path) -> None:
    with open(folder / "probe", "wb", buffering=0) as file:
        rate = repeat(lambda: (file.write(RECORD), os.fsync(file.fileno())))
    print(f"the disk itself: {rate:,.0f} appends of {len(RECORD)} bytes with fsync in a second\n")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        measure_fsync(Path(folder))
        print(f"{'records':>8} {'':>6} {'segments':>12} {'records':>14} {'records':>14}")
        print(f"{'/segment':>8} {'sync':>6} {'written/s':>12} {'written/s':>14} {'read/s':>14}")
        for sync in (True, False):
            for size in (1, 100, 10_000):
                measure(Path(folder) / "store", size, sync=sync)


if __name__ == "__main__":
    main()
