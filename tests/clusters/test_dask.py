"""DaskCluster on real schedulers and workers of dask.distributed."""

from __future__ import annotations

import time

import pytest
from distributed import Client, LocalCluster

from toilfn.clusters.base import Batch, JobState, Session
from toilfn.clusters.daskcluster import DaskCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError
from toilfn.events import Cause
from toilfn.resources import Accelerator, Resources

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def dask_cluster():
    """Two workers of two threads in this process."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0", memory_limit="2GiB", protocol="tcp://",
        resources={"GPU": 1},
    ) as cluster:  # fmt: skip
        yield cluster


class TestDask(ClusterContract):
    settings = {}  # noqa: RUF012  # the contract declares it

    @pytest.fixture
    def make_cluster(self, dask_cluster):
        return lambda **settings: DaskCluster(dask_cluster.scheduler_address, **settings)


@pytest.fixture
def run(tmp_path):
    opened = []

    def run(place, script, shape=Resources(cores=1, memory=2**27), **settings):  # noqa: B008  # it is immutable
        cluster = DaskCluster(place, worker_command=("sh", "-c", script), **settings)
        cluster.open(Session(str(tmp_path), "wf", {}))
        opened.append(cluster)
        (job,) = cluster.submit([Batch("b", "b", shape)])
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for update in cluster.poll(1.0):
                if update.job == job and update.state is JobState.ENDED:
                    return update
        raise AssertionError("it did not end")

    yield run
    for cluster in opened:
        cluster.close()


def test_cluster_objects_and_clients_will_do_as_well(dask_cluster, run):
    assert run(dask_cluster, "exit 0").cause is None
    with Client(dask_cluster, set_as_default=False) as client:
        assert run(client, "exit 0").cause is None
        assert client.status == "running"


@pytest.mark.parametrize(
    "shape",
    [Resources(cores=3), Resources(memory=2**33), Resources(accelerators=(Accelerator(2),))],
    ids=["cores", "memory", "accelerators"],
)
def test_what_no_worker_has_is_an_error_and_not_an_endless_wait(dask_cluster, run, shape):
    with pytest.raises(ClusterError, match=r"no dask worker can give .*: there are workers with 2 threads"):
        run(dask_cluster, "exit 0", shape)


def test_accelerators_are_reserved(dask_cluster, run):
    assert run(dask_cluster, "exit 0", Resources(memory=2**27, accelerators=(Accelerator(1),))).cause is None


def test_a_missing_scheduler_says_what_to_do(run):
    with pytest.raises(ClusterError, match=r"DaskCluster\('tcp://host:8786'\)"):
        run(None, "exit 0")
    with pytest.raises(ClusterError, match="does not answer"):
        run("tcp://127.0.0.1:1", "exit 0", timeout=0.5)


def test_a_lost_scheduler_ends_its_jobs(tmp_path):
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as first:
        cluster = DaskCluster(first.scheduler_address, worker_command=("sh", "-c", "sleep 3"), timeout=5)
        cluster.open(Session(str(tmp_path), "wf", {}))
        cluster.submit([Batch("slow", "b", Resources(memory=2**20))])
    updates = []
    end = time.monotonic() + 30
    while not updates:
        assert time.monotonic() < end
        updates = cluster.poll(1.0)
    assert updates[0].cause is Cause.LOST
    cluster.close()
