"""Measure the bytes that runners write for three steps, each of which copies one large file.

    python benchmarks/copies.py cwl [--megabytes 1000] [--toil FOLDER] [--only TEXT]
    python benchmarks/copies.py wdl [--megabytes 1000] [--toil FOLDER] [--only TEXT] [--container singularity]

Every runner must write three times the size of the file. Bytes above that were written more than once. The benchmark
compares toilfn, cwltool, miniwdl, and the runners of Toil if FOLDER contains their commands (`pip install
toil[cwl,wdl]` in a separate environment). CWL runs without containers. WDL runs with Singularity, since miniwdl needs a
container engine, and Toil supports only Singularity and Docker. `python -m tests.servers.apptainer start` installs it;
`python -m tests.servers.containers start` starts the registry with the default image.

*Written* is the number of pages of files on disks that all processes together have changed (``ru_oublock``). A page
counts when it is changed, so it does not matter when the kernel writes it to the device, and other programs on the
machine do not count. This process adopts orphans, so the processes of containers count, too. *Peak* and *left* are the
blocks of all files in the folder except the input, at most and at the end. Hard links count once. The peak is sampled
twice a second.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

CWL = """\
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

WDL = """\
version 1.0
task step {
  input { File file }
  command { cat '~{file}' > out.bin }
  output { File out = "out.bin" }
  runtime { docker: "IMAGE" memory: "256 MB" cpu: 1 }
}
workflow w {
  input { File file }
  call step as one { input: file = file }
  call step as two { input: file = one.out }
  call step as three { input: file = two.out }
  output { File out = three.out }
}
"""

PIECE = 2**20
PR_SET_CHILD_SUBREAPER = 36


class Way(NamedTuple):
    """A runner with some options."""

    name: str
    command: list[str]
    environment: dict[str, str] = {}  # noqa: RUF012


MOVES = ["--link-imports", "--move-outputs", "--store", "store"]
DROPS = ["--intermediates", "drop"]


def cwl_ways(toil: str | None) -> Iterator[Way]:
    toilfn = [sys.executable, "-m", "toilfn.cwl", "--no-container", "--quiet", "--outdir", "out"]
    cwltool = [sys.executable, "-m", "cwltool", "--no-container", "--quiet", "--outdir", "out"]
    document = ["doc.cwl", "--file", "../in.bin"]
    yield Way("toilfn, links, moves", [*toilfn, *MOVES, *document])
    yield Way("toilfn, links, moves, drops", [*toilfn, *MOVES, *DROPS, *document])
    yield Way("toilfn, links, leaves", [*toilfn, "--link-imports", "--leave-outputs", "--store", "store", *document])
    yield Way("toilfn, copies", [*toilfn, "--store", "store", *document])
    yield Way("cwltool --move-outputs", [*cwltool, "--move-outputs", *document])
    yield Way(
        "cwltool --leave-outputs", [*cwltool, "--leave-outputs", "--leave-tmpdir", *document]
    )  # without --leave-tmpdir, cwltool removes the outputs, too
    if toil:
        runner = [f"{toil}/toil-cwl-runner", "--no-container", "--outdir", "out", *toil_folders()]
        yield Way("toil-cwl-runner", [*runner, *document], toil_environment(toil))
        yield Way("the same --moveOutputs", [*runner, "--moveOutputs", "True", *document], toil_environment(toil))
        yield Way("the same --bypass-file-store", [*runner, "--bypass-file-store", *document], toil_environment(toil))


def wdl_ways(toil: str | None, container: str) -> Iterator[Way]:
    toilfn = [sys.executable, "-m", "toilfn", "wdl", "doc.wdl", "in.json", "-o", "out", "--container", container]
    yield Way("toilfn, links, moves", [*toilfn, *MOVES])
    yield Way("toilfn, links, moves, drops", [*toilfn, *MOVES, *DROPS])
    yield Way("toilfn, copies", [*toilfn, "--store", "store"])
    if container != "none":
        backend = {
            "MINIWDL__SCHEDULER__CONTAINER_BACKEND": container,
            f"MINIWDL__{container.upper()}__EXE": f'["{container}"]',
            "MINIWDL__SINGULARITY__RUN_OPTIONS": '["--containall"]',  # without --fakeroot: it may be root
        }
        yield Way(
            "miniwdl",
            [f"{Path(sys.executable).parent}/miniwdl", "run", "doc.wdl", "-i", "in.json", "-d", "run"],
            backend,
        )
    if toil and container == "singularity":
        runner = [
            f"{toil}/toil-wdl-runner",
            "doc.wdl",
            "in.json",
            "-o",
            "out",
            "--container",
            container,
            *toil_folders(),
        ]
        yield Way("toil-wdl-runner", runner, toil_environment(toil))
        yield Way("the same --moveOutputs", [*runner, "--moveOutputs", "True"], toil_environment(toil))


