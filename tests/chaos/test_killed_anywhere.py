"""Leaders and workers are killed by SIGKILL at any moment; the run is resumed, and nothing is lost or repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.chaos.blobs import references
from toilfn.model import records
from toilfn.stores import open_store

PROGRAM = Path(__file__).with_name("program.py")
POINTS = ("objects.temporary", "objects.linked", "objects.replaced", "log.appending", "log.appended")
"""The steps of a commit; a leader is killed between every two of them."""

LEADERS = 26
"""How many leaders are killed in each of the two workflows."""


class Chaos:
    """One workflow, its store, and the process that kills its leaders."""

    points = POINTS
    first_hit = 1
    """The least number of times that a point is passed before the leader dies there."""
    seconds = 0.5, 1.6
    """The least and the greatest time for which a leader runs."""

    def __init__(self, folder: Path, shape: str, size: int, seed: int) -> None:
        self.store = folder / "store"
        self.marks = folder / "marks"
        self.rng = random.Random(seed)
        self.arguments = [str(self.store), shape, str(size), str(seed), str(self.marks)]
        self.killed = 0
        self.finished: dict[bytes, int] = {}

    def start(self, fault: str = "") -> subprocess.Popen[str]:
        """Start the program, or a resume of it; both continue the run."""
        resumable = self.exists() and bool(self.runs()) and self.rng.random() < 0.5
        command = ["-m", "toilfn", "resume", self.arguments[0]] if resumable else [str(PROGRAM), *self.arguments]
        environment = os.environ | self.variables() | {"TOILFN_FAULT": fault}
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def exists(self) -> bool:
        return (self.store / "store.json").exists()

    def variables(self) -> dict[str, str]:
        return {}

    def runs(self) -> list[records.Run]:
        return [record for record in self.log() if isinstance(record, records.Run)]

    def log(self) -> list[records.Record]:
        return [records.decode(bytes(data)) for _, data in open_store(str(self.store), create=False).log.read()]

    def kill_one(self) -> str | None:
        """Let a leader run for a while, and kill it; return its output if it finished first."""
        fault = f"{self.rng.choice(self.points)}:{self.rng.randrange(self.first_hit, 12)}" if self.killed % 2 else ""
        leader = self.start(fault)
        deadline = time.monotonic() + self.rng.uniform(*self.seconds)
        while leader.poll() is None and time.monotonic() < deadline:
            if self.rng.random() < 0.05:
                self.kill_worker(leader.pid)
            time.sleep(0.02)
        if leader.poll() is None:
            leader.kill()
        output, errors = leader.communicate()
        if leader.returncode == 0:
            return output.strip()
        assert leader.returncode == -signal.SIGKILL, errors
        self.killed += 1
        return None

    def kill_worker(self, leader: int) -> None:
        try:
            workers = psutil.Process(leader).children(recursive=True)  # and the fork server
            self.rng.choice(workers).kill()
        except (psutil.NoSuchProcess, IndexError):
            return

    def starts(self, task: bytes) -> int:
        path = self.marks / task.hex()
        return path.stat().st_size if path.exists() else 0

    def check(self) -> None:
        """Nothing was committed twice, and what was finished before has not been started again."""
        if not self.exists():
            return
        committed = Counter(record.id for record in self.log() if isinstance(record, records.Outcome))
        assert set(committed.values()) <= {1}
        assert self.finished.keys() <= committed.keys(), "a finished task was lost"
        again = [task.hex() for task, before in self.finished.items() if self.starts(task) != before]
        assert not again, f"finished tasks ran again: {again}"
        self.finished = {task: self.starts(task) for task in committed}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("shape", "size"), [("graph", 2000), ("sort", 20_000)])
def test_killed_anywhere_nothing_is_lost_or_repeated(tmp_path: Path, shape: str, size: int) -> None:
    undisturbed = Chaos(tmp_path / "calm", shape, size, seed=1)
    undisturbed.store.parent.mkdir()
    leader = undisturbed.start()
    expected, errors = leader.communicate()
    assert leader.returncode == 0, errors

    killed = 0
    for seed in range(2, 40):  # a run may end before it was killed often enough: then another one is killed
        chaos = Chaos(tmp_path / str(seed), shape, size, seed=1)
        chaos.rng = random.Random(seed)
        chaos.store.parent.mkdir()
        result = None
        while result is None:
            result = chaos.kill_one() if killed + chaos.killed < LEADERS else finish(chaos)
            chaos.check()
        assert result == expected.strip()
        assert_no_garbage(chaos)
        killed += chaos.killed
        if killed >= LEADERS:
            break
    assert killed >= LEADERS


def finish(chaos: Chaos) -> str:
    leader = chaos.start()
    output, errors = leader.communicate(timeout=300)
    assert leader.returncode == 0, errors
    return output.strip()


def assert_no_garbage(chaos: Chaos) -> None:
    """After a clean-up, every object of the store is one that its records refer to."""
    subprocess.run([sys.executable, "-m", "toilfn", "clean", "--garbage", str(chaos.store)], check=True)
    referred = {ref.name for record in chaos.log() for ref in references(record)}
    present = {str(path.relative_to(chaos.store)) for path in (chaos.store / "blobs").rglob("*") if path.is_file()}
    assert present <= referred
    outcomes = {name for record in chaos.log() if isinstance(record, records.Outcome) for name in record.deleted}
    assert referred - outcomes <= present, "a blob that is still needed was removed"
