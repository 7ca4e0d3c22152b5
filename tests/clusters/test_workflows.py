"""Whole workflows on batch systems: leader, store, jobs, workers."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from tests.clusters.leaders import counts, events, failures, result, start, wait_for_marks
from tests.servers.dask import dask_running
from tests.servers.fake.systems import system
from tests.servers.fixtures import alone, gridengine, gridengine_server, slurm, slurm_server
from toilfn.cli import main
from toilfn.clusters import cluster_class
from toilfn.clusters.base import RunContext
from toilfn.leader.cluster_context import jobs_name
from toilfn.stores import open_store

__all__ = ["alone", "gridengine", "gridengine_server", "slurm", "slurm_server", "start"]

FAKES = ["lsf", "torque", "pbs", "htcondor", "parasol"]


def sorts(start, name, **settings):
    leader, marks = start(name, "sort", 6, **settings)
    assert result(leader) == "[0, 1, 2, 3, 4, 5]"
    return counts(marks)


def test_merge_sort_on_slurm(slurm, start):
    assert sorts(start, "slurm") == {"sort": 7, "merge": 3}


def test_merge_sort_on_grid_engine(gridengine, start):
    assert sorts(start, "gridengine") == {"sort": 7, "merge": 3}


@pytest.mark.parametrize("name", FAKES)
def test_merge_sort_on_fakes(name, start):
    for _ in system(name):
        assert sorts(start, name) == {"sort": 7, "merge": 3}


def test_a_warning_of_a_task_reaches_the_leader_through_the_store_while_the_task_runs(start):
    for _ in system("torque"):
        leader, marks = start("torque", "anxious", progress=False)
        assert "anxious: WARNING: nearly full\n" in iter(leader.stderr.readline, "")
        (marks / "go").touch()
        assert result(leader) == "done"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_merge_sort_on_dask(start):
    with dask_running(n_workers=2, processes=False, protocol="tcp://") as place:
        assert sorts(start, "dask", cluster={"cluster": place.scheduler_address}) == {"sort": 7, "merge": 3}


def adopts(start, name, count, **settings):
    """Kill a leader while its jobs run and wait; no task runs twice, none is lost."""
    first, marks = start(name, "slow", count, **settings)
    wait_for_marks(first, marks, 5)
    first.kill()
    first.communicate()
    second, _ = start(name, "slow", count, lease_timeout=5, **settings)
    assert result(second) == str(sum(range(count)))
    assert counts(marks) == {f"slow-{i}": 1 for i in range(count)}


def test_a_killed_leaders_jobs_are_adopted_on_slurm(slurm, start):
    adopts(start, "slurm", 50)


@pytest.mark.slow
def test_a_killed_leaders_jobs_are_adopted_on_grid_engine(gridengine, start):
    adopts(start, "gridengine", 50)


def test_a_killed_leaders_jobs_are_ended_by_kill(slurm, start, tmp_path):
    """Those that run and those that wait in the queue; and no other starts later."""
    leader, marks = start("slurm", "slow", 20)
    wait_for_marks(leader, marks, 3)
    leader.kill()
    leader.communicate()
    store = open_store(str(tmp_path / "store"))
    cluster = cluster_class("slurm")()
    cluster.open(RunContext(store.url, jobs_name(store)))
    with closing(cluster):
        assert len(cluster.list(jobs_name(store))) > 3
        assert main(["kill", store.url]) == 0
        assert cluster.list(jobs_name(store)) == {}
    assert len(counts(marks)) < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", FAKES)
def test_a_killed_leaders_jobs_are_adopted_on_fakes(name, start):
    for _ in system(name):
        adopts(start, name, 12)


@pytest.mark.slow
def test_a_controller_that_is_away_for_half_a_minute_costs_nothing(alone, slurm, start):
    """What runs goes on, what is new waits; no task runs twice."""
    leader, marks = start("slurm", "slow", 30)
    wait_for_marks(leader, marks, 5)
    slurm.stop_controller()
    try:
        time.sleep(30)
    finally:
        slurm.start_controller()
    assert result(leader) == str(sum(range(30)))
    assert counts(marks) == {f"slow-{i}": 1 for i in range(30)}
    assert failures(marks) == []
    away, back = [event["message"] for event in events(marks) if event["event"] == "outage"][:2]
    assert "contact" in away
    assert back == ""


def test_a_chain_is_quick(slurm, start):
    leader, _ = start("slurm", "chain", 20)
    assert result(leader, 60) == "0"


@pytest.mark.slow
def test_ten_thousand_tasks_on_slurm(slurm, start, tmp_path, monkeypatch):
    """Within three minutes, with few submissions and one query an interval."""
    log = tmp_path / "calls"
    for command in ("sbatch", "squeue"):
        counting = tmp_path / "bin" / command
        counting.parent.mkdir(exist_ok=True)
        counting.write_text(f'#!/bin/sh\necho {command} >> {log}\nexec /usr/bin/{command} "$@"\n')
        counting.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    begin = time.monotonic()
    leader, _ = start("slurm", "noop", 10_000, cluster={"poll_interval": 1}, bundle="10s")
    assert result(leader, 180) == str(sum(range(10_000)))
    calls = log.read_text().split()
    assert calls.count("sbatch") <= 8  # probes, bundles, the sum; 40 would do
    assert calls.count("squeue") <= time.monotonic() - begin + 3
