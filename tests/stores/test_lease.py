"""The lease between real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.waiting import wait_for
from toilfn.errors import CorruptObjectError, StoreLockedError
from toilfn.stores import open_store
from toilfn.stores.lease import Lease, Watch, holder, living

LEADER = """
import sys
import threading
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


def try_acquire(store, timeout):
    try:
        return Lease.acquire(store, timeout=timeout)
    except StoreLockedError:
        return None


def test_a_living_leader_is_named(store, start):
    process = start(60)
    with pytest.raises(StoreLockedError, match=rf"process {process.pid} on .* since .* wait until it finishes"):
        Lease.acquire(store)


def test_a_living_leader_is_not_replaced_when_the_machines_clock_is_set(store, start, monkeypatch):
    start(60)
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + 7200)  # the system reckons back from now
    with pytest.raises(StoreLockedError, match="is in use by process"):
        Lease.acquire(store)


def test_a_killed_leader_is_replaced_at_once(store, start):
    process = start(1000)
    process.kill()
    process.wait()
    with Lease.acquire(store) as lease:
        assert lease.epoch == 2


def test_a_process_with_a_reused_process_id_is_another_process(store):
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
    assert "another leader has taken over" in told
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


def test_a_failing_heartbeat_is_reported(store, caplog, monkeypatch):
    lease = Lease.acquire(store, timeout=1000)
    monkeypatch.setattr(os, "write", lambda *args: os.stat("/nowhere"))
    lease.release()
    assert "could not renew the lease" in caplog.text


def test_a_damaged_lease_is_reported(store):
    store.objects.put("leases/0000000000000001", b"{")
    with pytest.raises(CorruptObjectError, match="leases/0000000000000001 is damaged"):
        Lease.acquire(store)


def forge(store, number=1, name=None, **fields):
    """Write a lease of a leader on another host; it is never renewed."""
    now = time.time()
    held = {
        "epoch": number, "host": "far-away", "pid": 1, "machine": "far-away x y", "started": now, "acquired": now,
        "heartbeat": now, "timeout": 1.0, "released": False,
    }  # fmt: skip
    store.objects.put(name or f"leases/{number:016d}", json.dumps(held | fields).encode())
    return held | fields


@pytest.mark.parametrize("skew", [-86400, -60, 60, 86400])
def test_a_dead_leader_is_replaced_whatever_its_clock_said(store, skew):
    forge(store, heartbeat=time.time() + skew)
    began = time.monotonic()
    with Lease.acquire(store, timeout=1.0) as lease:
        assert lease.epoch == 2
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("skew", [-86400, -60, 60, 86400])
def test_a_living_leader_is_not_replaced_whatever_its_clock_says(store, skew):
    done = threading.Event()

    def beat():
        while not done.wait(0.1):
            forge(store, heartbeat=time.time() + skew, timeout=20.0)

    forge(store, heartbeat=time.time() + skew, timeout=20.0)
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(StoreLockedError, match=r"process 1 on far-away .*last heartbeat a moment ago"):
            Lease.acquire(store, timeout=20.0)
        assert living(store).host == "far-away"
    finally:
        done.set()
        beating.join()


def test_a_process_that_tries_again_and_again_counts_from_its_first_look(store):
    forge(store, heartbeat=time.time() + 1.9, timeout=2.0)  # fresh for nearly four seconds, by the clocks
    first = time.monotonic()
    lease = wait_for(lambda: try_acquire(store, 2.0))
    assert lease.epoch == 2
    assert time.monotonic() - first >= 2.0
    lease.release()


def test_observations_of_one_lease_do_not_apply_to_the_next_one(store):
    forge(store, heartbeat=time.time() + 3600, timeout=1.0)
    watch = Watch(store, 1.0)
    assert watch.look() is not None
    forge(store, heartbeat=time.time() + 7200, timeout=1.0)
    assert watch.look() is not None
    assert watch.has_changed
    wait_for(lambda: watch.look() is None)


def test_a_copy_of_a_lease_under_another_number_is_reported(store):
    forge(store, 1, name="leases/0000000000000002")
    with pytest.raises(
        CorruptObjectError, match=r"leases/0000000000000002 is damaged: it is a copy of .* number 1; if no"
    ):
        Lease.acquire(store)


@pytest.mark.parametrize("name", ["leases/0000000000000001~", "leases/0000000000000002.bak", "leases/x", "leases/2"])
def test_other_files_beside_leases_are_not_read(store, name):
    store.objects.put(name, b"{")
    for epoch in (1, 2):
        with Lease.acquire(store) as lease:
            assert lease.epoch == epoch
    assert store.objects.exists(name)


@pytest.mark.parametrize("value", [None, "1", [], {}, True, -1, float("nan"), float("inf"), 1.5])
@pytest.mark.parametrize(
    "field", ["epoch", "host", "pid", "machine", "started", "acquired", "heartbeat", "timeout", "released"]
)
def test_fields_of_wrong_types_are_reported(store, field, value):
    if value == 1.5 and field in ("started", "acquired", "heartbeat", "timeout"):
        pytest.skip("is a time")
    if (isinstance(value, str) and field in ("host", "machine")) or (value is True and field == "released"):
        pytest.skip("is right")
    forge(store, **{field: value})
    with pytest.raises(CorruptObjectError, match=f"leases/0000000000000001 is damaged: {field} is"):
        Lease.acquire(store)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"3", b'"x"', b"{}", b"\xff\xfe", b'{"epoch": 1}', b"[" * 100_000]
)
def test_a_lease_that_is_not_a_lease_is_reported(store, content):
    store.objects.put("leases/0000000000000001", content)
    with pytest.raises(CorruptObjectError, match="leases/0000000000000001 is damaged"):
        Lease.acquire(store)
