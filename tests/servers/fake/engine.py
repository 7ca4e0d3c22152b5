"""The common part of the fake batch systems: a spool folder with jobs, and a process that runs each submission.

The folder is named by ``TOILFN_FAKE_SPOOL``. A file ``away`` in it makes every command behave as if the controller
were away; ``deaf`` makes one command do its work and lose its answer; ``stop`` ends all that runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SLOTS = 4
DELAY = 0.1
"""Seconds for which a job waits in the queue."""

Element = dict[str, Any]


class RefusedError(Exception):
    """The error of a command: its text on standard error, and its exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def spool() -> Path:
    """Return the folder of all jobs."""
    return Path(os.environ["TOILFN_FAKE_SPOOL"])


def submit(description: dict[str, Any]) -> int:
    """Keep a submission and start what runs it. Give its number.

    The description holds ``name``, ``command``, ``numbers`` (of its elements), ``index`` (a variable), ``memory``
    (bytes or None), ``walltime`` (seconds or None) and whatever else the system wants to show later. ``event_log`` is a
    file for texts of ``events`` about each element: running, status, signal, killed, memory, walltime.
    """
    number = 1
    while True:
        try:
            (spool() / str(number)).mkdir()
            break
        except FileExistsError:
            number += 1
    folder = spool() / str(number)
    for element in description["numbers"]:
        write(folder, element, {"state": "queued", "status": 0, "signal": 0, "reason": ""})
    (folder / "job.json").write_text(json.dumps(description | {"id": number, "submitted": time.time()}))
    runner = ["setsid", "--fork", sys.executable, "-S", __file__, str(folder)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(runner, check=True, **quiet)  # returns at once; who submits may end before the job does
    return number


def jobs() -> list[tuple[dict[str, Any], dict[int, Element]]]:
    """Return all submissions with their elements, oldest first."""
    found = []
    for path in sorted(spool().glob("*/job.json"), key=lambda path: int(path.parent.name)):
        job = json.loads(path.read_text())
        found.append((job, {n: json.loads((path.parent / f"{n}.json").read_text()) for n in job["numbers"]}))
    return found


def kill(number: int, element: int | None = None) -> bool:
    """End a submission or an element of it; False if it does not exist or has ended."""
    folder = spool() / str(number)
    if not folder.exists():
        return False
    numbers = json.loads((folder / "job.json").read_text())["numbers"]
    wanted = [n for n in numbers if element in (None, n) and read(folder, n)["state"] in ("queued", "running")]
    for n in wanted:
        (folder / f"{n}.kill").touch()
    return bool(wanted)


def read(folder: Path, element: int) -> Element:
    """Return the state of an element."""
    found: Element = json.loads((folder / f"{element}.json").read_text())
    return found


def write(folder: Path, element: int, state: Element) -> None:
    """Set the state of an element, whole or not at all."""
    part = folder / f"{element}.part"
    part.write_text(json.dumps(state))
    part.rename(folder / f"{element}.json")


def is_away() -> bool:
    """Return whether the controller pretends to be away."""
    return (spool() / "away").exists()


def loses_answer() -> bool:
    """Return whether this command's answer must get lost; only one answer does."""
    try:
        (spool() / "deaf").unlink()
    except FileNotFoundError:
        return False
    return True


class Runner:
    """Runs the elements of one submission."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = json.loads((folder / "job.json").read_text())
        self.queue = list(self.job["numbers"])
        self.running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}

    def run(self) -> None:
        time.sleep(DELAY)
        while self.queue or self.running:
            for number in [n for n in self.queue if (self.folder / f"{n}.kill").exists() or self.stopped()]:
                self.queue.remove(number)
                write(self.folder, number, {"state": "killed", "status": 0, "signal": 0, "reason": "queued"})
                self.note("killed", number)
            while self.queue and len(self.running) < SLOTS:
                self.start(self.queue.pop(0))
            for number in list(self.running):
                self.look(number)
            time.sleep(0.03)

    def stopped(self) -> bool:
        return not self.folder.exists() or (self.folder.parent / "stop").exists()

    def start(self, number: int) -> None:
        environment = os.environ | {self.job["index"]: str(number)}
        process = subprocess.Popen(self.job["command"], env=environment, start_new_session=True)
        self.running[number] = (process, time.monotonic())
        write(self.folder, number, {"state": "running", "status": 0, "signal": 0, "reason": ""})
        self.note("running", number)

    def look(self, number: int) -> None:
        process, begin = self.running[number]
        reason = self.reason(number, process, begin)
        if reason:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elif process.poll() is None:
            return
        status = process.returncode
        state = "killed" if reason == "killed" else "done"
        del self.running[number]
        if self.folder.exists():
            values = {"status": max(0, status), "signal": max(0, -status), "reason": reason}
            self.note(reason or ("signal" if status < 0 else "status"), number, abs(status))
            write(self.folder, number, {"state": state, **values})

    def note(self, what: str, number: int, value: int = 0) -> None:
        """Write an event into the log that the submission asked for, if any."""
        if "event_log" in self.job and what in self.job["events"]:
            with open(self.job["event_log"], "a") as log:
                log.write(self.job["events"][what].format(cluster=int(self.folder.name), number=number, value=value))

    def reason(self, number: int, process: subprocess.Popen[bytes], begin: float) -> str:
        if (self.folder / f"{number}.kill").exists() or self.stopped():
            return "killed"
        if self.job["memory"] and resident(process.pid) > self.job["memory"]:
            return "memory"
        if self.job["walltime"] and time.monotonic() - begin > self.job["walltime"]:
            return "walltime"
        return ""


def resident(session: int) -> int:
    """The memory of all processes of a session, in bytes."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).run()
