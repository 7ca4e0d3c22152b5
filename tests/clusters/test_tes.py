"""TESCluster, against a strict fake that runs the executors as processes."""

from __future__ import annotations

import random
import sys
import threading
import time
from functools import partial

import pytest

from tests.clusters.leaders import counts, events, failures, result, start, wait_for_marks
from tests.clusters.test_workflows import adopts, sorts
from tests.servers.fake.tes import FakeTES
from tests.servers.machine import wait_for
from tests.waiting import end_of
from toilfn.clusters.base import Batch, Refusal, RunContext, SubmissionError
from toilfn.clusters.resume import make_again, name_of
from toilfn.clusters.tes import TESCluster, explained
from toilfn.clusters.testing import ClusterContract
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.protocol import Log, decode
from toilfn.resources import Accelerator, Resources
from toilfn.stores import open_store

SHAPE = Resources(cores=1, memory=200 * 10**6, disk=10**6)

__all__ = ["start"]


@pytest.fixture
def tes():
    with FakeTES().running() as fake:
        yield fake


class TestTES(ClusterContract):
    @pytest.fixture
    def make_cluster(self, tes):
        return partial(TESCluster, endpoint=tes.url, image="toilfn:test", python=sys.executable)


def there(tes, **settings):
    """Settings that find the fake."""
    return {"endpoint": tes.url, "image": "toilfn:test", "python": sys.executable, "poll_interval": 0.3, **settings}


def test_merge_sort(tes, start):
    assert sorts(start, "tes", cluster=there(tes)) == {"sort": 7, "merge": 3}


def test_a_killed_leaders_jobs_are_adopted(tes, start):
    adopts(start, "tes", 12, cluster=there(tes))


def test_output_is_known_when_the_whole_container_is_killed(tes, start):
    leader, marks = start("tes", "patient", lost_retries=0, cluster=there(tes))
    wait_for_marks(leader, marks, 1)
    store = open_store(str(marks.parent / "store"), create=False)
    wait_for(lambda: any(isinstance(said, Log) for said in sent(store)), "the worker to send what was printed")
    (job,) = tes.live()
    tes.stop_task(job, "SYSTEM_ERROR")
    _, errors = leader.communicate(timeout=180)
    assert "patient was here" in errors
    assert [cause for _, cause, _ in failures(marks)] == ["lost"]


def sent(store):
    """The messages of workers that are in the store."""
    return [decode(message) for name in store.list_answers() for message in store.get_answers(name)]


def test_jobs_leaders_and_the_server_fail_at_random(tes, start):
    """The result is right, and every task ran."""
    rng = random.Random(3)
    settings = {"cluster": there(tes), "lease_timeout": 4, "lost_retries": 30}
    tes.page = 3
    tes.loses_answers = 2
    first, marks = start("tes", "slow", 12, **settings)
    wait_for_marks(first, marks, 3)
    tes.is_away = True
    time.sleep(1)
    tes.is_away = False
    hurt(tes, rng)
    first.kill()
    first.communicate()
    second, _ = start("tes", "slow", 12, **settings)
    for _ in range(4):
        time.sleep(rng.uniform(0.2, 1.5))
        hurt(tes, rng)
    assert result(second) == str(sum(range(12)))
    assert set(counts(marks)) == {f"slow-{i}" for i in range(12)}


def test_the_leader_polls_while_the_server_takes_its_time(tes, start):
    """The second level's submission hangs; what has ended meanwhile is known all the same."""
    leader, marks = start("tes", "tree", 2, cluster=there(tes))
    wait_for_marks(leader, marks, 2)
    tes.may_create.clear()
    wait_for(lambda: tes.requests.count("POST /ga4gh/tes/v1/tasks") >= 3, "the next submission", 60)
    before = len(tes.requests)
    wait_for(lambda: len([asked for asked in tes.requests[before:] if asked.startswith("GET")]) >= 2, "questions", 60)
    wait_for(lambda: len([event for event in events(marks) if event["event"] == "done"]) == 2, "both outcomes", 60)
    tes.may_create.set()
    assert result(leader) == "1"


def test_a_shape_that_the_server_refuses_fails_its_tasks_alone(tes, start):
    leader, marks = start("tes", "large", 2, cluster=there(tes))
    _, errors = leader.communicate(timeout=200)
    assert leader.returncode == 1
    assert "1 task failed" in errors
    assert "the server has no machine of this size" in errors
    assert counts(marks) == {"slow-0": 1, "slow-1": 1}


def hurt(tes, rng):
    """End a job as a system may."""
    if live := tes.live():
        tes.stop_task(rng.choice(live), rng.choice(["PREEMPTED", "SYSTEM_ERROR", "CANCELED"]))


