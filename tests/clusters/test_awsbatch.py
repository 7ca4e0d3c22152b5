"""AWSBatchCluster, against moto with podman behind it: jobs run in containers."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.clusters.leaders import counts, failures, result, start, wait_for_marks
from tests.clusters.test_tes import sent
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.awsbatch import QUEUE
from tests.servers.containers import IMAGE, Containers
from tests.servers.fixtures import awsbatch_server, containers
from tests.servers.machine import wait_for
from tests.waiting import end_of
from toilfn.clusters.awsbatch import cluster as awsjobs
from toilfn.clusters.awsbatch.cluster import AWSBatchCluster
from toilfn.clusters.base import Batch, JobState, Refusal, RunContext, SubmissionError
from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.protocol import Log
from toilfn.resources import Accelerator, Resources
from toilfn.stores import open_store

SHAPE = Resources(cores=1, memory=200 * 2**20, disk=2**20)

__all__ = ["awsbatch_server", "containers", "start"]


@pytest.fixture
def settings(awsbatch_server, tmp_path):
    folders = {**awsbatch_server.folders, str(tmp_path): str(tmp_path)}
    return {
        "endpoint_url": awsbatch_server.url, "queue": QUEUE, "image": IMAGE, "volumes": folders,
        "python": sys.executable,
    }  # fmt: skip


class TestAWSBatch(ClusterContract):
    @pytest.fixture
    def make_cluster(self, settings):
        return partial(AWSBatchCluster, **settings)


@pytest.fixture
def there(settings):
    return {**settings, "poll_interval": 0.5}


@pytest.fixture
def batch(awsbatch_server):
    client = awsbatch_server.client("batch")
    yield client
    client.close()


def test_merge_sort(there, start):
    assert sorts(start, "awsbatch", cluster=there) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(there, start):
    adopts(start, "awsbatch", 8, cluster=there)


@pytest.mark.slow
def test_output_is_known_when_the_whole_container_is_killed(there, start):
    before = containers_of_jobs()
    leader, marks = start("awsbatch", "patient", lost_retries=0, cluster=there)
    wait_for_marks(leader, marks, 1)
    store = open_store(str(marks.parent / "store"), create=False)
    wait_for(lambda: any(isinstance(said, Log) for said in sent(store)), "the worker to send what was printed", 120)
    (container,) = containers_of_jobs() - before
    podman("kill", "--signal", "KILL", container)
    _, errors = leader.communicate(timeout=180)
    assert "patient was here" in errors
    assert [cause for _, cause, _ in failures(marks)] == ["lost"]


def containers_of_jobs():
    """Return the ids of the containers that run."""
    return set(podman("ps", "--quiet", "--no-trunc").split())


def podman(*words):
    command = ["podman", *words]
    return subprocess.run(command, env=Containers().environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_spot_instances_and_leaders_die_at_random(there, start, batch):
    """The result is right, and every task ran."""
    rng = random.Random(6)
    settings = {"cluster": there, "lease_timeout": 4, "lost_retries": 0}
    first, marks = start("awsbatch", "slow", 8, **settings)
    wait_for_marks(first, marks, 2)
    interrupt(batch, rng)
    first.kill()
    first.communicate()
    second, _ = start("awsbatch", "slow", 8, **settings)
    for _ in range(3):
        time.sleep(rng.uniform(0.5, 1.5))
        interrupt(batch, rng)
    assert result(second) == str(sum(range(8)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(8)}


def interrupt(batch, rng):
    """Take the instance of a job away, in AWS's words."""
    running = [job["jobId"] for job in batch.list_jobs(jobQueue=QUEUE, jobStatus="RUNNING")["jobSummaryList"]]
    if running:
        batch.terminate_job(jobId=rng.choice(running), reason="Host EC2 (instance i-0b1c2d) terminated.")


@pytest.fixture
def opened(settings, tmp_path):
    """Open clusters whose jobs run a script; closed at the end."""
    clusters = []

    def opened(script="exit 0", **changes):
        (tmp_path / "job.sh").write_text(script)
        cluster = AWSBatchCluster(
            **{**settings, "poll_interval": 0.2, "worker_command": ("sh", str(tmp_path / "job.sh")), **changes}
        )
        clusters.append(cluster)
        cluster.open(RunContext(str(tmp_path), "wf"))
        return cluster

    yield opened
    for cluster in clusters:
        cluster.close()


def named(*names, shape=SHAPE):
    return [Batch(name, name, shape) for name in names]


