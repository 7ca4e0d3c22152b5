"""Run programs in tasks: python discoverfiles.py PATH... (tutorial_discoverfiles)."""

import subprocess
import sys
from pathlib import Path

import toilfn as toil


@toil.task(memory="100M", cores=1, disk="10M")
def discover_files(path: Path) -> str:
    return subprocess.run(["ls", path], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    # A task starts in a directory of its own. Paths that are passed to it become absolute; strings stay as they are.
    print(*toil.compute(*discover_files.map(map(Path, sys.argv[1:])), discover_files(Path("."))))
