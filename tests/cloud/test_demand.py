"""The needs of a run now and soon, by its log, which is read piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from toilfn.cloud.ahead import start_ahead
from toilfn.cloud.demand import RunDemand
from toilfn.cloud.scaler import Demand
from toilfn.errors import InputError
from toilfn.model.records import (
    BlobRef,
    End,
    Epoch,
    Failure,
    Function,
    Outcome,
    Record,
    Run,
    Started,
    Stats,
    TaskRecord,
    encode,
)
from toilfn.resources import Resources
from toilfn.stores import Store, open_store
from toilfn.stores.lease import Lease

pytestmark = pytest.mark.quick

GIB = 2**30
NOW = 10_000.0
OPTIONS = {"load": {"cores": 1}, "sum up": {"cores": 4}, "serve": {"cores": 1, "check_interval": 1.0}}


def id_of(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def function(name: str) -> Function:
    return Function(id_of(name), name, {"memory": GIB, "disk": GIB, **OPTIONS[name]}, BlobRef("f", 1, bytes(16)), {})


def task(name: str, kind: str = "load", *needs: str, parent: str | None = None) -> TaskRecord:
    own = id_of(parent) if parent else None
    return TaskRecord(id_of(name), id_of(kind), b"", tuple(map(id_of, needs)), (), {}, own, {})


def began(*roots: str, number: int = 1) -> list[Record]:
    ids = tuple(map(id_of, roots))
    return [Epoch(number, "leader", 1, NOW), Run(number, "script.py", b"", ids, {}, None, NOW)]


def started(name: str, job: str = "7", time: float = NOW) -> Started:
    return Started((id_of(name),), job, time)


def done(name: str, wall: float, *children: TaskRecord) -> Outcome:
    refs = tuple(child.id for child in children)
    stats = Stats(NOW, wall, 0.0, 0, "host", 1)
    return Outcome(id_of(name), 1, b"", refs, children, (), (), (), b"", stats)


def one(cores: float, seconds: float, count: int = 1) -> Demand:
    return Demand(Resources(cores, GIB, GIB), count, seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a leader that is alive."""
    store = open_store(tmp_path / "store", sync=False)
    with Lease.acquire(store):
        write(store, *map(function, OPTIONS))
        yield store


def write(store: Store, *records: Record) -> None:
    store.log.append([encode(record) for record in records])


def looked(run: RunDemand, now: float = NOW) -> list[Demand]:
    run.update()
    return run.soon(now)


def test_tasks_that_wait_for_nothing_are_needed_now(store):
    run = RunDemand(store, 300)
    write(store, *began("a", "b"), task("a"), task("b"), task("c", "sum up", "a"))
    assert looked(run) == [one(1, 300, count=2)]


def test_a_waiting_task_counts_once_its_inputs_have_taken_their_usual_time(store):
    run = RunDemand(store, 300)
    write(store, *began("z"), task("a"), task("b"), task("z", "sum up", "a", "b"), started("a"), started("b"))
    assert looked(run, NOW + 500) == []  # how long these tasks take is unknown
    write(store, task("c"), started("c"), done("c", 1000))
    assert looked(run, NOW + 600) == []
    assert looked(run, NOW + 701) == [one(4, 300)]
    write(store, done("a", 800))  # the mean falls
    assert looked(run, NOW + 601) == [one(4, 300)]


def test_the_tasks_that_a_task_created_must_be_complete_as_well(store):
    run = RunDemand(store, 300)
    write(store, *began("z"), task("a"), task("z", "sum up", "a"), started("a"))
    write(store, done("a", 10, task("child", parent="a")))
    assert looked(run) == [one(1, 10)]  # the child alone
    write(store, started("child", time=NOW))
    assert looked(run) == [one(4, 300)]


def test_tasks_of_earlier_runs_and_tasks_that_wait_for_failed_ones_are_not_needed(store):
    run = RunDemand(store, 300)
    write(store, *began("old"), task("old"), *began("z", number=2), task("a"), task("z", "sum up", "a"))
    stats = Stats(NOW, 1.0, 0.0, 0, "host", 1)
    write(store, started("a"), Failure(id_of("a"), 1, "error", "ValueError", "", b"", stats, True))
    assert looked(run) == []


def test_defaults_of_the_newest_run_count_also_for_tasks_that_were_recorded_before(store):
    run = RunDemand(store, 300)
    bare = Function(id_of("bare"), "bare", {"disk": GIB}, BlobRef("f", 1, bytes(16)), {})
    first, second = (
        Run(number, "script.py", b"", (id_of("a"),), {"default_memory": number * GIB, "default_cores": 1}, None, NOW)
        for number in (1, 2)
    )
    write(store, bare, first, task("a", "bare"))
    assert looked(run) == [Demand(Resources(1, GIB, GIB), 1, 300)]
    write(store, second)
    assert looked(run) == [Demand(Resources(1, 2 * GIB, GIB), 1, 300)]


def test_the_size_of_the_cluster_is_known_from_its_jobs_and_services_have_no_end(store):
    run = RunDemand(store, 300)
    write(store, *began("a", "b"), *(task(name) for name in "abc"), task("s", "serve", "a"))
    write(store, Started((id_of("a"), id_of("b")), "7", NOW), started("c", "8"), done("c", 20))
    run.update()
    load = Resources(1, GIB, GIB)
    assert run.jobs() == {"7": [(load, 20.0)] * 2}
    write(store, done("a", 20), *began("s", number=2), started("s", "9"))
    run.update()
    assert run.jobs() == {"9": [(load, math.inf)]}


def test_a_look_reads_only_what_is_new(store, monkeypatch):
    run = RunDemand(store, 300)
    write(store, *began(*(f"t{i}" for i in range(100))), *(task(f"t{i}") for i in range(100)))
    assert looked(run) == [one(1, 300, count=100)]
    sizes: list[int] = []
    segments = store.log.segments

    def noted(since: int = 0):
        found = list(segments(since))
        sizes.extend(len(segment.data) for segment in found)
        return found

    monkeypatch.setattr(store.log, "segments", noted)
    looked(run)
    assert sizes == []
    write(store, started("t0"))
    assert looked(run) == [one(1, 300, count=99)]
    assert len(sizes) == 1
    assert sizes[0] < 1000


def test_nothing_is_needed_while_no_leader_is_alive(tmp_path):
    """A leader that was killed leaves tasks that seem to run, and those that wait for them would be due for ever."""
    store = open_store(tmp_path / "store", sync=False)
    write(store, function("load"), *began("a"), task("a"))
    run = RunDemand(store, 300)
    assert looked(run) == []
    assert not run.has_ended
    with Lease.acquire(store):
        assert looked(run) == [one(1, 300)]


@pytest.mark.parametrize("end", [End(1, "failed", NOW), done("a", 1)])
def test_a_run_has_ended_when_it_says_so_or_when_nothing_is_left(store, end):
    run = RunDemand(store, 300)
    write(store, *began("a"), task("a"), started("a"))
    run.update()
    assert not run.has_ended
    write(store, end)
    run.update()
    assert run.has_ended


def test_a_store_without_a_run_is_refused(store):
    with pytest.raises(InputError, match="no run has begun in this store"):
        start_ahead(RunDemand(store, 300), 300, 300, NOW)
