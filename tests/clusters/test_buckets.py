"""Clusters whose jobs share nothing with the leader but a bucket, and who gets to see its credentials: nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.clusters.leaders import counts
from tests.servers.awsbatch import QUEUE, AWSBatch
from tests.servers.containers import IMAGE
from tests.servers.fake.mesos import FakeMesos
from tests.servers.fake.tes import FakeTES
from tests.servers.fixtures import (
    awsbatch_server,
    containers,
    gcs_server,
    kubernetes,
    kubernetes_server,
    radosgw_server,
)  # fmt: skip
from tests.servers.gcs import PORT
from tests.servers.kubernetes import IMAGE as NODE_IMAGE
from tests.servers.kubernetes import TOKEN, Kubernetes
from tests.servers.radosgw import SECRET, RadosGateway
from tests.servers.relay import Answer, Relay, Request
from toilfn.stores import open_store

__all__ = ["awsbatch_server", "containers", "gcs_server", "kubernetes", "kubernetes_server", "radosgw_server"]

WORKFLOW = Path(__file__).with_name("workflow.py")


@pytest.fixture
def role(radosgw_server: RadosGateway, tmp_path: Path) -> list[str]:
    """Lines with which jobs have the machine's credentials, not the leader's."""
    place = tmp_path / "role"
    place.write_text("".join(f"export {name}={value}\n" for name, value in radosgw_server.environment.items()))
    return [f". {place}"]


@pytest.fixture
def on_tes(role: list[str]) -> Iterator[dict[str, Any]]:
    with FakeTES().running() as fake:
        settings = {"endpoint": fake.url, "image": "toilfn:test", "python": sys.executable, "poll_interval": 0.3}
        yield {**settings, "job_script_prologue": role}
        assert SECRET not in repr(fake.tasks)


@pytest.fixture
def on_mesos(role: list[str]) -> Iterator[dict[str, Any]]:
    with FakeMesos().running() as fake:
        yield {"endpoint": fake.address, "job_script_prologue": role}


@pytest.fixture
def on_awsbatch(awsbatch_server: AWSBatch, role: list[str], tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield {
        "endpoint_url": awsbatch_server.url, "queue": QUEUE, "image": IMAGE, "python": sys.executable,
        "volumes": {**awsbatch_server.folders, str(tmp_path): str(tmp_path)}, "poll_interval": 0.5,
        "job_script_prologue": role,
    }  # fmt: skip
    client = awsbatch_server.client("batch")
    jobs = [
        job["jobId"]
        for status in ("SUCCEEDED", "FAILED")
        for job in client.list_jobs(jobQueue=QUEUE, jobStatus=status)["jobSummaryList"]
    ]
    assert jobs
    assert SECRET not in repr([client.describe_jobs(jobs=[job]) for job in jobs])
    assert SECRET not in repr(client.describe_job_definitions())
    client.close()


@pytest.fixture
def on_kubernetes(kubernetes: Kubernetes, radosgw_server: RadosGateway) -> Iterator[dict[str, Any]]:
    """Pods have the bucket's credentials from a secret."""
    name, place = f"bucket-{uuid.uuid4().hex[:8]}", "/api/v1/namespaces/default/secrets"
    secret = {"metadata": {"name": name}, "stringData": radosgw_server.environment}
    kubernetes.ask(place, method="POST", body=secret)
    yield {"image": NODE_IMAGE, "python": sys.executable, "poll_interval": 0.5, "secret_env": [name]}
    kubernetes.ask(f"{place}/{name}", method="DELETE")


def command_lines() -> set[bytes]:
    """What everybody on this machine sees of the processes that run now."""
    seen = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            seen.add(path.read_bytes())
    return seen


def watched(words: list[str], said: Path) -> tuple[str, set[bytes]]:
    """Run a workflow to its end; give what it printed, and the command lines that were seen meanwhile."""
    lines: set[bytes] = set()
    with (
        said.open("w") as stream,
        subprocess.Popen([sys.executable, str(WORKFLOW), *words], stdout=stream, stderr=stream) as leader,
    ):
        while leader.poll() is None:
            lines |= command_lines()
            with suppress(subprocess.TimeoutExpired):
                leader.wait(0.2)
    assert leader.returncode == 0, said.read_text()
    return said.read_text(), lines


def check_hidden(secrets: list[str], url: str, options: dict[str, Any], printed: str, lines: set[bytes]) -> None:
    """See that no secret is in what was printed, in a command line, or in the store."""
    assert any(url.encode() in line for line in lines), "nothing was seen of the leader"
    objects = open_store(url, **options).objects
    content = {name: objects.get(name) for name in objects.list("")}
    for secret in secrets:
        assert secret not in printed
        assert not [line for line in lines if secret.encode() in line]
        assert not [name for name, data in content.items() if secret.encode() in data]


@pytest.mark.parametrize("name", ["tes", "mesos", "awsbatch", "kubernetes"])
def test_merge_sort_in_a_bucket_shows_credentials_nowhere(
    name: str, radosgw_server: RadosGateway, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The bucket's credentials are also those of AWS Batch; Kubernetes has a token of its own."""
    options = {"endpoint_url": radosgw_server.url, "create_bucket": True}
    settings = {"cluster": request.getfixturevalue(f"on_{name}"), "store_options": options}
    url = f"s3://clusters/{uuid.uuid4().hex}"
    marks = tmp_path / "marks"
    marks.mkdir()
    printed, lines = watched([name, url, str(marks), "sort", "3", json.dumps(settings)], tmp_path / "said")
    assert counts(marks) == {"sort": 3, "merge": 1}
    check_hidden([SECRET, TOKEN], url, options, printed, lines)


ACCESS = "ya29-a-token-of-tests"


class Google(Relay):
    """Google Storage that lets in who has the token, and a place that gives the token to who has a key."""

    def __init__(self) -> None:
        super().__init__(PORT)
        self.signed = 0

    def answer(self, request: Request) -> Answer:
        """Check a request."""
        if request.path == "/token":
            self.signed += b"assertion=" in request.body
            told = {"access_token": ACCESS, "expires_in": 3600, "token_type": "Bearer"}
            return Answer(200, [("Content-Type", "application/json")], json.dumps(told).encode())
        if ("authorization", f"Bearer {ACCESS}") not in [(name.lower(), value) for name, value in request.headers]:
            return Answer(401, [], b"{}")
        return self.ask(request)


def key_file(place: Path, token_uri: str) -> list[str]:
    """Write a service account's key as Google gives it out; give the key's lines."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"type": "service_account", "client_email": "me@tests", "token_uri": token_uri, "project_id": "tests"}
    place.write_text(json.dumps({**account, "private_key": text}))
    return text.splitlines()[1:-1]


def test_the_key_of_a_google_account_is_shown_nowhere(gcs_server: object, tmp_path: Path) -> None:
    place, marks, google = tmp_path / "key.json", tmp_path / "marks", Google()
    marks.mkdir()
    with google.running():
        key = key_file(place, f"{google.url}/token")
        options = {"endpoint_url": google.url, "token": str(place), "project": "tests", "create_bucket": True}
        url = f"gs://clusters/{uuid.uuid4().hex}"
        settings = {"cluster": {}, "store_options": options}
        printed, lines = watched(["local", url, str(marks), "sort", "3", json.dumps(settings)], tmp_path / "said")
        assert counts(marks) == {"sort": 3, "merge": 1}
        assert google.signed
        check_hidden([ACCESS, *key], url, options, printed, lines)
