"""What the base of command-line systems does for all of them, shown on fakes."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.servers.fake.systems import system
from toilfn.clusters.base import Batch, JobId, JobState, RunContext, SubmissionError, exit_cause
from toilfn.clusters.common.commands import Commands, pauses, portions, user_name
from toilfn.clusters.htcondor import HTCondorCluster
from toilfn.clusters.lsf import LSFCluster
from toilfn.clusters.pbs import PBSCluster
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Resources

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)
QUICK = {"poll_interval": 0.1, "patience": 20}


@pytest.fixture
def lsf():
    yield from system("lsf")


@pytest.fixture
def htcondor():
    yield from system("htcondor")


@pytest.fixture
def opened(tmp_path):
    """Make open clusters whose jobs are one-line shell scripts, named by the batch; closed at the end."""
    clusters = []

    def make(kind, script="exit 0", outage=lambda _: None, **settings):
        (tmp_path / "job.sh").write_text(script)
        cluster = kind(worker_command=("sh", str(tmp_path / "job.sh")), **QUICK | settings)
        cluster.open(RunContext(str(tmp_path), "wf", {}, outage=outage))
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        cluster.close()


def batches(*names, shape=SHAPE):
    return [Batch(name, name, shape) for name in names]


def polled(cluster, enough, limit=20):
    """All updates until some condition on them holds."""
    updates, end = [], time.monotonic() + limit
    while not enough(updates):
        assert time.monotonic() < end, updates
        updates += cluster.poll(0.5)
    return updates


def ended(count):
    return lambda updates: sum(update.state is JobState.ENDED for update in updates) == count


def calls(spool) -> Counter:
    return Counter((spool.parent / "calls").read_text().split())


def test_many_batches_go_out_in_arrays_of_the_sites_size(lsf, opened):
    cluster = opened(LSFCluster, max_array_size=4)
    jobs = cluster.submit(batches(*"abcdefghij"))
    assert calls(lsf)["bsub"] == 3
    assert jobs[:5] == ["1[1]", "1[2]", "1[3]", "1[4]", "2[1]"]
    polled(cluster, ended(10))


def test_one_query_an_interval_asks_for_all_jobs(lsf, opened):
    cluster = opened(LSFCluster, "sleep 3", poll_interval=0.5)
    begin = time.monotonic()
    cluster.submit([*batches("a", "b"), *batches("c", shape=Resources(memory=2**28)), *batches("d", shape=Resources())])
    polled(cluster, ended(4))
    assert calls(lsf)["bjobs"] <= (time.monotonic() - begin) / 0.5 + 2


def test_long_queries_are_split(lsf, opened, monkeypatch):
    monkeypatch.setattr(LSFCluster, "query_limit", 2)
    cluster = opened(LSFCluster, "sleep 60")
    cluster.submit([batch for n in range(5) for batch in batches(str(n), shape=Resources(memory=2**27 + n))])
    assert {update.job for update in polled(cluster, lambda found: len(found) >= 5)} == {"1", "2", "3", "4", "5"}


def test_a_controller_that_is_away_for_a_while_costs_nothing(lsf, opened, caplog):
    outages = []

    def told(error):
        outages.append(error)
        if len(outages) == 1:  # the first submission was refused
            (lsf / "away").unlink()

    cluster = opened(LSFCluster, "sleep 1", outage=told)
    (lsf / "away").touch()
    jobs = cluster.submit(batches("a"))
    (lsf / "away").touch()
    polled(cluster, lambda updates: len(outages) == 3)
    (lsf / "away").unlink()
    assert polled(cluster, ended(1))[-1].cause is None
    assert jobs == ["1"]
    assert "LSF is down" in caplog.text
    assert ["LSF is down" in error for error in outages] == [True, False, True, False]


def test_a_submission_whose_answer_was_lost_is_not_repeated(lsf, opened):
    cluster = opened(LSFCluster, "sleep 1")
    (lsf / "deaf").touch()
    assert cluster.submit(batches("a", "b")) == ["1[1]", "1[2]"]
    assert calls(lsf)["bsub"] == 1
    polled(cluster, ended(2))


def test_kills_are_repeated_when_the_controller_is_back(lsf, opened):
    cluster = opened(LSFCluster, "sleep 60")
    jobs = cluster.submit(batches("a", "b"))
    polled(cluster, lambda updates: sum(update.state is JobState.RUNNING for update in updates) == 2)
    (lsf / "away").touch()
    cluster.kill(jobs[:1])
    (lsf / "away").unlink()
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert (update.job, update.cause) == (jobs[0], Cause.LOST)


def test_patience_ends(lsf, opened):
    cluster = opened(LSFCluster, "sleep 60", patience=1)
    cluster.submit(batches("a"))
    (lsf / "away").touch()
    with pytest.raises(ClusterError, match=r"(?s)LSF is down.*no response for .*resume"):
        polled(cluster, ended(1))
    with pytest.raises(ClusterError, match=r"(?s)LSF is down.*The script was:\n#!/bin/sh"):
        cluster.submit(batches("b"))
    (lsf / "away").unlink()


def test_a_job_that_the_system_does_not_know_is_unknown_and_then_lost(lsf, opened, monkeypatch):
    monkeypatch.setattr(LSFCluster, "grace", 1.0)
    cluster = opened(LSFCluster, "sleep 60")
    cluster.submit(batches("a"))
    shutil.rmtree(lsf / "1")
    states = [(update.state, update.cause) for update in polled(cluster, ended(1))]
    assert states == [(JobState.UNKNOWN, None), (JobState.ENDED, Cause.LOST)]


def test_a_refusal_says_what_was_submitted_and_leaves_nothing(lsf, opened):
    cluster = opened(LSFCluster, "sleep 60", submit_args=["-nosuch"])
    with pytest.raises(ClusterError) as caught:
        cluster.submit(batches("it's a"))
    text = str(caught.value)
    assert "illegal option -nosuch" in text
    assert "The command was: bsub -nosuch" in text
    assert "#BSUB -n 1" in text
    assert "it'\"'\"'s a" in text
    assert list(cluster.log_directory.iterdir()) == []


def test_jobs_submitted_before_a_refusal_are_reported_and_live(lsf, opened):
    cluster = opened(LSFCluster, "sleep 60")
    impossible = Resources(cores=1, memory=2**28)
    cluster.settings["job_directives_skip"] = ["-M 262144"]  # the fake wants -M
    with pytest.raises(SubmissionError) as caught:
        cluster.submit([*batches("a"), *batches("b", shape=impossible)])
    assert caught.value.submitted == {"a": "1"}
    assert cluster.names().keys() == {"1"}


def test_a_queue_that_does_not_exist_is_found_when_the_cluster_opens(lsf, opened):
    with pytest.raises(ClusterError, match="nowhere: No such queue"):
        opened(LSFCluster, queue="nowhere")


def test_a_missing_command_says_what_to_do(lsf, opened, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=r"command 'bsub' not found on this machine's PATH; start the leader where"):
        opened(LSFCluster)


def test_files_stay_only_for_jobs_that_failed(lsf, opened):
    cluster = opened(LSFCluster, "echo said; case $2 in a) exit 0;; *) exit 4;; esac")
    cluster.submit(batches("a", "b"))
    updates = {u.job: u for u in polled(cluster, ended(2)) if u.state is JobState.ENDED}
    (log,) = cluster.log_directory.iterdir()
    assert log.read_text() == "said\n"
    assert str(log) in updates[JobId("1[2]")].detail
    assert cluster.log_directory.stat().st_mode & 0o777 == 0o700


def test_output_can_be_thrown_away(lsf, opened):
    cluster = opened(LSFCluster, "echo said; exit 4", keep_output=False)
    cluster.submit(batches("a"))
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert list(cluster.log_directory.iterdir()) == []
    assert "said" not in update.detail


def test_a_node_that_cannot_write_the_log_hints_at_the_folder(lsf, opened):
    cluster = opened(LSFCluster, job_script_prologue=['rm "$(readlink /proc/$$/fd/1)"; exit 5'])
    cluster.submit(batches("a"))
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert f"no output found in {cluster.log_directory}; check that nodes can write there" in update.detail


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (["echo begun", "cd /nowhere", "echo not reached"], 2, "/nowhere"),
        (["false", "true"], 1, "job_script_prologue ended with exit status 1"),
        (["module_of_a_typo load python"], 127, "module_of_a_typo"),
        (["exit 7"], 7, "job_script_prologue ended with exit status 7"),
        (["set -u", 'echo "$no_such_variable"'], 2, "no_such_variable"),
    ],
)
def test_a_failing_prologue_fails_the_job_with_its_message(lsf, opened, lines, status, words):
    cluster = opened(LSFCluster, "echo worker ran", job_script_prologue=lines)
    cluster.submit(batches("a"))
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert update.cause is Cause.ERROR
    assert f"exit status {status}" in update.detail
    assert words in update.detail
    assert not {"not reached", "worker ran"} & set(update.detail.splitlines())


@pytest.mark.parametrize("more", [{}, {"job_script_epilogue": ["echo epilogue"]}])
def test_a_prologue_may_be_whatever_a_shell_takes(lsf, opened, more):
    lines = [
        "if true",
        "then A=b",
        "fi",
        "[ -f /nowhere ] && . /nowhere",
        "set -u",
        "set +e; false; set -e",
        "export A",
    ]
    cluster = opened(LSFCluster, 'test "$A" = b; status=$?; false; exit $status', job_script_prologue=lines, **more)
    cluster.submit(batches("a"))
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert update.cause is None, update.detail


def test_jobs_that_are_stuck_in_the_queue_are_removed(htcondor, opened):
    cluster = opened(HTCondorCluster, "sleep 60", walltime=1)  # the setting is taken as it is
    cluster.submit(batches("a"))
    (update,) = [u for u in polled(cluster, ended(1)) if u.state is JobState.ENDED]
    assert update.cause is Cause.WALLTIME
    assert "held" in update.detail
    polled(cluster, lambda _: calls(htcondor)["condor_rm"] == 1)


def test_a_job_whose_script_is_gone_is_found_without_its_batch(lsf, opened):
    cluster = opened(LSFCluster, "sleep 60")
    (job,) = cluster.submit(batches("a"))
    polled(cluster, lambda updates: [update for update in updates if update.state is JobState.RUNNING])
    for script in cluster.log_directory.glob("*.sh"):
        script.unlink()
    successor = opened(LSFCluster)
    assert successor.list("wf") == {job: ""}
    successor.kill([job])
    polled(successor, ended(1))


@pytest.mark.parametrize(
    ("status", "signal", "cause"),
    [
        (0, 0, None),
        (3, 0, Cause.ERROR),
        (137, 0, Cause.LOST),
        (0, 9, Cause.LOST),
        (143, 0, Cause.LOST),
        (139, 0, Cause.ERROR),
    ],
)
def test_exit_statuses_are_judged(status, signal, cause):
    assert exit_cause(status, signal) is cause


def test_pauses_grow_and_end():
    waits = list(pauses(100))
    assert waits[:4] == [0.5, 1, 2, 4]
    assert 100 <= sum(waits) <= 130
    assert max(waits) == 30


def test_a_command_is_given_text_that_is_not_unicode_as_it_is():
    """A script names folders, whose names are bytes."""
    assert Commands("away").run(["od", "-An", "-tx1"], "/caf\udce9").split() == ["2f", "63", "61", "66", "e9"]


def test_portions_lose_nothing():
    assert [list(part) for part in portions(range(5), 2)] == [[0, 1], [2, 3], [4]]


def test_commands_are_logged_for_debugging(lsf, opened, caplog):
    caplog.set_level(logging.DEBUG, "toilfn.clusters.common.commands")
    cluster = opened(LSFCluster)
    cluster.submit(batches("a"))
    assert "running bsub" in caplog.text
    polled(cluster, ended(1))


def test_the_log_directory_is_a_setting_of_the_run_too(htcondor, tmp_path):
    """The cluster's own setting is the more particular one."""
    context = RunContext(str(tmp_path), "wf", {}, log_directory=str(tmp_path / "run"), keep_output=False)
    for settings, place, keeps in (
        ({}, "run", False),
        ({"log_directory": tmp_path / "own", "keep_output": True}, "own", True),
    ):
        cluster = HTCondorCluster(**settings)
        cluster.open(context)
        assert (cluster.log_directory, cluster.keeps_output) == (tmp_path / place, keeps)
        cluster.close()


@pytest.mark.parametrize(
    ("name", "asked"),
    [("ada", "ada"), ("Ada.King", "Ada.King"), ("host$", "host$"), ("böb", "böb")]
    + [(odd, None) for odd in ("ada@lab.org", "LAB\\ada", "a,b", "@group", "*", "a[bc]", "", None)],
)
def test_a_login_name_that_batch_systems_misread_is_not_used_in_queries(monkeypatch, name, asked):
    def entry(number):
        if name is None:
            raise KeyError(number)
        return SimpleNamespace(pw_name=name)

    monkeypatch.setattr("pwd.getpwuid", entry)
    assert user_name() == asked
    said = []
    cluster = PBSCluster()
    cluster.commands = SimpleNamespace(ask=lambda words: said.append(words[:3]) or "")
    monkeypatch.setattr("shutil.which", lambda command: command)
    monkeypatch.setattr(cluster, "status", lambda *jobs: {})
    assert cluster.names() == {}
    assert said == ([["qselect", "-u", asked]] if asked else [])