def test_the_end_of_a_failed_jobs_log_and_its_streams_name_are_in_the_error(opened):
    cluster = opened("echo on purpose; exit 3")
    (job,) = cluster.submit(named("b"))
    update = end_of(cluster, job)
    assert update.cause is Cause.ERROR
    assert "exit status 3" in update.detail
    assert f"log stream {awsjobs.definition(cluster.settings)[0]}/default/{job}" in update.detail
    assert update.detail.endswith("on purpose")


def test_output_printed_before_the_end_of_the_walltime_is_the_log(opened, tmp_path):
    cluster = opened('echo it was here >> "$TOILFN_OUTPUT_FILE"; touch "$1/started"; exec sleep 600')
    (job,) = cluster.submit(named("b", shape=Resources(1, 200 * 2**20, 2**20, walltime=3600)))
    wait_for((tmp_path / "started").exists, "the job to start")
    wait_for(lambda: (cluster.poll(0.1), cluster._live[job].deadline)[1] is not None, "the walltime to begin")
    cluster._live[job].deadline = 0.0
    update = end_of(cluster, job)
    assert update.cause is Cause.WALLTIME
    assert update.detail.startswith("took longer than its walltime of 1h 00m; FAILED")
    assert b"it was here" in update.log


class LosesAnswers:
    """Amazon, of whose answers to submissions some are lost."""

    def __init__(self, amazon, lost):
        self.amazon = amazon
        self.lost = lost
        self.sent = []

    def ask(self, service, method, **named):
        answer = self.amazon.ask(service, method, **named)
        if method == "submit_job":
            self.sent.append(named["jobName"])
            if self.lost:
                self.lost -= 1
                raise UnavailableError("the answer was lost")
        return answer

    def __getattr__(self, name):
        return getattr(self.amazon, name)


@pytest.mark.parametrize("count", [1, 3])
def test_a_lost_answer_does_not_make_a_second_submission(opened, batch, count):
    cluster = opened("exit 0")
    cluster._amazon = LosesAnswers(cluster._amazon, 1)
    jobs = cluster.submit(named(*"abc"[:count]))
    assert len(cluster._amazon.sent) == 1
    assert len(set(jobs)) == count
    assert [end_of(cluster, job).cause for job in jobs[-1:]] == [None]
    listed = [
        job for status in ("SUBMITTED", "RUNNING", "SUCCEEDED", "FAILED")
        for job in batch.list_jobs(jobQueue=QUEUE, jobStatus=status)["jobSummaryList"]
    ]  # fmt: skip
    assert [job["jobName"] for job in listed if job["jobName"] in cluster._amazon.sent] == cluster._amazon.sent


def test_a_submission_whose_answer_was_lost_in_a_long_outage_is_found_when_it_is_tried_again(opened):
    cluster = opened("exit 0", patience=0)
    cluster._amazon = LosesAnswers(cluster._amazon, 1)
    with pytest.raises(SubmissionError) as refused:
        cluster.submit(named("a"))
    assert refused.value.refusal is Refusal.AWAY
    (job,) = cluster.submit(named("a"))
    assert len(cluster._amazon.sent) == 1
    assert end_of(cluster, job).cause is None


@pytest.mark.parametrize(("lost", "again", "sent"), [("a", "ab", 2), ("ab", "bac", 2), ("ab", "b", 2), ("ab", "ab", 1)])
def test_batches_of_a_doubtful_submission_never_run_twice(opened, lost, again, sent):
    cluster = opened("exec sleep 600", patience=0)
    cluster._amazon = LosesAnswers(cluster._amazon, 1)
    with pytest.raises(SubmissionError):
        cluster.submit(named(*lost))
    jobs = cluster.submit(named(*again))
    names = cluster._amazon.sent
    assert len(names) == sent
    known = {job.partition(":")[0] for job in jobs}
    wait_for(lambda: {job for name in names for job in cluster.namesakes(name)} <= known, "other jobs to end")
    assert len(set(jobs)) == len(again)


def test_the_job_definition_is_made_once_and_used_again(opened, batch):
    first, second = opened(), opened()
    name, _ = awsjobs.definition(first.settings)
    assert name == awsjobs.definition(second.settings)[0]
    assert len(batch.describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]) == 1
    other, properties = awsjobs.definition({**first.settings, "job_role_arn": "arn:aws:iam::1:role/x"})
    assert other != name
    assert properties["jobRoleArn"] == "arn:aws:iam::1:role/x"


