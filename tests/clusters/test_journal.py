"""However a system ends a job: the run goes on or fails as it should, and the event journal names the cause."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from tests.clusters.leaders import counts, failures, own_jobs, result, start, wait_for_marks
from tests.servers.fake.systems import system
from tests.servers.fixtures import gridengine, gridengine_server, slurm, slurm_server
from tests.servers.machine import wait_for

__all__ = ["gridengine", "gridengine_server", "slurm", "slurm_server", "start"]

LIMITING = ["lsf", "torque", "pbs", "htcondor"]
"""Fakes of systems that limit memory and time."""


def fails(start, name, what, **settings):
    """Run what must fail for good; give the one failure in the journal."""
    leader, marks = start(name, what, lost_retries=0, **settings)
    _, errors = leader.communicate(timeout=180)
    assert leader.returncode != 0
    (failure,) = failures(marks)
    assert failure[0] == what
    assert failure[2].splitlines()[0] in errors
    assert f"{what} was here" in errors  # its output is not lost, whether its worker died or not
    return failure


def test_memory_on_slurm(slurm, start):
    _, cause, message = fails(start, "slurm", "hungry")
    assert cause == "memory"
    assert "xceeded job memory limit" in message


def test_memory_on_grid_engine(gridengine, start):
    assert fails(start, "gridengine", "hungry")[1] == "memory"


@pytest.mark.parametrize("name", LIMITING)
def test_memory_on_fakes(name, start):
    for _ in system(name):
        assert fails(start, name, "hungry")[1] == "memory"


def test_walltime_on_slurm(slurm, start):
    """Slurm counts in minutes and looks twice in one, so the test brings the end nearer."""
    leader, marks = start("slurm", "sleepy")
    wait_for_marks(leader, marks, 1)
    (job,) = own_jobs("slurm", marks)
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    leader.communicate(timeout=120)
    ((_, cause, message),) = failures(marks)
    assert cause == "walltime"
    assert "TIME LIMIT" in message or "TIMEOUT" in message
    assert "sleepy was here" in message


def test_walltime_on_grid_engine(gridengine, start):
    assert fails(start, "gridengine", "sleepy")[1] == "walltime"


@pytest.mark.parametrize("name", ["torque", "pbs", "htcondor"])
def test_walltime_on_fakes(name, start):
    for _ in system(name):
        assert fails(start, name, "sleepy")[1] == "walltime"


def survives(start, name, disturb, **settings):
    """Disturb the first attempt; a later one must do. Gives the first failure in the journal."""
    leader, marks = start(name, "patient", lost_retries=3, **settings)
    wait_for_marks(leader, marks, 1)
    disturb(marks)
    wait_for(lambda: counts(marks)["patient"] >= 2, "a second attempt", 90)
    (marks / "go").touch()
    assert result(leader) == "done"
    failure, *more = failures(marks)  # a node that is back may be taken away again
    assert {cause for _, cause, _ in more} <= {failure[1]}
    return failure


def test_preemption_on_slurm(slurm, start):
    """A job of a higher tier takes all of the node for a while."""

    def preempt(marks):
        urgent = ["--partition=urgent", "--exclusive", "--mem=0", "--wrap=sleep 1", "--output=/dev/null"]
        slurm.run("sbatch", *urgent)

    settings = {"partition": "patient", "poll_interval": 0.5}
    assert survives(start, "slurm", preempt, cluster=settings)[1] == "preempted"


def test_a_cancelled_job_on_slurm(slurm, start):
    def cancel(marks):
        slurm.run("scancel", "--state=RUNNING", *own_jobs("slurm", marks))

    _, cause, message = survives(start, "slurm", cancel)
    assert cause == "lost"
    assert "CANCELLED" in message
    assert "patient was here" in message


def test_a_killed_worker_on_slurm(slurm, start):
    def kill(marks):
        for process in psutil.process_iter(["cmdline"]):
            if str(marks.parent) in " ".join(process.info["cmdline"] or ()) and "toilfn.worker" in str(process.info):
                process.kill()

    _, cause, message = survives(start, "slurm", kill)
    assert cause in ("lost", "error")
    assert "patient was here" in message


def test_a_node_that_goes_down_and_comes_back_on_slurm(slurm, start):
    def down_and_up(marks):
        slurm.run("scontrol", "update", "NodeName=n3", "State=DOWN", "Reason=test")
        wait_for(lambda: own_jobs("slurm", marks) == [], "the job to end")
        slurm.run("scontrol", "update", "NodeName=n3", "State=RESUME", check=False)  # it may be back by itself

    settings = {"partition": "fragile", "poll_interval": 0.5}
    _, cause, message = survives(start, "slurm", down_and_up, cluster=settings)
    assert cause == "lost"
    assert "NODE_FAIL" in message or "NODE FAILURE" in message


def test_a_deleted_job_on_grid_engine(gridengine, start):
    def delete(marks):
        gridengine.run("qdel", *own_jobs("gridengine", marks))

    assert survives(start, "gridengine", delete)[1] == "lost"


@pytest.mark.parametrize("name", LIMITING)
def test_a_killed_job_on_fakes(name, start):
    """By somebody else, with the system's own command."""
    kill = {
        "lsf": "bkill 1", "torque": "qdel 1.server.example", "pbs": "qdel 1.server.example", "htcondor": "condor_rm 1",
    }  # fmt: skip
    for _ in system(name):
        assert survives(start, name, lambda _: subprocess.run(kill[name].split(), check=True))[1] == "lost"
