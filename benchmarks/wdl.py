"""Compare toilfn with other WDL runners: the time of whole processes that run one echo, or a scatter of echo.

python benchmarks/wdl.py [--width 200] [--container podman|singularity] [--image IMAGE] [--times 3]

The other runners are miniwdl, with the same container engine, and toil-wdl-runner, if they are installed; --toil is the
path of the latter. It supports only Singularity, and Docker with a swarm. `python -m tests.servers.apptainer start`
installs the command of Singularity. Processor time is that of the process and its children; it does not include
containers that the daemon of an engine starts.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SOURCE = """\
version 1.0
task say {
  input { Int i }
  command { echo ~{i} }
  output { String said = read_string(stdout()) }
  runtime { docker: "IMAGE" memory: "256 MB" cpu: 1 }
}
workflow w {
  input { Int width }
  scatter (i in range(width)) { call say { input: i = i } }
  output { Array[String] said = say.said }
}
"""


class FailedError(Exception):
    """A runner failed, as miniwdl 1.16 does at times when many calls start podman at once."""


class Taken(NamedTuple):
    """The time that a command took, in seconds."""

    wall: float
    cpu: float


def taken(command: list[str], folder: Path, env: dict[str, str]) -> Taken:
    """Run a command and return its times; raise FailedError if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def runners(container: str, toil: str | None) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the command and the environment of each runner that is installed; print which ones are missing."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    found["toilfn"] = ([sys.executable, "-m", "toilfn", "wdl", "w.wdl", "in.json", "--container", container], {})
    binary = Path(sys.executable).parent
    if container != "none" and (binary / "miniwdl").exists():
        programs = {f"MINIWDL__{engine.upper()}__EXE": f'["{engine}"]' for engine in ("podman", "singularity")}
        programs["MINIWDL__SINGULARITY__RUN_OPTIONS"] = '["--containall"]'  # without --fakeroot: it may be root
        backend = {"MINIWDL__SCHEDULER__CONTAINER_BACKEND": container} | programs
        found["miniwdl run"] = ([str(binary / "miniwdl"), "run", "w.wdl", "-i", "in.json", "-d", "out/"], backend)
    else:
        print("miniwdl is not installed, or does not support this container engine")
    if toil and container == "singularity":
        path = f"{Path(toil).parent}:{os.environ['PATH']}"  # toil-wdl-runner looks up its worker command there
        found["toil-wdl-runner"] = ([toil, "w.wdl", "in.json", "--container", container], {"PATH": path})
    else:
        print("toil-wdl-runner is not installed, or does not support this container engine")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--container", default="podman")
    parser.add_argument("--toil", default=shutil.which("toil-wdl-runner"), help="path of the command toil-wdl-runner")
    parser.add_argument("--image", default="ubuntu:22.04", help="container image; miniwdl always pulls it")
    options = parser.parse_args()
    chosen = runners(options.container, options.toil)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "w.wdl").write_text(SOURCE.replace("IMAGE", options.image))
        for width in (1, options.width):
            (folder / "in.json").write_text(f'{{"w.width": {width}}}')
            for runner, (command, env) in chosen.items():
                try:
                    runs = [taken(command, folder, env) for _ in range(options.times if width == 1 else 1)]
                except FailedError as error:
                    print(f"{width:4} echo  {runner:16} {error}", flush=True)
                    continue
                wall, cpu = (min(times) for times in zip(*runs, strict=True))
                print(f"{width:4} echo  {runner:16} {wall:7.2f} s, {cpu:7.2f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