@pytest.fixture
def opened(tes, tmp_path):
    """Open clusters whose jobs run a script; closed at the end."""
    clusters = []

    def opened(script="exit 0", **settings):
        (tmp_path / "job.sh").write_text(script)
        words = ("sh", str(tmp_path / "job.sh"))
        cluster = TESCluster(**there(tes, poll_interval=0.1, worker_command=words) | settings)
        cluster.open(RunContext(str(tmp_path), "wf"))
        clusters.append(cluster)
        return cluster

    yield opened
    for cluster in clusters:
        cluster.close()


def batch(name="b", shape=SHAPE):
    return Batch(name, name, shape)


@pytest.mark.parametrize(
    ("state", "cause"), [("SYSTEM_ERROR", Cause.LOST), ("PREEMPTED", Cause.PREEMPTED), ("CANCELED", Cause.LOST)]
)
def test_an_action_of_the_system_is_not_an_error_of_the_task(tes, opened, state, cause):
    cluster = opened("exec sleep 60")
    (job,) = cluster.submit([batch()])
    wait_for(tes.live, "the job")
    tes.stop_task(job, state)
    update = end_of(cluster, job)
    assert update.cause is cause
    assert update.detail.startswith(state)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ({"logs": [{"exit_code": 1}]}, Cause.ERROR),
        ({"logs": [{"exit_code": 137}]}, Cause.LOST),
        ({"logs": [{"exit_code": 137}], "system_logs": ["container was OOMKilled"]}, Cause.MEMORY),
        ({"logs": [{"exit_code": 1}], "system_logs": ["no room for BLOOM"]}, Cause.ERROR),
        ({"logs": [{"exit_code": "137"}], "system_logs": None}, Cause.LOST),
        ({}, Cause.ERROR),
    ],
)
def test_executor_errors_are_told_apart(log, cause):
    assert explained("EXECUTOR_ERROR", Cause.ERROR, {"logs": [log] if log else []}).cause is cause


@pytest.mark.parametrize(("said", "cause"), [("NodePreempted", Cause.PREEMPTED), ("DiskFull", Cause.LOST)])
def test_a_system_error_may_be_a_preemption(said, cause):
    assert explained("SYSTEM_ERROR", Cause.LOST, {"logs": [{"system_logs": [said]}]}).cause is cause


def test_the_walltime_is_named(opened):
    cluster = opened("exec sleep 60")
    (job,) = cluster.submit([batch(shape=Resources(1, 10**8, 10**6, walltime=1))])
    assert end_of(cluster, job).cause is Cause.WALLTIME


def test_output_printed_before_the_end_of_the_walltime_is_the_log(opened, tmp_path):
    cluster = opened('echo it was here >> "$TOILFN_OUTPUT_FILE"; touch "$1/started"; exec sleep 600')
    (job,) = cluster.submit([batch(shape=Resources(1, 10**8, 10**6, walltime=3600))])
    wait_for((tmp_path / "started").exists, "the job to start")
    wait_for(lambda: (cluster.poll(0.1), cluster._live[job].deadline)[1] is not None, "the walltime to begin")
    cluster._live[job].deadline = 0.0
    update = end_of(cluster, job)
    assert update.cause is Cause.WALLTIME
    assert update.detail.startswith("took longer than its walltime of 1h 00m; CANCELED")
    assert update.log.startswith(b"it was here\n")


def test_lines_before_the_worker_are_the_only_input(tes, opened, tmp_path):
    cluster = opened('printf %s "$GREETING" > "$1/said"', job_script_prologue=['export GREETING="it\'s"'])
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None
    assert (tmp_path / "said").read_text() == "it's"
    assert [given["path"] for given in tes.tasks[job]["inputs"]] == ["/tmp/toilfn-prologue.sh"]


def test_many_jobs_are_looked_at_in_one_list_page_by_page(tes, opened):
    """Few are asked for one by one."""
    tes.page = 7
    cluster = opened()
    jobs = cluster.submit([batch(str(number)) for number in range(20)])
    tes.requests.clear()
    assert cluster.look(jobs).keys() == set(jobs)
    assert len(tes.requests) == 3
    assert all(request.startswith("GET /ga4gh/tes/v1/tasks?") for request in tes.requests)
    for job in jobs[-1:]:
        assert end_of(cluster, job).cause is None


def test_a_lost_answer_does_not_make_a_second_task(tes, opened):
    cluster = opened()
    tes.loses_answers = 1
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None
    assert len(tes.tasks) == 1