def toil_folders() -> list[str]:
    return ["--workDir", "tmp", "--coordinationDir", "coordination", "--jobStore", "jobs"]


def toil_environment(folder: str) -> dict[str, str]:
    """Return a PATH on which Toil's runner finds the command of its workers."""
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=["cwl", "wdl"], nargs="?", default="cwl")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--toil", help="folder of the commands of Toil")
    parser.add_argument("--only", default="", help="run only ways with one of these texts, separated by commas")
    parser.add_argument("--container", default="singularity", help="engine for WDL")
    parser.add_argument("--image", default="127.0.0.1:26850/toilfn-tests/busybox:remote", help="image for WDL")
    parser.add_argument("--sparse", action="store_true", help="use an input that takes no space on the disk itself")
    parser.add_argument("--folder", help="where to work; it must be on a disk (default: the temporary directory)")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ways = cwl_ways(options.toil) if options.language == "cwl" else wdl_ways(options.toil, options.container)
    print(f"{options.language}: three steps, each of which writes {options.megabytes} MB")
    print(f"{'':30} {'written, MB':>12} {'peak, MB':>10} {'left, MB':>10} {'seconds':>8}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source = Path(name, "in.bin")
        (fill_sparsely if options.sparse else fill)(source, options.megabytes)
        for way in ways:
            if any(text in way.name for text in options.only.split(",")):
                print(f"{way.name:30} {run(way, source, options.image)}", flush=True)


def fill(path: Path, megabytes: int) -> None:
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(PIECE))
        os.fsync(stream.fileno())


def fill_sparsely(path: Path, megabytes: int) -> None:
    """Write a file whose content is random at its beginning and its end, with a hole between."""
    with path.open("wb") as stream:
        stream.write(os.urandom(PIECE))
        stream.seek((megabytes - 1) * PIECE)
        stream.write(os.urandom(PIECE))
        os.fsync(stream.fileno())


def run(way: Way, source: Path, image: str) -> str:
    """Run the document in a new folder beside the input, check the result, and return a line with the figures."""
    place = source.with_name("run")
    for name in ("tmp", "coordination"):
        (place / name).mkdir(parents=True)
    for name, text in (("doc.cwl", CWL), ("step.cwl", STEP), ("doc.wdl", WDL.replace("IMAGE", image))):
        (place / name).write_text(text)
    (place / "in.json").write_text(json.dumps({"w.file": str(source)}))
    os.sync()
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), **way.environment}
    before, began = written(), time.perf_counter()
    with peak_of(place) as peak:
        done = subprocess.run(way.command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{way.name} failed:\n{done.stderr[-4000:]}")
    reap()
    mega = (written() - before, peak[0], size_of(place))
    check(place, done.stdout, source)
    shutil.rmtree(place)
    return (
        " ".join(f"{size / PIECE:{width}.0f}" for size, width in zip(mega, (12, 10, 10), strict=True)) + f" {took:8.1f}"
    )


def written() -> int:
    """Return the bytes that the children of this process have written to files on disks."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * 512


def reap() -> None:
    """Wait for adopted processes, since only the usage of processes that were waited for is counted."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


@contextmanager
def peak_of(place: Path) -> Iterator[list[int]]:
    """Sample the size of a folder while the block runs."""
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            peak[0] = max(peak[0], size_of(place))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def size_of(place: Path) -> int:
    """Return the bytes that the files in a folder take on the disk, counting hard links once."""
    found: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                info = os.lstat(os.path.join(folder, name))
                found[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(found.values())


def check(place: Path, printed: str, source: Path) -> None:
    """Compare the size, the beginning and the end of the output with the input."""
    named = re.search(r'"(?:file://)?([^"]*out\.bin)"', printed)
    found = Path(place, named[1]) if named else next((place / "out").rglob("out.bin"))
    for path in (found, source):
        if path.stat().st_size != source.stat().st_size:
            raise SystemExit(f"{found} does not have the size of the input")
    ends = []
    for path in (found, source):
        with path.open("rb") as stream:
            first = stream.read(PIECE)
            stream.seek(-PIECE, os.SEEK_END)
            ends.append(first + stream.read())
    if ends[0] != ends[1]:
        raise SystemExit(f"{found} does not have the content of the input")


if __name__ == "__main__":
    main()
