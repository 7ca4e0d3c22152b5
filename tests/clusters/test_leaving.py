"""A leader that ends leaves its jobs alone unless the user wants them ended; the next leader takes them over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters.leaders import counts, own_jobs, start, wait_for_marks
from tests.servers.fake.systems import system
from tests.servers.fixtures import slurm, slurm_server
from tests.servers.machine import wait_for

__all__ = ["slurm", "slurm_server", "start"]


@pytest.fixture
def torque():
    yield from system("torque")


def toilfn(*words, status=0):
    """Run the command; give what it printed on both streams."""
    done = subprocess.run([sys.executable, "-m", "toilfn", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def forsaken(start, marks_of=None, **settings):
    """Start a leader with one job that runs, and kill it."""
    leader, marks = start("torque", "patient", **settings)
    wait_for_marks(leader, marks, 1)
    leader.kill()
    leader.communicate()
    return marks, str(marks.parent / "store")


def replace_command(spool: Path, name: str, script: str):
    """Have a command of the fake system do something else."""
    file = spool.parent / "bin" / name
    file.rename(file.with_suffix(".real"))
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def restore_command(spool: Path, name: str):
    file = spool.parent / "bin" / name
    file.with_suffix(".real").rename(file)


def test_sigterm_leaves_jobs_to_the_next_leader(torque, start):
    leader, marks = start("torque", "patient")
    wait_for_marks(leader, marks, 1)
    leader.send_signal(signal.SIGTERM)
    _, errors = leader.communicate(timeout=60)
    store = str(marks.parent / "store")
    assert leader.returncode == 143
    assert f"toilfn resume {store}" in errors
    assert f"toilfn kill {store}" in errors
    assert len(own_jobs("torque", marks)) == 1
    assert "stopped" in toilfn("status", store)
    (marks / "go").touch()
    assert "done" in toilfn("resume", store)
    assert counts(marks)["patient"] == 1


def test_jobs_that_could_not_be_ended_are_looked_for_later(torque, start):
    """The user has stopped the run while the system refused to end jobs: the store knows that some may live."""
    leader, marks = start("torque", "patient")
    wait_for_marks(leader, marks, 1)
    store = str(marks.parent / "store")
    replace_command(torque, "qdel", "echo 'qdel: Server could not connect to MOM' >&2; exit 1")
    toilfn("kill", store)
    leader.communicate(timeout=120)
    (alive,) = own_jobs("torque", marks)
    restore_command(torque, "qdel")
    assert "1 job" in toilfn("kill", store)
    wait_for(lambda: alive not in own_jobs("torque", marks), "the job's end", 60)


def test_an_outage_that_is_too_long_leaves_jobs(torque, start):
    """The message says that they keep running."""
    leader, marks = start("torque", "patient", cluster={"poll_interval": 0.2, "patience": 1})
    wait_for_marks(leader, marks, 1)
    replace_command(torque, "qstat", "echo 'Connection refused' >&2; exit 1")
    _, errors = leader.communicate(timeout=60)
    assert leader.returncode == 1
    assert "the jobs keep running" in errors
    restore_command(torque, "qstat")
    assert len(own_jobs("torque", marks)) == 1
    (marks / "go").touch()
    assert "done" in toilfn("resume", str(marks.parent / "store"))
    assert counts(marks)["patient"] == 1


def test_an_interrupt_cancels_pending_jobs_at_once(slurm, start):
    """They have not begun: there is nothing to wait for."""
    leader, marks = start("slurm", "noop", 1, cluster={"poll_interval": 0.2, "submit_args": ["--hold"]})
    wait_for(lambda: own_jobs("slurm", marks), "a job", 60)
    leader.send_signal(signal.SIGINT)
    _, errors = leader.communicate(timeout=60)
    assert leader.returncode == -signal.SIGINT
    assert errors.endswith(f"toilfn: stopped by Ctrl-C; to resume: toilfn resume {marks.parent / 'store'}\n")
    assert own_jobs("slurm", marks) == []
    events = toilfn("events", str(marks.parent / "store"))
    assert '"failed"' not in events


def test_a_run_is_resumed_on_the_cluster_object_that_it_was_given(torque, start):
    """With its settings, also those that only matter for new jobs, and without a word about the cluster."""
    marks, store = forsaken(start, cluster={"poll_interval": 0.2, "job_name": "mine"})
    (marks / "go").touch()
    assert "done" in toilfn("resume", store)
    assert counts(marks)["patient"] == 1


def test_a_run_is_not_resumed_here_while_its_jobs_run_elsewhere(torque, start):
    marks, store = forsaken(start)
    for words in (["resume", store, "--cluster", "local"], ["resume", store, "--cluster", "inline"]):
        said = toilfn(*words, status=1)
        (job,) = own_jobs("torque", marks)
        assert f"1 job of this store may still run on the cluster torque: {job}\nhint: resume there: " in said
    leader, _ = start("local", "patient", cluster={})
    assert "cancel them first: toilfn kill" in leader.communicate(timeout=60)[1]
    assert counts(marks)["patient"] == 1
    assert "cancelled 1 job" in toilfn("kill", store)
    (marks / "go").touch()
    assert "done" in toilfn("resume", store, "--cluster", "local")
    assert counts(marks)["patient"] == 2


def test_a_run_is_not_resumed_here_while_its_jobs_may_run_elsewhere(torque, start, monkeypatch, tmp_path):
    marks, store = forsaken(start)
    (marks / "go").touch()
    wait_for(lambda: own_jobs("torque", marks) == [], "the job to end")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    said = toilfn("resume", store, "--cluster", "local", status=1)
    assert "may still run on the cluster torque, which cannot be queried" in said
    toilfn("kill", "--leave-jobs", store)
    assert "done" in toilfn("resume", store, "--cluster", "local")
    assert counts(marks)["patient"] == 1


def test_the_same_system_with_other_settings_finds_the_jobs(torque, start, tmp_path):
    """Where their scripts are, which say what is in a job, is in the record."""
    marks, store = forsaken(start, cluster={"poll_interval": 0.2, "log_directory": str(tmp_path / "logs")})
    (marks / "go").touch()
    assert "done" in toilfn("resume", store, "--cluster", "torque")
    assert counts(marks)["patient"] == 1
