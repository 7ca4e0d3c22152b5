"""A runner for cwltest whose leader is killed half-way, and whose run is then resumed.

Half-way is when the store's log has the outcome of one of the tasks, or more, and not yet the last. What is
printed is what `toilfn resume` gives. ``TOILFN_INTERRUPTED``, if set, names a file that gets a line for each run:
"killed" or "over".
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="cwl-interrupted-") as name:
        store = Path(name) / "store"
        first = [sys.executable, "-m", "toilfn.cwl", "--store", str(store), *arguments]
        begun = subprocess.Popen(first, stdout=subprocess.PIPE, text=True, start_new_session=True)
        killed = kill_half_way(begun, store, random.Random(" ".join(arguments)).randint(2, 5))
        printed, _ = begun.communicate()
        note("killed" if killed else "over")
        if not killed:
            print(printed, end="")
            return begun.returncode
        second = [sys.executable, "-m", "toilfn", "resume", str(store), "--json", "--no-progress"]
        done = subprocess.run(second, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            print(json.dumps(json.loads(done.stdout)))
        return done.returncode


def kill_half_way(process: subprocess.Popen[str], store: Path, segments: int) -> bool:
    """Kill a leader when its log has so many segments; False if it ended before."""
    while process.poll() is None:
        if len(list((store / "log").glob("0*"))) >= segments:
            os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.005)
    return False


def note(word: str) -> None:
    if place := os.environ.get("TOILFN_INTERRUPTED"):
        with open(place, "a") as stream:
            stream.write(f"{word}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
