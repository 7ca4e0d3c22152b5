"""Submissions that are slow or refused, on a real Slurm with stand-ins before its commands."""

from __future__ import annotations

import json

import pytest

from tests.clusters.leaders import counts, events, own_jobs, result, start, wait_for_marks
from tests.servers.fixtures import slurm, slurm_server
from tests.servers.machine import wait_for
from tests.servers.standins import StandIns, refuse

__all__ = ["slurm", "slurm_server", "start"]

FULL = """\
for script; do :; done
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
have=$(squeue --noheader --array --format=%j | grep -c '^limited-')
if test $((have + ${last:-0} + 1)) -gt 2; then
  echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
  exit 1
fi
"""


@pytest.fixture
def kit(slurm, tmp_path, monkeypatch):
    made = StandIns(tmp_path / "kit", "sbatch")
    monkeypatch.setenv("PATH", made.path)
    return made


def test_a_refusal_that_passes_is_waited_for(kit, start):
    kit.next("sbatch", refuse("sbatch: error: Batch job submission failed: Unspecified error"), times=2)
    leader, marks = start("slurm", "slow", 3)
    assert result(leader) == "3"
    assert counts(marks) == {"slow-0": 1, "slow-1": 1, "slow-2": 1}
    assert kit.is_used_up("sbatch")


def test_a_limit_on_jobs_is_respected(kit, start):
    kit.always("sbatch", FULL)
    leader, marks = start("slurm", "slow", 5, cluster={"poll_interval": 0.3, "job_name": "limited"})
    output, errors = leader.communicate(timeout=300)
    assert output.strip() == "10", errors
    assert counts(marks) == {f"slow-{n}": 1 for n in range(5)}
    assert "see --max-jobs" in errors
    assert "QOSMaxSubmitJobPerUserLimit" in errors


def test_the_leader_polls_while_a_submission_takes_its_time(kit, start, tmp_path):
    """The second level's submission hangs; what has ended meanwhile is known all the same."""
    go = tmp_path / "go"
    held = f"while test ! -e {go}; do sleep 0.1; done\n"
    leader, marks = start("slurm", "tree", 2, cluster={"poll_interval": 0.3})
    wait_for_marks(leader, marks, 2)
    kit.always("sbatch", held)
    wait_for(lambda: kit.calls()["sbatch"] >= 2, "the second submission", 60)
    done = [event["name"] for event in events(marks) if event["event"] == "done"]
    assert len(done) == 2
    go.touch()
    assert result(leader) == "1"


def test_one_shape_that_is_refused_fails_its_tasks_alone(slurm, start):
    leader, marks = start("slurm", "large", 2)
    _, errors = leader.communicate(timeout=120)
    assert leader.returncode == 1
    assert "1 task failed" in errors
    assert "Memory specification can not be satisfied" in errors
    assert "#SBATCH --mem=" in errors
    assert counts(marks) == {"slow-0": 1, "slow-1": 1}
    status = json.dumps(events(marks))
    assert '"input"' in status


def test_a_client_that_does_not_fit_beside_its_service_is_named_and_fails(slurm, start):
    """The service takes the whole node of the partition, so its client waits in the queue."""
    given = {"poll_interval": 0.3, "partition": "fragile"}
    leader, marks = start("slurm", "served", cluster=given, service_patience="0.3s")
    _, errors = leader.communicate(timeout=240)
    assert leader.returncode == 1
    assert "client" in errors
    assert "waits in the queue (PENDING Resources) while only 1 service of the workflow runs" in errors
    assert "service_patience" in errors
    assert set(counts(marks)) == {"server"}
    assert own_jobs("slurm", marks) == []


def test_a_client_that_the_site_lets_run_beside_no_other_job_is_named_and_fails(slurm, start):
    """The quality of service lets each user have one running job."""
    leader, marks = start("slurm", "served", cluster={"poll_interval": 0.3, "qos": "single"}, service_patience="20s")
    _, errors = leader.communicate(timeout=240)
    assert leader.returncode == 1
    assert "waits in the queue (PENDING QOSMaxJobsPerUserLimit) while only 1 service of the workflow runs" in errors
    assert "ask for a higher limit of running jobs, or raise service_patience" in errors
    assert set(counts(marks)) == {"server"}
    assert own_jobs("slurm", marks) == []


def test_tasks_of_a_site_that_runs_one_job_at_a_time_run_one_after_the_other(slurm, start):
    leader, marks = start("slurm", "slow", 3, cluster={"poll_interval": 0.3, "qos": "single"})
    assert result(leader) == "3"
    assert counts(marks) == {f"slow-{n}": 1 for n in range(3)}


@pytest.mark.slow
def test_hundreds_of_quick_tasks_are_few_submissions_and_jobs_by_default(kit, start):
    leader, marks = start("slurm", "noop", 400)
    assert result(leader, 550) == str(sum(range(400)))
    jobs = {event["job"] for event in events(marks) if event["event"] == "started"}
    assert len(jobs) <= 100
    assert kit.calls()["sbatch"] <= 20