def test_a_task_whose_answer_was_lost_in_a_long_outage_is_found_when_it_is_tried_again(tes, opened):
    cluster = opened(patience=0.4)
    tes.loses_answers, tes.goes_away = 1, True
    with pytest.raises(SubmissionError) as caught:
        cluster.submit([batch()])
    assert caught.value.refusal is Refusal.AWAY
    tes.is_away = False
    (job,) = cluster.submit([batch()])
    assert end_of(cluster, job).cause is None
    assert len(tes.tasks) == 1


def test_a_task_that_is_made_after_it_was_asked_for_again_is_ended(tes, opened):
    late = threading.Event()
    tes.late.append(late)
    cluster = opened("sleep 60")
    (job,) = cluster.submit([batch()])
    assert len(tes.tasks) == 1
    late.set()

    def is_ended():
        cluster.poll(0.2)
        return [task["state"] for name, task in tes.tasks.items() if name != job] == ["CANCELED"]

    wait_for(is_ended, "the end of the second task", 30)
    assert tes.tasks[job]["state"] != "CANCELED"


def test_what_is_asked_for_is_in_the_task(opened):
    cluster = opened(zones=["z"], backend_parameters={"VmSize": "large"}, tags={"who": "me"}, env={"A": "1"})
    shape = Resources(1.5, 2 * 10**9, 10**9, (Accelerator(1),), walltime=90, preemptible=True)
    task = cluster.task(batch("name", shape), "job")
    assert task["resources"] == {
        "cpu_cores": 2, "ram_gb": 2.0, "disk_gb": 1.0, "preemptible": True, "zones": ["z"],
        "backend_parameters": {"VmSize": "large"},
    }  # fmt: skip
    own = {"toilfn.workflow": "wf", "toilfn.batch": "name", "toilfn.walltime": "90"}
    assert task["tags"] == {"who": "me", **own}
    assert task["executors"][0]["env"] == {"A": "1"}


def test_accelerators_need_the_setting_of_the_backend(opened):
    with pytest.raises(SubmissionError, match="backend_parameters"):
        opened().submit([batch(shape=Resources(accelerators=(Accelerator(1),)))])


def test_the_jobs_of_a_dead_leader_are_found_by_address(tes, opened):
    cluster = opened("exec sleep 60", user="me", password="hidden")
    (job,) = cluster.submit([batch()])
    address = cluster.address()
    assert "hidden" not in repr(address)
    again = make_again(name_of(cluster), address)
    again.open(RunContext(cluster.context.store, "wf"))
    assert again.list("wf") == {job: "b"}
    again.kill([job])
    assert end_of(again, job).cause is Cause.LOST


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, "does not respond(.|\n)*check endpoint="),
        ({"endpoint": "127.0.0.1:9"}, "invalid URL for"),
        ({"endpoint": "http://me:secret@host"}, "invalid URL for"),
        ({"image": None}, "TOILFN_IMAGE"),
        ({"user": "me", "password": "hidden"}, "TOILFN_TES_PASSWORD"),
        ({"bearer_token": "hidden"}, "TOILFN_TES_BEARER_TOKEN"),
        ({"bearer_token": "hidden", "user": "me"}, "pass only one of them"),
    ],
)
def test_wrong_settings_give_one_clear_error(tes, opened, monkeypatch, settings, words):
    """And no secret is in it."""
    monkeypatch.setattr("toilfn.clusters.tes.START_PATIENCE", 2.0)
    tes.token = "right"
    with pytest.raises((ClusterError, InputError), match=words) as caught:
        opened(**{"bearer_token": None, **settings})
    assert "hidden" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_path_of_the_endpoint_is_named(tes, opened):
    with pytest.raises(ClusterError, match="endpoint="):
        opened(endpoint=f"{tes.url}/other")


def test_an_image_that_does_not_exist_is_named(opened):
    cluster = opened(image="nosuch:1")
    (job,) = cluster.submit([batch()])
    update = end_of(cluster, job)
    assert update.cause is Cause.LOST
    assert "cannot pull the image nosuch:1" in update.detail


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_credentials_come_from_settings_or_the_environment_and_stay_there(tes, start, monkeypatch, tmp_path, kind):
    """They are in no job, no file of the store, and nothing that the leader prints."""
    secret = "s3cr3t-" + kind
    if kind == "basic":
        tes.user, tes.password = "me", secret
        monkeypatch.setenv("TOILFN_TES_USER", "me")
        monkeypatch.setenv("TOILFN_TES_PASSWORD", secret)
    else:
        tes.token = secret
        monkeypatch.setenv("TOILFN_TES_BEARER_TOKEN", secret)
    leader, _ = start("tes", "sort", 3, cluster=there(tes))
    output, errors = leader.communicate(timeout=60)
    assert output.strip() == "[0, 1, 2]", errors
    assert secret not in errors
    assert secret not in repr(tes.tasks)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
