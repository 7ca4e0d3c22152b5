"""``toilfn server --lead-on slurm``: the leaders of runs are jobs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.fixtures import slurm, slurm_server

__all__ = ["slurm", "slurm_server"]

OPTIONS = ("--lead-on=slurm", "--leader-memory=500Mi")
WITNESS = """\
import os, sys, time
import toilfn as toil

@toil.task
def work(folder):
    open(os.path.join(folder, f"begun-{time.time_ns()}"), "w").close()
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.1)
    return "worked"

given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
print(toil.compute(work(given["folder"]), retries=0))
"""


@pytest.fixture
def jobs(slurm, tmp_path):
    """The leaders' jobs that Slurm has, by the runs that they are for."""

    def find() -> dict[str, str]:
        found = {}
        for line in slurm.run("squeue", "-h", "-o", "%i %j").splitlines():
            job, name = line.split()
            script = tmp_path / "place" / "work" / "jobs" / f"{name}.sh"
            if script.exists():
                found[script.read_text().split("toilfn_batch=")[1].split()[0]] = job
        return found

    return find


def until(condition, limit=60):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def begun(folder: Path) -> int:
    return len(list(folder.glob("begun-*")))


@pytest.mark.slow
def test_a_leader_in_a_job_survives_restarts_of_the_server_and_a_second_server(slurm, start, tmp_path, jobs):
    servers = [start(*OPTIONS), start(*OPTIONS)]
    client = servers[0].client()
    run = client.script(WITNESS, params={"folder": str(tmp_path)})
    client.wait(run, "RUNNING")
    until(lambda: begun(tmp_path))
    assert list(jobs()) == [run]
    servers[0].stop(signal.SIGKILL)
    servers[0].start()
    assert client.state(run) == "RUNNING"
    (tmp_path / "go").touch()
    assert client.wait(run) == "COMPLETE"
    assert begun(tmp_path) == 1
    assert len(list((tmp_path / "place" / "work" / "jobs").glob("*.sh"))) <= 1
    assert "system_logs" not in client.get(f"/runs/{run}")["run_log"]


def test_a_run_that_waits_or_runs_is_cancelled_with_its_job(slurm, start, tmp_path, jobs):
    client = start(*OPTIONS, "--leader-args=--hold").client()
    waits = client.script(WITNESS, params={"folder": str(tmp_path)})
    until(lambda: waits in jobs())
    assert client.state(waits) == "QUEUED"
    runs = client.script(WITNESS, params={"folder": str(tmp_path)})
    until(lambda: runs in jobs())
    slurm.run("scontrol", "release", jobs()[runs])
    client.wait(runs, "RUNNING")
    for run in (waits, runs):
        client.cancel(run)
        assert client.wait(run) == "CANCELED"
    until(lambda: not jobs())
    assert begun(tmp_path) <= 1


@pytest.mark.slow
def test_another_leader_follows_one_whose_job_was_ended(slurm, start, tmp_path, jobs):
    """The second one adopts the task's job, which goes on meanwhile."""
    client = start(*OPTIONS, "--cluster=slurm").client()
    run = client.script(WITNESS, params={"folder": str(tmp_path)})
    client.wait(run, "RUNNING")
    until(lambda: begun(tmp_path))
    first = jobs()[run]
    slurm.run("scancel", first)
    until(lambda: jobs().get(run, first) != first, limit=120)
    (tmp_path / "go").touch()
    assert client.wait(run) == "COMPLETE"
    assert begun(tmp_path) == 1
    assert client.get(f"/runs/{run}")["run_log"]["system_logs"] == ["leaders that died before: 1"]


def test_a_job_that_the_cluster_refuses_is_a_run_that_says_why(slurm, start, tmp_path):
    client = start(*OPTIONS, "--leader-args=--partition=unknown").client()
    run = client.script()
    assert client.wait(run) == "SYSTEM_ERROR"
    assert "invalid partition" in client.get(f"/runs/{run}")["run_log"]["system_logs"][0].lower()


def test_clusters_that_cannot_run_leaders(tmp_path):
    program = Path(sys.executable).parent / "toilfn"
    for name, reason in (("local", "cannot be a job of the cluster local"), ("slum", "did you mean 'slurm'?")):
        command = [program, "server", f"--place={tmp_path / 'place'}", "--port=0", f"--lead-on={name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert reason in done.stderr