def test_a_jobs_overrides_say_what_it_needs(opened, batch):
    cluster = opened(env={"A": "1"}, tags={"who": "me"}, walltime="2h")
    (job,) = cluster.submit(named("b", shape=Resources(1.5, 2**30, 0, (Accelerator(2),))))
    (described,) = batch.describe_jobs(jobs=[job])["jobs"]
    assert {"name": "A", "value": "1"} in described["container"]["environment"]
    assert described["timeout"] == {"attemptDurationSeconds": 7200}
    assert described["tags"] == {"who": "me"}
    wanted = awsjobs.overrides(named("b", shape=Resources(1.5, 2**30, 0, (Accelerator(2),))), [], [], {})
    sizes = {item["type"]: item["value"] for item in wanted["resourceRequirements"]}
    assert sizes == {"VCPU": "2", "MEMORY": "1024", "GPU": "2"}
    assert end_of(cluster, job).cause is None


def test_submissions_are_split_by_number_and_by_the_length_of_names():
    """All overrides of a job together must not be longer than 8192 characters."""
    parts = list(awsjobs.job_portions(named(*(f"{number:0100}" for number in range(100))), 30))
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    parts = list(awsjobs.job_portions(named(*(f"{number:01000}" for number in range(10))), 10_000))
    assert max(sum(len(batch.name) + 1 for batch in part) for part in parts) <= 5000
    assert [batch.name for part in parts for batch in part] == [f"{number:01000}" for number in range(10)]
    with pytest.raises(InputError, match="line break"):
        list(awsjobs.job_portions(named("a\nb"), 10))


def test_other_accelerators_than_gpus_are_refused():
    with pytest.raises(InputError, match="'tpu'"):
        awsjobs.overrides(named("b", shape=Resources(accelerators=(Accelerator(1, "tpu"),))), [], [], {})


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ({"status": "FAILED", "statusReason": "Host EC2 (instance i-0b1c) terminated."}, Cause.PREEMPTED),
        ({"status": "FAILED", "statusReason": "Job attempt duration exceeded timeout"}, Cause.WALLTIME),
        ({"status": "FAILED", "container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to "
                                            "memory usage"}}, Cause.MEMORY),
        ({"status": "FAILED", "statusReason": "Your Spot Task was interrupted.", "container": {"exitCode": 137}},
         Cause.PREEMPTED),
        ({"status": "FAILED", "statusReason": "OutOfMemory: Container killed", "container": {"exitCode": 137}},
         Cause.MEMORY),
        ({"status": "FAILED", "container": {"exitCode": 137}}, Cause.LOST),
        ({"status": "FAILED", "attempts": [{"container": {"exitCode": 1}}]}, Cause.ERROR),
        ({"status": "FAILED", "statusReason": "cancelled by toilfn"}, Cause.LOST),
        ({"status": "SUCCEEDED", "container": {"exitCode": 0}}, None),
    ],
)  # fmt: skip
def test_reasons_are_understood(job, cause):
    assert awsjobs.interpret(job)[:2] == (JobState.ENDED, cause)


def test_a_job_that_its_queue_can_never_run_is_ended():
    reason = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job's resource requirements are larger than any instance"
    found = awsjobs.interpret({"status": "RUNNABLE", "statusReason": reason})
    assert (found.state, found.cause, found.is_stuck) == (JobState.ENDED, Cause.ERROR, True)
    assert awsjobs.interpret({"status": "RUNNABLE"}).state is JobState.QUEUED


def test_an_image_that_does_not_exist_is_named(opened):
    cluster = opened(image="127.0.0.1:26850/nosuch:1")
    (job,) = cluster.submit(named("b"))
    update = end_of(cluster, job)
    assert update.cause is Cause.LOST
    assert "CannotPullContainerError" in update.detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queue": "nosuch"}, f"AWS Batch queue 'nosuch' not found.*{QUEUE}.*TOILFN_AWS_BATCH_QUEUE"),
        ({"queue": None}, "TOILFN_AWS_BATCH_QUEUE"),
        ({"queue": f"{QUEUE}-off"}, "DISABLED"),
        ({"image": None}, "TOILFN_IMAGE"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "does not respond"),
        ({"profile": "nosuch"}, "nosuch"),
        ({"region": "no where"}, "no where"),
    ],
)
def test_wrong_settings_give_one_clear_error(opened, monkeypatch, changes, words):
    monkeypatch.setattr("toilfn.clusters.awsbatch.cluster.START_PATIENCE", 2.0)
    with pytest.raises((ClusterError, InputError), match=words):
        opened(**changes)


def test_missing_credentials_are_reported_with_a_hint(opened, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="uses those that botocore finds"):
        opened()
