"""Programs of the machine in tasks: python discoverfiles.py PATH... (tutorial_discoverfiles)."""

import subprocess
import sys

import toilfn as toil


@toil.task(memory="100M", cores=1, disk="10M")
def discover_files(path: str) -> str:
    return subprocess.run(["ls", path], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(*toil.compute(*discover_files.map(sys.argv[1:]), discover_files(".")))
