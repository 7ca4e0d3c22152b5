"""Leaders of hosts whose clocks are hours apart, on one store: dead leaders are replaced, living ones are not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.clocks import WrongClock
from tests.servers.machine import wait_for

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, time, toilfn as toil
from pathlib import Path
from toilfn.stores import lease

host, store, marks, beat = sys.argv[1:]
lease._machine = lambda: host  # what its process ids say counts on that host only

@toil.task(retries=0, walltime="1h")
def mark(i, marks):
    with Path(marks, str(i)).open("a") as file:
        file.write("x")
    until = time.monotonic() + 60
    while not Path(marks, "go").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return i

@toil.task
def total(values):
    return sum(values)

print(time.time(), flush=True)
print(toil.compute(
    total([mark(i, marks) for i in range(10)]), store=store, progress=False, workers=2, lease_timeout=float(beat),
))
"""


class Hosts:
    """Leaders of hosts that share a store, and the marks of their tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        self.leaders: list[subprocess.Popen[str]] = []
        self.clocks: dict[str, WrongClock] = {}

    def lead(self, host: str, hours: float, beat: float) -> subprocess.Popen[str]:
        """Start a leader on a host whose clock is so many hours ahead."""
        self.clocks[host] = WrongClock(self.folder / f"clock-{host}", hours)
        words = [host, str(self.folder / "store"), str(self.marks), str(beat)]
        leader = subprocess.Popen(
            [sys.executable, str(self.folder / "script.py"), *words], env=self.clocks[host].environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.leaders.append(leader)
        assert leader.stdout is not None
        told = float(leader.stdout.readline() or "nan")
        assert abs(told - time.time() - hours * 3600) < 600  # the clock is as wrong as it should be
        return leader

    def has_begun(self) -> bool:
        """Whether a task runs."""
        return any(self.marks.iterdir())


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    yield hosts
    for leader in hosts.leaders:
        leader.kill()
        leader.communicate()


@pytest.mark.parametrize(("first", "second"), [(5, 0), (-5, 0), (-12, 12)])
def test_a_living_leader_is_not_replaced(hosts: Hosts, first: int, second: int) -> None:
    living = hosts.lead("one", first, beat=30)
    wait_for(hosts.has_begun, "the first task")
    other = hosts.lead("two", second, beat=30)
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 1, errors
    assert "StoreLockedError" in errors
    assert str(living.pid) in errors
    (hosts.marks / "go").touch()
    result, errors = living.communicate(timeout=120)
    assert result == "45\n", errors
    assert {path.read_text() for path in hosts.marks.iterdir() if path.name != "go"} == {"x"}


@pytest.mark.parametrize(("first", "second"), [(5, 0), (-5, 0), (-12, 12)])
def test_a_dead_leader_is_replaced(hosts: Hosts, first: int, second: int) -> None:
    dead = hosts.lead("one", first, beat=2)
    wait_for(hosts.has_begun, "the first task")
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    (hosts.marks / "go").touch()
    for _ in range(10):  # a clock that agrees with the dead one's heartbeat has it refused until the lease is over
        result, errors = hosts.lead("two", second, beat=2).communicate(timeout=120)
        if "StoreLockedError" not in errors:
            break
        time.sleep(1)
    assert result == "45\n", errors


def test_a_clock_that_is_set_while_a_leader_works_changes_nothing(hosts: Hosts) -> None:
    living = hosts.lead("one", 0, beat=30)
    wait_for(hosts.has_begun, "the first task")
    for hours in (9, -9):
        hosts.clocks["one"].set(hours)
        other = hosts.lead("two", 0, beat=30)
        _, errors = other.communicate(timeout=120)
        assert "StoreLockedError" in errors, errors
    (hosts.marks / "go").touch()
    result, errors = living.communicate(timeout=120)
    assert result == "45\n", errors  # no walltime was over either
    assert {path.read_text() for path in hosts.marks.iterdir() if path.name != "go"} == {"x"}
