"""DaskCluster on real schedulers and workers of dask.distributed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from distributed import Client, LocalCluster

import toilfn as toil
from tests.servers.dask import sockets_collected
from tests.servers.fixtures import slurm, slurm_server
from tests.servers.machine import alive, wait_for
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.dask import DaskCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

__all__ = ["slurm", "slurm_server"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def no_socket_stays():
    with sockets_collected():
        yield


@pytest.fixture(autouse=True)
def no_client_stays():
    """Each of our clients' threads has ended, however the test went."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "toilfn-dask"] == []


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
        cluster.open(RunContext(str(tmp_path), "wf", {}))
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


def test_cluster_objects_and_clients_are_accepted_too(dask_cluster, run):
    assert run(dask_cluster, "exit 0").cause is None
    with Client(dask_cluster, set_as_default=False) as client:
        assert run(client, "exit 0").cause is None
        assert client.status == "running"


def test_nodes_are_the_machines_of_workers(dask_cluster):
    cluster = DaskCluster(dask_cluster)
    cluster.open(RunContext("unused", "nodes"))
    try:
        assert cluster.nodes() == {"running": 1}
    finally:
        cluster.close()


@pytest.mark.parametrize(
    "shape",
    [Resources(cores=3), Resources(memory=2**33), Resources(accelerators=(Accelerator(2),))],
    ids=["cores", "memory", "accelerators"],
)
def test_resources_that_no_worker_has_are_an_error_and_not_an_endless_wait(dask_cluster, run, shape):
    with pytest.raises(ClusterError, match=r"no dask worker has .*; the workers have 2 threads"):
        run(dask_cluster, "exit 0", shape)


def test_accelerators_are_reserved(dask_cluster, run):
    assert run(dask_cluster, "exit 0", Resources(memory=2**27, accelerators=(Accelerator(1),))).cause is None


def test_a_missing_scheduler_says_what_to_do(run):
    with pytest.raises(ClusterError, match=r"DaskCluster\('tcp://host:8786'\)"):
        run(None, "exit 0")
    with pytest.raises(ClusterError, match="does not respond"):
        run("tcp://127.0.0.1:1", "exit 0", timeout=0.5)


def test_a_lost_scheduler_ends_its_jobs(tmp_path):
    """And the client does not stay to look for it."""
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as first:
        cluster = DaskCluster(first.scheduler_address, worker_command=("sh", "-c", "sleep 3"), timeout=5)
        cluster.open(RunContext(str(tmp_path), "wf", {}))
        cluster.submit([Batch("slow", "b", Resources(memory=2**20))])
    updates = ended(cluster)
    assert updates[0].cause is Cause.LOST
    begin = time.monotonic()
    cluster.close()
    assert time.monotonic() - begin < 5


def ended(cluster, limit=30):
    """Poll until a job has ended."""
    updates, end = [], time.monotonic() + limit
    while not updates:
        assert time.monotonic() < end
        updates = cluster.poll(1.0)
    return updates


