"""Run pytest on a machine that other processes keep busy: `python -m tests.loaded -- -n 4`.

Processes that only calculate are started and ended so that the load average of the last minute stays at the one that
was asked for; it counts the tests, too. It goes to standard error each minute, its mean and range at the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

HOG = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
"""It ends by itself when the process that started it has ended, in whatever way."""
STEP = 15.0
"""Seconds between two looks at the load average, which follows slowly."""


class Hogs:
    """Processes that keep the load average at a number; they end with the block."""

    def __init__(self, load: float, nice: int) -> None:
        self.load = load
        self.nice = nice
        self.processes: list[subprocess.Popen[bytes]] = []
        self.seen: list[float] = []

    def __enter__(self) -> Hogs:
        for _ in range(max(0, round(self.load - os.getloadavg()[0]))):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        while self.processes:
            self._end()

    def adapt(self) -> None:
        """Start or end one process, where the load average is more than one away from what was asked for."""
        now = os.getloadavg()[0]
        self.seen.append(now)
        if now < self.load - 1:
            self._start()
        elif now > self.load + 1 and self.processes:
            self._end()

    def _start(self) -> None:
        # Not preexec_fn: os.nice here would change this process.
        command = ["nice", "-n", str(self.nice), sys.executable, "-S", "-c", HOG]
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def _end(self) -> None:
        process = self.processes.pop()
        process.kill()
        process.wait()


def run(load: float, nice: int, arguments: list[str]) -> int:
    """Run pytest beside the processes, and return its exit status."""
    with Hogs(load, nice) as hogs, subprocess.Popen([sys.executable, "-m", "pytest", *arguments]) as tests:
        began = told = time.monotonic()
        while True:
            try:
                status = tests.wait(STEP)
                break
            except subprocess.TimeoutExpired:
                hogs.adapt()
            if time.monotonic() - told >= 60:
                told = time.monotonic()
                beside = f"{len(hogs.processes)} processes beside the tests"
                _tell(f"minute {(told - began) / 60:.0f}: load {hogs.seen[-1]:.1f}, {beside}")
    if hogs.seen:
        mean = statistics.fmean(hogs.seen)
        _tell(f"load {mean:.1f} on average, from {min(hogs.seen):.1f} to {max(hogs.seen):.1f}")
    return status


def _tell(words: str) -> None:
    print(f"loaded: {time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Read the arguments, and end as pytest did."""
    parser = argparse.ArgumentParser(prog="python -m tests.loaded", description=__doc__, allow_abbrev=False)
    parser.add_argument("--load", type=float, default=20.0, help="the load average to keep (default: %(default)g)")
    parser.add_argument("--nice", type=int, default=0, help="the niceness of the processes (default: %(default)s)")
    parser.add_argument("arguments", nargs="*", help="what pytest gets, after --")
    options = parser.parse_args()
    sys.exit(run(options.load, options.nice, options.arguments))


if __name__ == "__main__":
    main()
