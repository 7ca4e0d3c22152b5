"""Jobs of a leader that died: `toilfn kill` and `toilfn clean` leave none behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.story import epoch, run, tell
from tests.servers.fake.systems import system
from toilfn.cli import main
from toilfn.clusters.base import Batch, Cluster, RunContext
from toilfn.clusters.resume import make_again
from toilfn.leader.cluster_context import jobs_name
from toilfn.resources import Resources
from toilfn.stores import open_store
from toilfn.stores.store import Store

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)


@pytest.fixture
def torque() -> Iterator[Path]:
    yield from system("torque")


@pytest.fixture
def forsaken(torque: Path, tmp_path: Path) -> Iterator[tuple[Store, Callable[[], Cluster]]]:
    """A store whose leader has died, with jobs in a batch system; and what makes a cluster that can list them."""
    address = {"log_directory": str(tmp_path / "logs")}
    ran = run("a")
    settings = {**ran.settings, "cluster": "torque", "cluster_address": address}
    store = tell(tmp_path / "store", epoch(), ran._replace(settings=settings))
    clusters = []

    def make() -> Cluster:
        clusters.append(make_again("torque", {**address, "worker_command": ("sh", "-c", "sleep 300")}))
        clusters[-1].open(RunContext(store.url, jobs_name(store)))
        return clusters[-1]

    jobs = make().submit([Batch(f"1-{n}", "", SHAPE) for n in range(3)])
    assert make().list(jobs_name(store)).keys() == set(jobs)
    yield store, make
    for cluster in clusters:
        cluster.close()


def test_kill_ends_the_jobs_of_a_dead_leader(
    forsaken: tuple[Store, Callable[[], Cluster]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, make = forsaken
    assert main(["kill", store.url]) == 0
    assert capsys.readouterr().out == f"cancelled 3 jobs of {store.url}\n"
    assert make().list(jobs_name(store)) == {}
    assert main(["kill", store.url]) == 0
    assert capsys.readouterr().out == f"nothing is running in {store.url}\n"


def test_clean_ends_the_jobs_of_a_dead_leader(forsaken: tuple[Store, Callable[[], Cluster]]) -> None:
    store, make = forsaken
    assert main(["clean", "--yes", store.url]) == 0
    assert make().list(jobs_name(store)) == {}


def test_a_store_stays_while_its_jobs_cannot_be_ended(
    forsaken: tuple[Store, Callable[[], Cluster]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, _ = forsaken
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        for command in (["kill"], ["clean", "--yes"]):
            assert main([*command, store.url]) == 1
            error = capsys.readouterr().err
            assert f"jobs of {store.url} may still run on the cluster 'torque'" in error
            assert jobs_name(store) in error
        open_store(store.url, create=False)
        assert main(["clean", "--yes", "--leave-jobs", store.url]) == 0
