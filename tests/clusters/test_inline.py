"""The inline cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.core.batches import gather, make
from toilfn.clusters.base import RunContext
from toilfn.clusters.local.inline import InlineCluster
from toilfn.stores import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", sync=False)


@pytest.fixture
def cluster(store: Store) -> Iterator[InlineCluster]:
    cluster = InlineCluster()
    cluster.open(RunContext(store.url, "test"))
    yield cluster
    cluster.close()


@toil.task
def process(text: str) -> int:
    print(text)
    return os.getpid()


@toil.task
def fail(value: Any) -> None:
    raise ValueError(value)


def test_tasks_run_here_and_print_here(cluster: InlineCluster, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    made = make(store, process("hello"), fail("no"))
    cluster.submit([made.batch])
    answered = gather(cluster)
    assert answered.value(made.ids[0], store) == os.getpid()
    assert answered.failures[made.ids[1]].message == "ValueError: no"
    assert capfd.readouterr().out == "hello\n"


def test_waiting_jobs_can_be_killed(cluster: InlineCluster, store: Store) -> None:
    first, second = make(store, process("first")), make(store, process("second"))
    jobs = cluster.submit([first.batch, second.batch])
    cluster.kill([jobs[0], *jobs[:1]])
    answered = gather(cluster, 2)
    assert set(answered.outcomes) == set(second.ids)
    assert [update.detail for update in answered.ends] == ["killed on request", ""]


def test_one_batch_runs_at_a_time_on_the_whole_machine(cluster: InlineCluster) -> None:
    capacity = cluster.capacity()
    assert capacity.batches == 1
    assert capacity.total == capacity.largest
    assert capacity.total is not None
    assert capacity.total.cores > 0


def test_it_may_be_closed_twice_and_opened_again(store: Store) -> None:
    cluster = InlineCluster()
    for _ in range(2):
        cluster.open(RunContext(store.url, "test"))
        assert cluster.capacity().batches == 1
        cluster.close()
    cluster.close()
    assert toil.compute(surroundings(), cluster=cluster, progress=False, set_env={"GREETING": "again"})[0] == "again"


@toil.task
def surroundings() -> tuple[str, str]:
    return os.environ["GREETING"], str(toil.current().temp_dir.parent)


def test_settings_of_the_worker_environment_apply_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "before")
    settings: dict[str, Any] = {"set_env": {"GREETING": "hello"}, "work_dir": str(tmp_path / "work"), "clean": "always"}
    greeting, place = toil.compute(surroundings(), cluster="inline", progress=False, **settings)
    assert greeting == "hello"
    assert place.startswith(str(tmp_path / "work"))
    assert os.environ["GREETING"] == "before"
    assert "TOILFN_WORK_DIR" not in os.environ
