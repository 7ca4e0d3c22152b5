"""Measure the cost of files: bytes written to disk, and time.

    python benchmarks/files.py cache [FOLDER] [MEGABYTES] [TASKS]   many tasks read one file of another file system
    python benchmarks/files.py link [GIGABYTES]                     a task opens a sparse file imported as a link
    python benchmarks/files.py cwl [MEGABYTES]                      three CWL steps, with toilfn and with cwltool
    python benchmarks/files.py small [FILES]                        write small files to a store, and export them
    python benchmarks/files.py array [MEGABYTES] [TASKS]            many tasks read one array

For `cache`, FOLDER holds the store (default /dev/shm). It should be on another file system than the temporary
directory, so that the file has to be copied. The bytes written are those of all processes (``ru_oublock``), which
counts disks only: the temporary directory must be on a disk.
"""

from __future__ import annotations

import os
import resource
import subprocess
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


DOCUMENT = """\
cwlVersion: v1.2
class: Workflow
inputs: {file: File}
outputs: {out: {type: File, outputSource: three/out}}
steps:
  one: {run: step.cwl, in: {file: file}, out: [out]}
  two: {run: step.cwl, in: {file: one/out}, out: [out]}
  three: {run: step.cwl, in: {file: two/out}, out: [out]}
"""

STEP = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: cat
inputs: {file: {type: File, inputBinding: {}}}
outputs: {out: stdout}
stdout: out.bin
"""


def link(gigabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "sparse.bin")
        with source.open("wb") as stream:
            stream.truncate(gigabytes * 10**9)
        began = time.perf_counter()
        file = toil.import_file(source, link="symlink")
        same = toil.compute(is_same(file, str(source)), store=f"{folder}/store", workers=1, progress=False)
        took = time.perf_counter() - began
    print(f"{gigabytes} GB, imported as a link and opened by a task in {took:.2f} s; the file itself: {same}")


@toil.task
def is_same(file: toil.File, source: str) -> bool:
    return file.path().samefile(source)


def cwl(megabytes: int) -> None:
    toilfn = [sys.executable, "-m", "toilfn.cwl", "--no-container", "--quiet"]
    cwltool = [sys.executable, "-m", "cwltool", "--no-container", "--quiet"]
    ways = {
        "toilfn, links and moves": [*toilfn, "--link-imports", "--move-outputs", "--store", "store"],
        "toilfn, the same, drops": [
            *toilfn, "--link-imports", "--move-outputs", "--intermediates", "drop", "--store", "store",
        ],
        "toilfn, copies": [*toilfn, "--store", "store"],
        "cwltool --move-outputs": [*cwltool, "--move-outputs"],
        "cwltool --leave-outputs": [*cwltool, "--leave-outputs"],
    }  # fmt: skip
    print(f"three steps, each of which writes {megabytes} MB")
    print(f"{'':26} {'written, MB':>12} {'left, MB':>10} {'seconds':>8}")
    for name, command in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            place.joinpath("doc.cwl").write_text(DOCUMENT)
            place.joinpath("step.cwl").write_text(STEP)
            with place.joinpath("in.bin").open("wb") as stream:
                for _ in range(megabytes):
                    stream.write(os.urandom(2**20))
                os.fsync(stream.fileno())
            place.joinpath("tmp").mkdir()
            before, began = written(), time.perf_counter()
            environment = {**os.environ, "TMPDIR": str(place / "tmp")}
            subprocess.run(
                [*command, "--outdir", "out", "doc.cwl", "--file", "in.bin"], cwd=place, env=environment, check=True,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            took, left = time.perf_counter() - began, size_of(place) - megabytes * 2**20
            print(f"{name:26} {(written() - before) / 2**20:12.0f} {left / 2**20:10.0f} {took:8.1f}")


def written() -> int:
    """Return the bytes that the children of this process have written to disks."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * 512


def size_of(place: Path) -> int:
    """Return the total size of the files in a directory, in bytes, counting hard links once."""
    found = {(info.st_dev, info.st_ino): info.st_size for info in (path.lstat() for path in place.rglob("*"))}
    return sum(found.values())


@toil.task
def many(number: int, files: int) -> list[toil.File]:
    made = []
    for index in range(files):
        with toil.open_write(f"{number}-{index}") as stream:
            stream.write(bytes(1024))
        made.append(stream.file)
    return made


@toil.task
def all_out(files: list[toil.File], target: str) -> int:
    return len([toil.export(file, f"{target}/{file.name}") for file in files])


def small(files: int) -> None:
    groups = max(1, files // 1000)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("in", "out"):
            parts = [many(number, files // groups) for number in range(groups)]
            work = parts if name == "in" else [all_out(part, f"{folder}/out") for part in parts]
            began = time.perf_counter()
            toil.compute(work, store=f"{folder}/store", progress=False, durability="none")
            print(f"{files} files of 1 KiB {name}: {time.perf_counter() - began:.1f} s")


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
    names = {"cache": cache, "link": link, "cwl": cwl, "small": small, "array": array}
    defaults = {
        "cache": ["/dev/shm", 200, 50], "link": [50], "cwl": [10_000], "small": [100_000], "array": [2000, 50],  # noqa: S108
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
