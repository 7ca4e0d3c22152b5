"""Services on a cluster that carries no messages: what they say and are told goes through the store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.servers.dask import dask_running
from tests.waiting import wait_for


def note(folder: str, line: str) -> None:
    with Path(folder, "story").open("a") as file:
        file.write(line + "\n")


def story(folder: Path) -> list[str]:
    return (folder / "story").read_text().split()


@toil.service(cores=0.1, memory="100M", check_interval=0.1)
def server(folder: str) -> Iterator[int]:
    note(folder, "up")
    yield os.getpid()
    note(folder, "down")


@toil.task(cores=0.1, memory="100M")
def client(folder: str, process: int, number: int) -> int:
    os.kill(process, 0)
    note(folder, "client")
    return number


@toil.task(cores=0.1, memory="100M", retries=0)
def failing_client(folder: str, process: int) -> None:
    raise ValueError("the client is to blame")


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    with dask_running(n_workers=2, threads_per_worker=2) as cluster:
        yield cluster


@pytest.fixture
def run(dask_cluster: Any, tmp_path: Path) -> Any:
    def compute(*promises: Any) -> Any:
        cluster = toil.DaskCluster(dask_cluster)
        return toil.compute(*promises, store=str(tmp_path / "store"), cluster=cluster, progress=False)

    return compute


def test_service_runs_around_its_clients(run: Any, tmp_path: Path) -> None:
    process = server(str(tmp_path))
    assert run(*[client(str(tmp_path), process, i) for i in range(3)]) == (0, 1, 2)
    assert story(tmp_path) == ["up", "client", "client", "client", "down"]
    assert list((tmp_path / "store/flags").glob("stop-*")) == []


def test_service_stops_when_its_client_fails(run: Any, tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match="the client is to blame"):
        run(failing_client(str(tmp_path), server(str(tmp_path))))
    assert story(tmp_path) == ["up", "down"]


LEADER = """
import os, sys, time
from pathlib import Path
import toilfn as toil

@toil.service(cores=0.1, memory="100M", check_interval=0.1)
def server(folder):
    Path(folder, "up").touch()
    yield os.getpid()
    Path(folder, "down").touch()

@toil.task(cores=0.1, memory="100M")
def client(folder, process):
    Path(folder, "client").touch()
    while not Path(folder, "down").exists():
        time.sleep(0.1)

cluster = toil.DaskCluster(sys.argv[2])
toil.compute(client(sys.argv[1], server(sys.argv[1])), store=sys.argv[1] + "/store", cluster=cluster)
"""


def test_service_whose_leader_is_dead_stops_by_itself(dask_cluster: Any, tmp_path: Path) -> None:
    script = tmp_path / "leader.py"
    script.write_text(LEADER)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path), dask_cluster.scheduler_address]) as leader:
        wait_for((tmp_path / "client").exists)
        leader.kill()
    wait_for((tmp_path / "down").exists)
