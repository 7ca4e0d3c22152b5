"""Two leaders on one store: one leads, and who was replaced changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.fixtures import radosgw_server
from tests.servers.radosgw import RadosGateway
from tests.waiting import wait_for

__all__ = ["radosgw_server"]

SCRIPT = """
import sys, time, toilfn as toil
from pathlib import Path

@toil.task(retries=0)
def mark(i, folder):
    time.sleep(0.05)
    with Path(folder, str(i)).open("a") as file:
        file.write("x")
    return i

@toil.task
def total(values):
    return sum(values)

print(toil.compute(
    total([mark(i, sys.argv[2]) for i in range(int(sys.argv[3]))]),
    store=sys.argv[1], progress=False, workers=2, lease_timeout=float(sys.argv[4]),
))
"""


class Store:
    def __init__(self, folder: Path) -> None:
        self.path, self.marks, self.script = folder / "store", folder / "marks", folder / "script.py"
        self.url = str(self.path)
        self.marks.mkdir()
        self.script.write_text(SCRIPT)
        self.leaders: list[subprocess.Popen[str]] = []

    def lead(self, tasks: int = 100, lease: float = 30.0) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.script), self.url, str(self.marks), str(tasks), str(lease)]
        leader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.leaders.append(leader)
        return leader

    def count(self) -> int:
        return len(list(self.marks.iterdir()))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    for leader in store.leaders:
        if leader.poll() is None:
            os.kill(leader.pid, signal.SIGCONT)
            leader.kill()
        leader.communicate()


def test_a_second_leader_learns_which_one_leads(store: Store) -> None:
    first = store.lead()
    wait_for(lambda: store.count() > 3)
    os.kill(first.pid, signal.SIGSTOP)  # lest it is done before the other one has come so far
    second = store.lead()
    _, errors = second.communicate(timeout=120)
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert str(first.pid) in errors
    assert "StoreLockedError" in errors
    assert first.communicate(timeout=120)[0] == "4950\n"


def test_a_dead_leader_is_replaced_at_once(store: Store) -> None:
    first = store.lead()
    wait_for(lambda: store.count() > 10)
    first.kill()
    first.communicate()
    second = store.lead()
    assert second.communicate(timeout=120)[0] == "4950\n"


def test_a_suspended_leader_that_continues_stops_and_changes_nothing(store: Store) -> None:
    first = store.lead(lease=1.0)
    wait_for(lambda: store.count() > 10)
    os.kill(first.pid, signal.SIGSTOP)
    second = store.lead(lease=1.0)
    while second.poll() is None:
        time.sleep(0.1)
        if second.poll() == 1 and "StoreLockedError" in second.communicate()[1]:  # its lease has not run out yet
            second = store.lead(lease=1.0)
    assert second.communicate()[0] == "4950\n"
    before = snapshot(store.path)
    os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "FencedError" in errors
    assert snapshot(store.path) == before


def test_in_s3_a_second_leader_is_refused_and_a_dead_one_is_replaced(
    store: Store, radosgw_server: RadosGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"endpoint_url": radosgw_server.url, "create_bucket": True}
    monkeypatch.setenv("DASK_TOILFN__STORE_OPTIONS", json.dumps(options))
    store.url = f"s3://leaders/{uuid.uuid4().hex}"
    first = store.lead()
    wait_for(lambda: store.count() > 3)
    os.kill(first.pid, signal.SIGSTOP)  # lest it is done before the other one has come so far
    second = store.lead()
    _, errors = second.communicate(timeout=120)
    assert (second.returncode, "StoreLockedError" in errors) == (1, True), errors
    first.kill()
    first.communicate()
    assert store.lead().communicate(timeout=120)[0] == "4950\n"


def snapshot(store: Path) -> dict[str, bytes]:
    """All that counts in a store: leases are advice, and a temporary file of a writer was never an object."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.parent.name != "leases" and not path.name.startswith(".tmp")
    }
