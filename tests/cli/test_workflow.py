"""The commands on a real workflow, as a person would give them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
import toilfn as toil

@toil.task
def numbers(n):
    print("counting to", n)
    return list(range(n))

@toil.task
def square(number, gate):
    deadline = time.monotonic() + 300
    while number and not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return number * number

@toil.task
def add(squares):
    return {"sum": sum(squares)}

@toil.task
def spread(numbers, gate):
    return add(square.map(numbers, [gate] * len(numbers)))

@toil.task(retries=0)
def fail(number):
    raise ValueError(f"no {number}")

if __name__ == "__main__":
    if sys.argv[1] == "fail":
        toil.compute(fail(3))
    print("result", toil.compute(spread(numbers(4), sys.argv[1])))
"""


class Shell:
    """Runs `toilfn` in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TOILFN_")}
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "flow.py").write_text(SCRIPT)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "toilfn", *arguments], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End the processes that a failed test has left."""
        self.gate.touch()
        for process in self.processes:
            with process:
                process.kill()

    def __call__(self, *arguments: str, status: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, (out, err)
        return err if status else out

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "store", "--json"))
        return found

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if (self.folder / "store" / "store.json").exists() and condition(found := self.status()):
                return found
            time.sleep(0.1)
        raise AssertionError(f"it did not come to that: {self.status()}")


@pytest.fixture
def toilfn(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as shell:
        yield shell


def test_a_run_from_its_start_to_the_removal_of_its_store(toilfn: Shell) -> None:
    toilfn.gate.touch()
    assert toilfn("run", "flow.py", "--store", "store", "--", str(toilfn.gate)) == "result {'sum': 14}\n"
    assert toilfn.status()["state"] == "done"
    assert toilfn.status()["tasks"] == {"waiting": 0, "queued": 0, "running": 0, "done": 7, "failed": 0}
    assert toilfn("logs", "store", "numbers") == "counting to 4\n"
    assert toilfn("resume", "store") == "{'sum': 14}\n"
    assert toilfn("resume", "store", "--output", "value.pickle") == ""
    assert pickle.loads((toilfn.folder / "value.pickle").read_bytes()) == {"sum": 14}
    toilfn("clean", "--garbage", "store")
    assert json.loads(toilfn("resume", "store", "--json")) == {"sum": 14}
    toilfn("clean", "--yes", "store")
    assert not (toilfn.folder / "store").exists()


def test_a_run_is_watched_killed_and_resumed(toilfn: Shell) -> None:
    process = toilfn.start("run", "flow.py", "--store", "store", "--", str(toilfn.gate))
    found = toilfn.wait_until(lambda status: status["tasks"]["done"] >= 2 and bool(status["running"]))
    assert (found["state"], found["leader"]["pid"]) == ("running", process.pid)
    assert {task["name"] for task in found["running"]} == {"square"}
    assert "in use by process" in toilfn("clean", "--yes", "store", status=1)
    assert "toilfn resume" in toilfn("kill", "store")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (1, False)
    assert toilfn.status()["state"] == "killed"
    toilfn.gate.touch()
    assert json.loads(toilfn("resume", "store", "--json")) == {"sum": 14}
    assert toilfn.status()["tasks"]["done"] == 7


def test_an_interrupted_run_ends_the_jobs_that_it_started(toilfn: Shell) -> None:
    process = toilfn.start("run", "flow.py", "--store", "store", "--", str(toilfn.gate))
    toilfn.wait_until(lambda status: bool(status["running"]) and status["tasks"]["done"] >= 2)
    process.send_signal(signal.SIGINT)
    toilfn.gate.touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, "Traceback" in err) == (130, "", False)
    assert toilfn.status()["state"] == "interrupted"
    assert toilfn.status()["tasks"]["running"] == 0
    assert json.loads(toilfn("resume", "store", "--json")) == {"sum": 14}


def test_an_edit_is_explained(toilfn: Shell) -> None:
    toilfn.gate.touch()
    toilfn("run", "flow.py", "--store", "store", "--", str(toilfn.gate))
    (toilfn.folder / "flow.py").write_text(SCRIPT.replace('"sum"', '"total"'))
    assert toilfn("run", "flow.py", "--store", "store", "--", str(toilfn.gate)) == "result {'total': 14}\n"
    assert "was reused" in toilfn("explain", "store", "numbers")
    found = json.loads(toilfn("explain", "store", "add", "--json"))
    assert "was run at" in found["summary"]
    assert any("add" in reason for reason in found["reasons"])
    assert toilfn.status()["tasks"]["done"] == 7


def test_a_failure_is_reported_everywhere(toilfn: Shell) -> None:
    err = toilfn("run", "flow.py", "--store", "store", "--", "fail", status=1)
    assert "toilfn: 1 task failed" in err
    assert "no 3" in err
    found = toilfn.status()
    assert (found["state"], found["tasks"]["failed"]) == ("failed", 1)
    assert found["failed"][0]["error"] == "ValueError: no 3"
    assert "ValueError: no 3" in toilfn("logs", "store", "fail")
