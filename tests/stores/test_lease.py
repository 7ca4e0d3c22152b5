"""The lease between real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from toilfn.errors import CorruptObjectError, StoreLockedError
from toilfn.stores import open_store
from toilfn.stores.lease import Lease, holder

LEADER = """
import sys
from toilfn.errors import FencedError
from toilfn.stores import open_store
from toilfn.stores.lease import Lease

store = open_store(sys.argv[1])
lease = Lease.acquire(store, timeout=float(sys.argv[2]))
store.log.append([b"first"])
print("leads", flush=True)
sys.stdin.readline()
try:
    store.log.append([b"second"])
except FencedError as error:
    print("fenced:", error, flush=True)
lease.release()
print("lost" if lease.lost else "kept", flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def start(store):
    """Start another leader and wait until it leads."""
    started = []

    def start(timeout):
        command = [sys.executable, "-c", LEADER, store.url, str(timeout)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "leads\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, limit=30.0):
    deadline = time.monotonic() + limit
    while not (result := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return result


def try_acquire(store, timeout):
    try:
        return Lease.acquire(store, timeout=timeout)
    except StoreLockedError:
        return None


def test_a_living_leader_is_named(store, start):
    process = start(60)
    with pytest.raises(StoreLockedError, match=rf"process {process.pid} on .* since .* Wait for it or end it"):
        Lease.acquire(store)


def test_a_killed_leader_is_replaced_at_once(store, start):
    process = start(1000)
    process.kill()
    process.wait()
    with Lease.acquire(store) as lease:
        assert lease.epoch == 2


def test_a_process_id_used_again_is_another_process(store):
    lease = Lease.acquire(store, timeout=1000)
    held = holder(store)
    store.objects.put("leases/0000000000000001", json.dumps(held._replace(started=1.0)._asdict()).encode())
    Lease.acquire(store).release()
    lease.release()
    assert lease.lost


def test_a_process_id_of_another_machine_says_nothing(store):
    Lease.acquire(store).release()
    elsewhere = holder(store)._replace(machine="elsewhere", pid=2**22 + 1, released=False, heartbeat=time.time())
    store.objects.put("leases/0000000000000001", json.dumps(elsewhere._asdict()).encode())
    with pytest.raises(StoreLockedError):
        Lease.acquire(store)


def test_a_suspended_leader_is_replaced_and_fenced(store, start):
    timeout = 1.5
    process = start(timeout)
    os.kill(process.pid, signal.SIGSTOP)
    lease = wait_for(lambda: try_acquire(store, timeout))
    assert [record for _, record in store.log.read()] == [b"first"]
    store.log.append([b"mine"])
    os.kill(process.pid, signal.SIGCONT)
    told = process.communicate("go on\n", timeout=30)[0]
    assert "fenced: Another leader has taken over" in told
    assert f"process {os.getpid()} on" in told
    assert "epoch 2" in told
    assert told.endswith("lost\n")
    assert [record for _, record in open_store(store.url).log.read()] == [b"first", b"mine"]
    assert not lease.lost
    lease.release()


def test_heartbeats_keep_the_lease(store):
    with Lease.acquire(store, timeout=0.6):
        beats = {holder(store).heartbeat}
        wait_for(lambda: beats.add(holder(store).heartbeat) or len(beats) > 8)
        with pytest.raises(StoreLockedError):
            Lease.acquire(store, timeout=0.6)


def test_a_leader_sees_that_it_was_replaced(store):
    old = Lease.acquire(store, timeout=0.6, clock=lambda: 5.0)
    with Lease.acquire(store, timeout=0.6):
        wait_for(lambda: old.lost)
        old.release()
        assert holder(store).epoch == 2


def test_an_old_lease_is_deleted(store):
    for _ in range(3):
        Lease.acquire(store).release()
    assert list(store.objects.list("leases/")) == ["leases/0000000000000003"]


def test_a_failing_heartbeat_is_told(store, caplog, monkeypatch):
    lease = Lease.acquire(store, timeout=1000)
    monkeypatch.setattr(os, "write", lambda *args: os.stat("/nowhere"))
    lease.release()
    assert "could not be renewed" in caplog.text


def test_a_damaged_lease_is_told(store):
    store.objects.put("leases/0000000000000001", b"{")
    with pytest.raises(CorruptObjectError, match="leases/0000000000000001 is damaged"):
        Lease.acquire(store)
