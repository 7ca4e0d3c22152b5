"""However a system ends a job: the run goes on or fails as it should, and the event journal names the cause."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.clusters.leaders import counts, events, failures, own_jobs, result, start, wait_for_marks
from tests.servers.awsbatch import QUEUE
from tests.servers.containers import IMAGE
from tests.servers.fake.systems import system
from tests.servers.fake.tes import FakeTES
from tests.servers.fixtures import (
    awsbatch_server,
    containers,
    gridengine,
    gridengine_server,
    slurm,
    slurm_server,
)  # fmt: skip
from tests.servers.machine import wait_for

__all__ = ["awsbatch_server", "containers", "gridengine", "gridengine_server", "slurm", "slurm_server", "start"]

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
    assert f"{what} was here" in errors, errors[-900:]  # its output is not lost, whether its worker died or not
    assert f"{what} was here" in logged(marks, what)
    return failure


def logged(marks, name):
    """What ``toilfn logs`` prints of the task with this name."""
    (id_,) = {event["task"] for event in events(marks) if event["event"] == "failed" and event["name"] == name}
    command = [sys.executable, "-m", "toilfn", "logs", str(marks.parent / "store"), id_]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def tes():
    """Settings of a TES server."""
    with FakeTES().running() as fake:
        yield {"endpoint": fake.url, "image": "toilfn:test", "python": sys.executable, "poll_interval": 0.3}


@pytest.fixture
def aws(awsbatch_server, tmp_path):
    """Settings of AWS Batch."""
    return {
        "endpoint_url": awsbatch_server.url, "queue": QUEUE, "image": IMAGE, "python": sys.executable,
        "volumes": {**awsbatch_server.folders, str(tmp_path): str(tmp_path)}, "poll_interval": 0.5,
    }  # fmt: skip


def test_a_killed_worker_on_tes(tes, start):
    assert fails(start, "tes", "doomed", cluster=tes)[1] == "lost"


def test_memory_on_aws_batch(aws, start):
    _, cause, message = fails(start, "awsbatch", "hungry", cluster=aws)
    assert cause == "memory"
    assert "it requested 400 MiB of memory" in message


@pytest.mark.parametrize(("what", "cause", "words"), [
    ("doomed", "lost", "was killed by SIGKILL"),
    ("sleepy", "walltime", "its walltime of 1s"),
    ("hungry", "memory", "of memory but requested 400 MiB"),
])  # fmt: skip
def test_limits_on_this_machine(what, cause, words, start):
    """Here the log is kept apart from the message."""
    leader, marks = start("local", what, lost_retries=0, cluster={"workers": 1})
    _, errors = leader.communicate(timeout=180)
    assert f"{what} was here" in errors
    ((_, found, message),) = failures(marks)
    assert found == cause
    assert words in message
    assert f"{what} was here" in logged(marks, what)


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
