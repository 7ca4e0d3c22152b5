"""Compare toilfn with other CWL runners: the time of whole processes that run one hello, or scatters of echo.

python benchmarks/cwl.py [--width 50 1000] [--linear 1000 5000] [--times 3] [--container podman --image IMAGE]

The other runners are cwltool (scatters with ``--parallel``) and toil-cwl-runner, if they are installed. The first time
is the wall time of a whole process, for which a user waits. The second is the processor time of the process and its
children, on which other work of the machine has less influence. The runners take turns, and the best time of each
counts. ``--linear`` runs scatters of the given widths with toilfn alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TOOL = """\
class: CommandLineTool
baseCommand: echo
hints: {DockerRequirement: {dockerPull: IMAGE}, ResourceRequirement: {coresMin: 1, ramMin: 128}}
inputs: {message: {type: string, inputBinding: {}}}
outputs: {said: stdout}
stdout: said.txt
"""

HELLO = f"cwlVersion: v1.2\n{TOOL}"

SCATTER = f"""\
cwlVersion: v1.2
class: Workflow
requirements: {{ScatterFeatureRequirement: {{}}}}
inputs: {{messages: "string[]"}}
outputs: {{said: {{type: "File[]", outputSource: say/said}}}}
steps:
  say:
    scatter: message
    in: {{message: messages}}
    out: [said]
    run:
      {TOOL.strip().replace(chr(10), chr(10) + "      ")}
"""


class Cost(NamedTuple):
    """The time that a process took, in seconds."""

    wall: float
    processor: float


def cost(command: list[str], folder: Path) -> Cost:
    """Run a command, which must succeed, and return its times."""
    before, began = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        done = subprocess.run(
            [command[0], "--outdir", f"{place}/out", *command[1:]], cwd=folder, env={**os.environ, "TMPDIR": place},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(took, spent)


def runners(container: str) -> dict[str, list[str]]:
    """Return the command of each runner that is installed."""
    engine = {"none": ["--no-container"], "docker": []}.get(container, [f"--{container}"])
    found = {"toilfn": [str(Path(sys.executable).with_name("toilfn-cwl-runner")), "--quiet", *engine]}
    if cwltool := shutil.which("cwltool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        found["cwltool"] = [cwltool, "--quiet", *engine]
    if toil := shutil.which("toil-cwl-runner"):
        found["toil-cwl-runner"] = [toil, "--quiet", *engine]
    return found


def best(commands: dict[str, list[str]], folder: Path, times: int) -> dict[str, Cost]:
    """Run each command `times` times, in turns, and return the shortest times of each."""
    costs = [{name: cost(command, folder) for name, command in commands.items()} for _ in range(times)]
    return {name: Cost(*map(min, zip(*(each[name] for each in costs), strict=True))) for name in commands}


def show(title: str, costs: dict[str, Cost]) -> None:
    """Print the times of each runner, and toilfn's times as a fraction of them."""
    ours = costs["toilfn"]
    for name, taken in costs.items():
        ratios = f"{ours.wall / taken.wall:6.2f} {ours.processor / taken.processor:6.2f}" if name != "toilfn" else ""
        print(f"{title:12} {name:16} {taken.wall:8.2f} s {taken.processor:8.2f} s of processors {ratios}", flush=True)


def scatter(width: int, options: Iterable[str], command: list[str], folder: Path) -> list[str]:
    """Write the inputs of a scatter and return the command that runs it."""
    words = ", ".join(f'"word {i}"' for i in range(width))
    (folder / f"{width}.json").write_text(f'{{"messages": [{words}]}}')
    return [*command, *options, "scatter.cwl", f"{width}.json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="*", default=[50, 1000], help="widths of the scatters")
    parser.add_argument("--linear", type=int, nargs="*", default=[1000, 5000], help="widths that toilfn runs alone")
    parser.add_argument("--times", type=int, default=3, help="runs of each command; scatters of 500 and more run once")
    parser.add_argument("--container", default="none", choices=("none", "podman", "docker", "singularity"))
    parser.add_argument("--image", default="debian:stable-slim", help="container image of the tool")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-cwl-") as name:
        folder, commands = Path(name), runners(options.container)
        (folder / "hello.cwl").write_text(HELLO.replace("IMAGE", options.image))
        (folder / "scatter.cwl").write_text(SCATTER.replace("IMAGE", options.image))
        print(f"{'':30} {'wall':>8} {'':30} toilfn's share")
        hello = {one: [*command, "hello.cwl", "--message", "hi"] for one, command in commands.items()}
        show("hello", best(hello, folder, options.times))
        for width in options.width:
            wide = {
                one: scatter(width, ["--parallel"] if one == "cwltool" else [], command, folder)
                for one, command in commands.items()
            }
            show(f"{width} echoes", best(wide, folder, options.times if width < 500 else 1))
        for width in options.linear:
            alone = {"toilfn": scatter(width, [], commands["toilfn"], folder)}
            taken = best(alone, folder, 1)["toilfn"]
            print(f"{width:5} alone  {taken.wall / width * 1e3:24.1f} ms each {taken.wall:8.2f} s", flush=True)


if __name__ == "__main__":
    main()
