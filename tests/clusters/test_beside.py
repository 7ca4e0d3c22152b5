"""Tasks with ``local=True`` run beside the leader, whatever the cluster."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import psutil
import pytest

import toilfn as toil
from tests.servers.fake.systems import system
from toilfn.clusters.local.beside import ProcessCluster
from toilfn.clusters.pbs import TorqueCluster
from toilfn.clusters.testing import ClusterContract
from toilfn.ids import Cause
from toilfn.resources import Resources

SMALL = {"memory": "400Mi", "disk": "1Mi"}


class TestProcesses(ClusterContract):
    @pytest.fixture
    def make_cluster(self) -> Any:
        return partial(ProcessCluster, 8)

    def test_one_after_the_other(self, new_cluster, context, folder):
        cluster = new_cluster()
        cluster._most = 1
        cluster.open(context)
        jobs = cluster.submit(self.batches("wait-1", "ok-2"))
        self.wait_started(cluster, folder, "wait-1")
        assert not (folder / "started ok-2").exists()
        cluster.kill(jobs[1:])
        ended = self.wait_ended(cluster, jobs[1:])
        assert ended[jobs[1]].cause is Cause.LOST
        (folder / "go").touch()
        assert self.wait_ended(cluster, jobs[:1])[jobs[0]].cause is None
        assert not (folder / "started ok-2").exists()

    def test_a_command_that_takes_too_long_is_ended(self, cluster):
        (job,) = cluster.submit(self.batches("sleep", resources=Resources(walltime=0.3)))
        assert self.wait_ended(cluster, [job])[job].cause is Cause.WALLTIME

    def test_the_output_of_a_killed_process_is_its_log(self, context):
        script = "echo it was here; kill -9 $$"
        cluster = ProcessCluster(1, worker_command=("sh", "-c", script))
        cluster.open(context)
        (job,) = cluster.submit(self.batches("ok"))
        update = self.wait_ended(cluster, [job])[job]
        assert update.cause is Cause.LOST
        assert update.log == b"it was here\n"
        assert update.detail == "the worker ended with signal 9; its output ends with: it was here"
        cluster.close()

    def test_an_attempt_that_took_too_long_says_how_long_it_had(self, context):
        cluster = ProcessCluster(1, worker_command=("sh", "-c", "echo it was here; exec sleep 60"))
        cluster.open(context)
        (job,) = cluster.submit(self.batches("ok", resources=Resources(walltime=1)))
        update = self.wait_ended(cluster, [job])[job]
        assert update.cause is Cause.WALLTIME
        assert update.log == b"it was here\n"
        assert update.detail.startswith("took longer than its walltime of 1s; ")
        cluster.close()

    def test_the_cause_of_an_end_in_the_middle_of_a_look_is_known(self, cluster, folder, monkeypatch):
        (job,) = cluster.submit(self.batches("sleep-1"))
        self.wait_started(cluster, folder, "sleep-1")
        process = cluster._running[job].process
        look = process.wait

        def end_after_a_look(timeout):
            try:
                return look(timeout=timeout)
            except psutil.TimeoutExpired:
                process.kill()
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                raise

        monkeypatch.setattr(process, "wait", end_after_a_look)
        assert "signal 9" in self.wait_ended(cluster, [job])[job].detail


@toil.task(**SMALL, local=True)
def parent_here():
    """The process that started this one's."""
    return os.getppid()


@toil.task(**SMALL)
def parent_there(_):
    return os.getppid()


@toil.task(**SMALL, local=True, retries=0)
def broken(_):
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture
def torque():
    yield from system("torque")


def test_local_tasks_are_processes_of_the_leader(torque, tmp_path):
    """The others are not; a limit of jobs on the cluster does not count them."""
    cluster = TorqueCluster(poll_interval=0.2)
    near, far = toil.compute(
        *((here := parent_here()), parent_there(here)), store=tmp_path / "store", cluster=cluster, max_jobs=1
    )
    assert near == os.getpid() != far


def test_the_death_of_a_local_task_is_reported(torque, tmp_path):
    with pytest.raises(toil.FailedTasksError, match="signal 11"):
        toil.compute(
            broken(parent_there(1)), store=tmp_path / "store", cluster=TorqueCluster(poll_interval=0.2), lost_retries=0
        )
