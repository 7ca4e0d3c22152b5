"""WDL, whole processes side by side with others: hello, and a scatter of echo.

python benchmarks/wdl.py [--width 200] [--container podman] [--image IMAGE] [--times 3]

Others are run where they are installed: miniwdl (with the same engine), and toil-wdl-runner.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def seconds(command: list[str], folder: Path, env: dict[str, str]) -> float:
    """How long a command takes; it must succeed."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def runners(container: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The command of each engine that is here, and its environment."""
    found = {"toilfn": ([sys.executable, "-m", "toilfn", "wdl", "w.wdl", "in.json", "--container", container], {})}
    binary = Path(sys.executable).parent
    if container != "none" and (binary / "miniwdl").exists():
        backend = {"MINIWDL__SCHEDULER__CONTAINER_BACKEND": container, "MINIWDL__PODMAN__EXE": '["podman"]'}
        found["miniwdl run"] = ([str(binary / "miniwdl"), "run", "w.wdl", "-i", "in.json", "-d", "out/"], backend)
    if toil := shutil.which("toil-wdl-runner"):
        engine = "docker" if container == "podman" else container
        found["toil-wdl-runner"] = ([toil, "w.wdl", "in.json", "--container", engine], {})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--container", default="podman")
    parser.add_argument("--image", default="ubuntu:22.04", help="one that miniwdl can pull: it always does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "w.wdl").write_text(SOURCE.replace("IMAGE", options.image))
        for width in (1, options.width):
            (folder / "in.json").write_text(f'{{"w.width": {width}}}')
            for runner, (command, env) in runners(options.container).items():
                best = min(seconds(command, folder, env) for _ in range(options.times if width == 1 else 1))
                print(f"{width:4} echo  {runner:16} {best:7.2f} s", flush=True)


if __name__ == "__main__":
    main()
