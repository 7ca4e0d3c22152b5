"""Credentials that are not accepted: a run ends at its start, waits later, and never forgets its jobs."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time

import pytest

from tests.servers.fake.tes import FakeTES
from tests.servers.machine import wait_for
from toilfn.clusters.awsbatch.aws import Amazon
from toilfn.clusters.awsbatch.cluster import AWSBatchCluster
from toilfn.clusters.base import Batch, JobState, RunContext
from toilfn.clusters.common.commands import CredentialsError
from toilfn.clusters.tes import TESCluster
from toilfn.errors import ClusterError, InputError
from toilfn.resources import Resources

BATCH = Batch("b", "b", Resources(cores=1, memory=200 * 10**6, disk=10**6))


def until(cluster, condition, limit=60):
    """Poll until a condition holds; give the updates."""
    end = time.monotonic() + limit
    updates = []
    while not condition(updates):
        assert time.monotonic() < end, updates
        updates += cluster.poll(0.1)
    return updates


def has_ended(updates):
    return [update for update in updates if update.state is JobState.ENDED]


@pytest.fixture
def tes():
    with FakeTES().running() as fake:
        fake.token = "first"
        yield fake


@pytest.fixture
def on_tes(tes, tmp_path):
    """A cluster with one job that runs until a file is there, and the file of its token."""
    (tmp_path / "job.sh").write_text('while ! test -e "$1/go"; do sleep 0.1; done')
    (tmp_path / "token").write_text("first\n")
    cluster = TESCluster(
        endpoint=tes.url, image="toilfn:test", poll_interval=0.1, bearer_token=f"file:{tmp_path / 'token'}",
        worker_command=("sh", str(tmp_path / "job.sh")),
    )  # fmt: skip
    outages = []
    cluster.open(RunContext(str(tmp_path), "wf", outage=outages.append))
    yield cluster, outages
    cluster.close()


def test_a_token_that_expires_is_waited_for_and_read_again(tes, on_tes, tmp_path, caplog):
    cluster, outages = on_tes
    cluster.submit([BATCH])
    wait_for(tes.live, "the job")
    tes.token = "second"
    until(cluster, lambda _: outages)
    assert "401" in outages[0]
    assert "bearer_token='file:PATH'" in outages[0]
    (tmp_path / "token").write_text("second")
    (tmp_path / "go").touch()
    (update,) = has_ended(until(cluster, has_ended))
    assert update.cause is None
    assert outages[1:] == [""]
    assert "first" not in caplog.text


def test_jobs_that_could_not_be_ended_are_named_with_the_reason(tes, on_tes, tmp_path, caplog):
    cluster, _ = on_tes
    (job,) = cluster.submit([BATCH])
    wait_for(tes.live, "the job")
    tes.token = "second"
    cluster.close()
    (told,) = [record.message for record in caplog.records if "could not cancel" in record.message]
    assert job in told
    assert "401" in told
    assert tes.live() == [job]


def test_a_token_that_is_wrong_from_the_start_is_not_waited_for(tes, tmp_path):
    cluster = TESCluster(endpoint=tes.url, image="toilfn:test", bearer_token="wrong", python=sys.executable)
    begin = time.monotonic()
    with pytest.raises(ClusterError, match="TOILFN_TES_BEARER_TOKEN"):
        cluster.open(RunContext(str(tmp_path), "wf"))
    assert time.monotonic() - begin < 20  # less than START_PATIENCE


class FakeAmazon(http.server.ThreadingHTTPServer):
    """The few answers of AWS Batch that a run needs; `errors` has codes for those that it refuses."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.errors = {}
        self.keys = []
        queue = {"jobQueueName": "q", "jobQueueArn": "arn:q", "state": "ENABLED", "status": "VALID", "priority": 1}
        self.answers = {
            "describejobqueues": {"jobQueues": [queue]},
            "describejobdefinitions": {"jobDefinitions": [{"jobDefinitionArn": "arn:d"}]},
            "submitjob": {"jobName": "n", "jobId": "job-1"},
            "describejobs": {"jobs": [{"jobId": "job-1", "jobName": "n", "status": "RUNNING"}]},
            "terminatejob": {},
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeAmazon

    def log_message(self, *_): ...

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.path.rpartition("/")[2]
        self.server.keys.append(self.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
        code = self.server.errors.get(operation)
        body = json.dumps({"message": f"no {operation}"} if code else self.server.answers[operation]).encode()
        self.send_response(403 if code else 200)
        if code:
            self.send_header("x-amzn-ErrorType", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def amazon(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
                 "AWS_DEFAULT_REGION"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    log_in(tmp_path, "FIRST")
    with FakeAmazon() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def log_in(folder, key):
    (folder / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=x\n")


@pytest.fixture
def on_amazon(amazon, tmp_path):
    cluster = AWSBatchCluster(
        endpoint_url=amazon.url, region="eu-west-1", queue="q", image="toilfn:test", poll_interval=0.1
    )
    outages = []
    cluster.open(RunContext("s3://bucket/store", "wf", outage=outages.append))
    yield cluster, outages
    amazon.errors = {}
    cluster.close()


def test_credentials_of_aws_that_expire_are_waited_for_and_looked_for_again(amazon, on_amazon, tmp_path):
    cluster, outages = on_amazon
    cluster.submit([BATCH])
    amazon.errors = {"describejobs": "ExpiredTokenException"}
    until(cluster, lambda _: outages)
    assert "ExpiredTokenException" in outages[0]
    assert "uses those that botocore finds" in outages[0]
    log_in(tmp_path, "SECOND")
    amazon.errors = {}
    until(cluster, lambda _: len(outages) > 1)
    assert outages[1:] == [""]
    assert amazon.keys[-1] == "SECOND"


@pytest.mark.parametrize("code", ["ExpiredTokenException", "AccessDeniedException"])
def test_jobs_of_aws_that_could_not_be_ended_are_named_with_the_reason(amazon, on_amazon, caplog, code):
    cluster, _ = on_amazon
    (job,) = cluster.submit([BATCH])
    amazon.errors = {"terminatejob": code}
    cluster.close()
    told = [record.message for record in caplog.records if "could not cancel" in record.message]
    assert any(job in text and code in text for text in told)


def test_credentials_of_aws_that_are_wrong_from_the_start_are_not_waited_for(amazon):
    amazon.errors = {"describejobqueues": "UnrecognizedClientException"}
    cluster = AWSBatchCluster(endpoint_url=amazon.url, region="eu-west-1", queue="q", image="toilfn:test")
    begin = time.monotonic()
    with pytest.raises(CredentialsError, match="AWS_PROFILE"):
        cluster.open(RunContext("s3://bucket/store", "wf"))
    assert time.monotonic() - begin < 20


def test_a_right_that_is_missing_at_aws_is_not_blamed_on_the_credentials(amazon):
    amazon.errors = {"describejobs": "AccessDeniedException"}
    with pytest.raises(ClusterError, match="no describejobs; grant this user or role the permission") as caught:
        Amazon("eu-west-1", None, amazon.url).ask("batch", "describe_jobs", jobs=["j"])
    assert not isinstance(caught.value, CredentialsError)


def test_a_region_that_is_not_set_is_named_with_its_settings(amazon):
    with pytest.raises(InputError, match=r"region=.*TOILFN_AWS_BATCH_REGION or AWS_DEFAULT_REGION"):
        Amazon().ask("batch", "describe_jobs", jobs=["j"])
