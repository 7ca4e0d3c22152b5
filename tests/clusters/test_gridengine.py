"""Grid Engine for real: how it ends jobs, and how it says so."""

from __future__ import annotations

import resource
import threading
import time

import pytest

import toilfn as toil
from tests.servers.fixtures import gridengine, gridengine_server
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.gridengine import GridEngineCluster, accounted, queue_state
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Accelerator, Resources

__all__ = ["gridengine", "gridengine_server"]

SHAPE = Resources(cores=1, memory=300 * 2**20, disk=2**20)


@pytest.fixture
def run(gridengine, tmp_path):
    """Run one job to its end; gives the update."""
    clusters = []

    def run(script, shape=SHAPE, before=None, **settings):
        (tmp_path / "job.sh").write_text(script)
        cluster = GridEngineCluster(poll_interval=0.3, worker_command=("sh", str(tmp_path / "job.sh")), **settings)
        cluster.open(RunContext(str(tmp_path), "wf", {}))
        clusters.append(cluster)
        (job,) = cluster.submit([Batch("b", "b", shape)])
        if before:
            before(job)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for update in cluster.poll(1.0):
                if update.state is JobState.ENDED:
                    return update
        raise AssertionError(cluster._live)

    yield run
    for cluster in clusters:
        cluster.close()


def test_the_walltime_is_named(run):
    assert run("sleep 60", Resources(cores=1, memory=2**28, walltime=2)).cause is Cause.WALLTIME


@toil.task(memory="50 MiB", disk="1 MiB")
def filled(size):
    """Take memory, with threads beside; give the limit of the address space."""
    ready = threading.Barrier(5)

    def take():
        kept = [bytes(100) for _ in range(1000)]
        ready.wait()
        return kept

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    data = bytearray(size)
    ready.wait()
    for thread in threads:
        thread.join()
    return len(data), resource.getrlimit(resource.RLIMIT_AS)[0]


def test_the_workers_own_memory_is_part_of_h_vmem(gridengine, tmp_path):
    """It limits the address space: the threads of a worker must leave the task's memory to the task."""
    cluster = GridEngineCluster(poll_interval=0.3)
    size = 45 * 2**20
    found = toil.compute(filled(size), store=tmp_path / "store", cluster=cluster, worker_memory="100 MiB")
    assert found == (size, 150 * 2**20)


def test_a_job_that_is_deleted_while_it_waits_is_lost(gridengine, run, monkeypatch):
    """There is no record of it anywhere."""
    monkeypatch.setattr(GridEngineCluster, "grace", 1.0)
    update = run("sleep 60", submit_args=["-h"], before=lambda job: gridengine.run("qdel", job))
    assert update.cause is Cause.LOST


def test_slots_and_accelerators_are_given(run, tmp_path):
    shape = Resources(2, 2**29, 2**20, (Accelerator(2),))
    assert run('echo $NSLOTS > "$1/slots"', shape).cause is None
    assert (tmp_path / "slots").read_text() == "2\n"


def test_a_job_in_the_error_state_ends_and_is_removed(gridengine, run):
    update = run("exit 0", submit_args=["-wd", "/nonexistent"])
    assert update.cause is Cause.LOST  # it never began
    assert "E" in update.detail


def test_refusals_contain_its_message_and_the_script(run):
    with pytest.raises(ClusterError, match=r'(?s)requests unknown queue "nosuch".*#\$ -q nosuch'):
        run("exit 0", queue="nosuch")
    with pytest.raises(ClusterError, match=r'(?s)parallel environment "nosuch" does not exist.*-pe nosuch 2'):
        run("exit 0", Resources(cores=2), parallel_environment="nosuch")


def record(**changes):
    """What qacct 8.1.9 shows, as far as it matters."""
    fields = {"hostname": "localhost", "failed": "0    ", "exit_status": "0       ", "ru_wallclock": "2s"}
    return fields | {"category": "-l h_rt=60,h_vmem=204800K"} | changes


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (record(), None),
        (record(exit_status="3"), Cause.ERROR),
        (record(failed="100 : assumedly after job", exit_status="137                  (Killed)"), Cause.LOST),
        (record(failed="100 : assumedly after job", exit_status="137", ru_wallclock="60s"), Cause.WALLTIME),
        (record(failed="37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", exit_status="137"), Cause.WALLTIME),
        (record(failed="25  : rescheduling"), Cause.PREEMPTED),
        (record(failed="26  : opening input/output file", exit_status="1"), Cause.LOST),
    ],
)
def test_qaccts_records_are_understood(fields, cause):
    assert accounted(fields).cause is cause


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", JobState.QUEUED), ("hqw", JobState.QUEUED), ("r", JobState.RUNNING), ("t", JobState.RUNNING),
        ("dr", JobState.RUNNING), ("Rq", JobState.QUEUED), ("Eqw", JobState.ENDED), ("S", JobState.RUNNING),
        ("", JobState.UNKNOWN),
    ],
)  # fmt: skip
def test_qstats_letters_are_understood(letters, state):
    assert queue_state(letters).state is state