def test_the_first_worker_may_be_one_that_cannot_run_what_waits(tmp_path):
    """Nobody could be asked when the job was submitted."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as place:
        cluster = DaskCluster(place, worker_command=("sh", "-c", "exit 0"))
        cluster.poll_interval = 0.1
        cluster.open(RunContext(str(tmp_path), "wf", {}))
        try:
            cluster.submit([Batch("gpu", "b", Resources(memory=2**20, accelerators=(Accelerator(1),)))])
            assert cluster.poll(0.2) == []
            place.scale(1)
            (update,) = ended(cluster)
        finally:
            cluster.close()
    assert update.cause is Cause.ERROR
    assert "no dask worker has" in update.detail


@toil.task(memory="100M", cores=0.1)
def patient(folder, number):
    """Wait until told to go on; leave a mark for each attempt."""
    with open(f"{folder}/mark-{number}", "a") as marks:
        marks.write("x")
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.05)
    return number


def wait_for_marks(folder, count):
    wait_for(lambda: len(list(folder.glob("mark-*"))) >= count, f"{count} marks")


def test_a_lost_worker_costs_its_tasks_one_attempt(tmp_path):
    """Dask starts the job again on a worker that is left, or the leader does."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as place:
        settings = {"store": tmp_path / "store", "cluster": toil.DaskCluster(place), "progress": False}
        run = toil.submit([patient(str(tmp_path), i) for i in range(4)], **settings)
        wait_for_marks(tmp_path, 4)
        os.kill(next(iter(place.workers.values())).pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert run.result() == [0, 1, 2, 3]


def test_jobs_and_what_they_started_die_with_their_worker(tmp_path):
    job = ["sh", "-c", "sleep 1000 & echo $$ > job; echo $! > child; wait"]
    script = f"from toilfn.clusters.dask import run_job; run_job('job', {job}, [], {{}})"
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    wait_for(lambda: alive(tmp_path / "child"), "the job")
    worker.kill()
    worker.wait()
    for name in ("job", "child"):
        wait_for(lambda name=name: not alive(tmp_path / name), f"the end of the {name}")


def test_a_job_whose_worker_dies_while_it_starts_it_never_begins(tmp_path):
    script = (
        "import os, signal; from toilfn.clusters import dask as jobs\n"
        "jobs._kill_with_this_process = lambda leash, group: os.kill(os.getpid(), signal.SIGKILL)\n"
        "jobs.run_job('job', ['sh', '-c', 'echo $$ > job; sleep 1000'], [], {})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    session = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]
    psutil.wait_procs(session, timeout=60)
    assert not (tmp_path / "job").exists()
    assert not any(process.is_running() for process in session)


def test_the_leader_polls_while_a_submission_takes_its_time(dask_cluster, tmp_path):
    """The second submission waits until the leader has heard of the end of the first one's job."""
    has_ended = threading.Event()

    class Slow(DaskCluster):
        count = 0

        def submit(self, batches):
            self.count += 1
            if self.count == 2:
                assert has_ended.wait(60)
            return super().submit(batches)

        def poll(self, timeout):
            updates = super().poll(timeout)
            if any(update.state is JobState.ENDED for update in updates):
                has_ended.set()
            return updates

    tasks = [patient.options(memory=f"{100 + n} MiB")(str(tmp_path), n) for n in range(2)]
    (tmp_path / "go").touch()
    assert toil.compute(*tasks, store=tmp_path / "store", cluster=Slow(dask_cluster.scheduler_address)) == (0, 1)


def test_a_shape_that_no_worker_has_fails_its_tasks_alone(dask_cluster, tmp_path):
    (tmp_path / "go").touch()
    possible, impossible = patient(str(tmp_path), 0), patient.options(memory="100 GiB")(str(tmp_path), 1)
    with pytest.raises(toil.FailedTasksError, match="no dask worker has"):
        toil.compute(
            possible, impossible, store=tmp_path / "store", cluster=DaskCluster(dask_cluster.scheduler_address)
        )
    assert [mark.name for mark in tmp_path.glob("mark-*")] == ["mark-0"]


def test_a_lost_scheduler_that_comes_back_costs_its_jobs_one_attempt(tmp_path):
    port = free_port()
    place = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0", scheduler_port=port)
    cluster = toil.DaskCluster(place.scheduler_address)
    run = toil.submit([patient(str(tmp_path), i) for i in range(2)], store=tmp_path / "store", cluster=cluster)
    wait_for_marks(tmp_path, 2)
    place.close()
    (tmp_path / "go").touch()
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0", scheduler_port=port):
        assert run.result() == [0, 1]
    assert {len(mark.read_text()) for mark in tmp_path.glob("mark-*")} <= {1, 2}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_pilot_jobs_of_dask_jobqueue_run_tasks(slurm, tmp_path):
    """The engine that people already have: dask's workers are Slurm's jobs, and ours run in them."""
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    shape = {"cores": 1, "processes": 1, "memory": "700MiB", "walltime": "00:10:00", "local_directory": str(tmp_path)}
    options = {"log_directory": str(tmp_path / "logs"), "scheduler_options": {"dashboard_address": ":0"}}
    with jobqueue.SLURMCluster(**shape, **options, interface="lo", job_extra_directives=["--no-requeue"]) as place:
        place.scale(jobs=2)
        run = toil.submit(
            [patient(str(tmp_path), i) for i in range(2)], store=tmp_path / "store", cluster=toil.DaskCluster(place)
        )
        wait_for_marks(tmp_path, 2)
        (tmp_path / "go").touch()
        assert run.result() == [0, 1]
