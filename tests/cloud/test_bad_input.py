"""Launches that a cloud refuses, as a user types them: one message with a hint, no success, nothing left behind.

AWS is moto, and what moto never refuses is answered in its place, in the form that EC2 and IAM have. Google is the
fake; wrong clocks and expired credentials are met by google-auth itself, with a token server that refuses.
"""

from __future__ import annotations

import http.server
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs

import moto
import pytest
import requests
from botocore.awsrequest import AWSResponse
from botocore.exceptions import SSLError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.core.botocore_stubber import BotocoreStubber
from moto.ec2.models import instance_types

from tests.cloud import test_aws, test_google
from tests.servers.google import PROJECT, REGION, FakeGoogle, RefusalError
from toilfn import cli
from toilfn.cloud import google_client
from toilfn.clusters.awsbatch.aws import Amazon

COMMANDS = {
    "show": [],
    "destroy": [],
    "ssh": ["--", "hostname"],
    "rsync": ["--", "-a", "file", ":"],
    "forward": ["8080"],
    "grow": ["cpu", "1"],
}
EXPIRED = "set this machine's clock and try again; if it is right, renew your credentials"


@pytest.fixture
def launched(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str]]:
    """A function that runs a subcommand where there is a description; it returns the status and the one message."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *words: str) -> tuple[int, str]:
        (tmp_path / "cluster.yaml").write_text(text)
        capsys.readouterr()
        status = cli.main(["cluster", *words])
        said = capsys.readouterr().err
        assert said.count("toilfn: ") == (status != 0), said
        return status, said

    return run


# AWS


@pytest.fixture
def aws(monkeypatch) -> Iterator[str]:
    """The name of a cluster that does not exist, in a region with few machine types: moto is slow with all of them."""
    backend = instance_types.InstanceTypeBackend
    few = [kind for kind in backend.instance_types if kind["InstanceType"].startswith(("c5.", "m5.", "t3."))]
    monkeypatch.setattr(backend, "instance_types", few)
    with moto.mock_aws():
        yield f"c{uuid.uuid4().hex[:12]}"


def aws_text(name: str, *changes: tuple[str, str]) -> str:
    text = test_aws.TEXT.replace("NAME", name).replace("KEY", test_aws.SECRETS.host_public)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def left_at_aws(name: str) -> list[str]:
    return test_aws.everything(Amazon(test_aws.REGION), name)


def refuse(monkeypatch, action: str, code: str, message: str) -> None:
    """Answer requests for an action as EC2 and IAM answer those that they refuse; without a code, fail to connect."""
    send = BotocoreStubber.__call__

    def answer(stubber, event_name, request, **more):
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
        if parse_qs(body).get("Action") != [action]:
            return send(stubber, event_name, request, **more)
        if not code:
            raise SSLError(endpoint_url=request.url, error=message)
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        is_iam = "iam." in request.url
        raw = io.BytesIO(
            f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode() if is_iam
            else f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()
        )  # fmt: skip
        raw.stream = lambda **more: [raw.read()]
        return AWSResponse(request.url, 403 if is_iam else 400, {"Content-Type": "text/xml"}, raw)

    monkeypatch.setattr(BotocoreStubber, "__call__", answer)


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (("c5.2xlarge", "c5.enormous"), "lacks one of the machine types", "describe-instance-type-offerings"),
        (("tags:", "zones: [eu-central-1z]\ntags:"), "no subnet to use in zone 'eu-central-1z'", "eu-central-1a"),
        (("types: [m5.large]", "types: [m5]"), "lacks one of the machine types", "describe-instance-type"),
    ],
)
def test_what_aws_does_not_have(aws, launched, change, said, hint):
    status, shown = launched(aws_text(aws, change), "launch", aws)
    assert status != 0
    assert said in shown
    assert hint in shown
    assert left_at_aws(aws) == []


@pytest.mark.parametrize(
    ("action", "code", "message", "hint"),
    [
        ("RunInstances", "VcpuLimitExceeded", "You have requested more vCPU capacity", "request a higher quota"),
        ("RunInstances", "InsufficientInstanceCapacity", "There is no capacity", "launch again to continue, or remove"),
        ("DescribeInstanceTypes", "AuthFailure", "AWS was not able to validate", "provide credentials"),
        ("DescribeInstanceTypes", "RequestExpired", "Request has expired.", EXPIRED),
        ("GetRole", "ExpiredToken", "The security token included in the request is expired", "provide credentials"),
        ("GetRole", "InvalidClientTokenId", "The security token included in the request is invalid", "provide cred"),
        ("GetRole", "SignatureDoesNotMatch", "Signature expired: 20261130T1200Z is now earlier", "machine's clock"),
        ("GetRole", "SignatureDoesNotMatch", "Signature not yet current: 20261130T1200Z", "machine's clock"),
        ("GetRole", "SignatureDoesNotMatch", "The signature does not match", "provide credentials"),
        ("DescribeInstanceTypes", "", "certificate verify failed: certificate is not yet valid", "machine's clock"),
        ("CreateSecurityGroup", "UnauthorizedOperation", "You are not authorized", "grant this user or role"),
    ],
)
def test_what_aws_refuses(aws, launched, monkeypatch, action, code, message, hint):
    with monkeypatch.context() as patched:
        refuse(patched, action, code, message)
        status, shown = launched(aws_text(aws), "launch", aws)
        assert status == 1
        assert message in shown
        assert hint in shown
    if left_at_aws(aws):
        assert f"toilfn cluster destroy {aws}" in shown
        assert launched(aws_text(aws), "destroy", aws)[0] == 0
    assert left_at_aws(aws) == []


def test_no_credentials_for_aws(aws, launched, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            patched.delenv(name, raising=False)
        patched.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patched.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        patched.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        status, shown = launched(aws_text(aws), "launch", aws)
    assert status == 1
    assert "Unable to locate credentials" in shown
    assert "AWS_PROFILE" in shown
    assert left_at_aws(aws) == []


def test_an_existing_cluster_of_the_same_name_at_aws(aws, launched):
    assert launched(aws_text(aws), "launch", aws)[0] == 0
    before = left_at_aws(aws)
    status, shown = launched(aws_text(aws), "launch", aws)
    assert status == 1
    assert "already exists" in shown
    assert f"choose another name, or remove it: toilfn cluster destroy {aws}" in shown
    assert left_at_aws(aws) == before
    assert launched(aws_text(aws), "destroy", aws)[0] == 0
    assert left_at_aws(aws) == []


def own_role(amazon: Amazon, name: str, *, remove: bool) -> None:
    role = f"toilfn-{name}-{test_aws.REGION}-controller"
    if remove:
        amazon.ask("iam", "delete_role", RoleName=role)
    else:
        amazon.ask("iam", "create_role", RoleName=role, AssumeRolePolicyDocument="{}")


def own_profile(amazon: Amazon, name: str, *, remove: bool) -> None:
    profile = f"toilfn-{name}-{test_aws.REGION}-worker"
    amazon.ask(
        "iam", "delete_instance_profile" if remove else "create_instance_profile", InstanceProfileName=profile
    )  # fmt: skip


def own_group(amazon: Amazon, name: str, *, remove: bool) -> None:
    if remove:
        amazon.ask("ec2", "delete_security_group", GroupName=f"toilfn-{name}")
    else:
        amazon.ask("ec2", "create_security_group", GroupName=f"toilfn-{name}", Description="of somebody else")


def own_key(amazon: Amazon, name: str, *, remove: bool) -> None:
    amazon.ask("ec2", "delete_key_pair" if remove else "create_key_pair", KeyName=f"toilfn-{name}")


def own_template(amazon: Amazon, name: str, *, remove: bool) -> None:
    template = f"toilfn-{name}-cpu"
    if remove:
        amazon.ask("ec2", "delete_launch_template", LaunchTemplateName=template)
    else:
        data = {"ImageId": test_aws.IMAGE}
        amazon.ask("ec2", "create_launch_template", LaunchTemplateName=template, LaunchTemplateData=data)


@pytest.mark.parametrize("own", [own_role, own_profile, own_group, own_key, own_template])
def test_a_name_that_somebody_else_has_at_aws(aws, launched, own):
    amazon = Amazon(test_aws.REGION)
    own(amazon, aws, remove=False)
    status, shown = launched(aws_text(aws), "launch", aws)
    assert status == 1
    assert "another resource has this name: choose another name" in shown
    if "what exists now: nothing" not in shown:
        assert launched(aws_text(aws), "destroy", aws)[0] == 0
    own(amazon, aws, remove=True)  # it was left alone
    assert left_at_aws(aws) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_that_aws_does_not_have(aws, launched, command):
    status, shown = launched(aws_text(aws), command, aws, *COMMANDS[command])
    assert status == 2
    assert f"cluster {aws!r} not found in {test_aws.REGION}" in shown
    assert "toilfn cluster list" in shown


def test_a_cluster_without_a_controller_is_not_taken_for_none(aws, launched):
    own = [{"ResourceType": "volume", "Tags": [{"Key": "toilfn-cluster", "Value": aws}]}]
    Amazon(test_aws.REGION).ask(
        "ec2", "create_volume", AvailabilityZone=f"{test_aws.REGION}a", Size=1, TagSpecifications=own
    )
    for command in ("ssh", "grow"):
        status, shown = launched(aws_text(aws), command, aws, *COMMANDS[command])
        assert status == 2
        assert "it has no controller" in shown
        assert f"toilfn cluster show {aws}" in shown
    assert launched(aws_text(aws), "destroy", aws)[0] == 0


# Google


@pytest.fixture
def google(monkeypatch) -> FakeGoogle:
    fake = FakeGoogle()
    monkeypatch.setattr(google_client, "open_session", lambda: (fake.session(), PROJECT))
    return fake


def google_text(*changes: tuple[str, str]) -> str:
    text = test_google.TEXT.replace("NAME", "lab").replace("KEY", test_google.SECRETS.host_public)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (("[n2d-standard-4]", "[n2d-standard-5]"), "has the machine type n2d-standard-5", "machine-types list"),
        (("tags:", f"zones: [{REGION}-z]\ntags:"), f"no zone '{REGION}-z'", f"from its zones: {REGION}-a"),
        ((f"region: {REGION}", "region: mars"), "Google has no region 'mars'", "gcloud compute regions list"),
        (("{allow_from", "{subnets: [none], allow_from"), "has no subnet 'none'", "network: subnets"),
    ],
)
def test_what_google_does_not_have(google, launched, change, said, hint):
    status, shown = launched(google_text(change), "launch", "lab")
    assert status == 2
    assert said in shown
    assert hint in shown
    assert test_google.everything(google) == []


@pytest.mark.parametrize(
    ("method", "refusal", "hint"),
    [
        ("compute.instances.insert", RefusalError(403, "quotaExceeded", "Quota 'CPUS' exceeded"), "a higher quota"),
        ("compute.regions.get", RefusalError(401, "authError", "Invalid Credentials"), "gcloud auth application-"),
        ("compute.regions.get", RefusalError(403, "accessNotConfigured", "not been used"), "enable this API"),
        ("iam.projects.serviceAccounts.get", RefusalError(403, "forbidden", "Permission"), "grant this user the perm"),
    ],
)
def test_what_google_refuses(google, launched, method, refusal, hint):
    google.refused[method] = refusal
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert str(refusal) in shown
    assert hint in shown
    del google.refused[method]
    if test_google.everything(google):
        assert "toilfn cluster destroy lab" in shown
        assert launched(google_text(), "destroy", "lab")[0] == 0
    assert test_google.everything(google) == []


def test_a_quota_that_google_finds_exceeded_while_it_makes_the_controller(google, launched):
    google.broken["compute.instances.insert"] = ("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded")
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert "request a higher quota from Google" in shown
    assert launched(google_text(), "destroy", "lab")[0] == 0
    assert test_google.everything(google) == []


class TokenServer(http.server.HTTPServer):
    """Refuses to give tokens, for the reason that it is told."""

    reason = ""


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": "invalid_grant", "error_description": self.server.reason}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Write nothing."""


@pytest.fixture
def tokens(monkeypatch, tmp_path) -> Iterator[TokenServer]:
    """A server for tokens, and the file of a service account that names it as the default credentials."""
    with TokenServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account", "project_id": PROJECT, "client_email": "me@example.org",
            "private_key": key.decode(), "token_uri": f"http://127.0.0.1:{server.server_address[1]}/token",
        }  # fmt: skip
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.", "clock"),
        ("Token has been expired or revoked.", "gcloud auth application-default login"),
        ("Invalid grant: account not found", "gcloud auth application-default login"),
    ],
)
def test_credentials_that_google_does_not_accept_now(tokens, launched, reason, hint):
    tokens.reason = reason
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert reason in shown
    assert hint in shown


def test_a_clock_that_is_wrong_for_the_certificate_of_google(google, launched, monkeypatch):
    def fail(*words: object, **more: object) -> None:
        raise requests.exceptions.SSLError("certificate verify failed: certificate is not yet valid (_ssl.c:992)")

    monkeypatch.setattr(google, "send", fail)
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert "set this machine's clock" in shown


def test_no_credentials_for_google(launched, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert "none.json" in shown
    assert "gcloud auth application-default login" in shown


def test_an_existing_cluster_of_the_same_name_at_google(google, launched):
    assert launched(google_text(), "launch", "lab")[0] == 0
    before = test_google.everything(google)
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert "choose another name, or remove it: toilfn cluster destroy lab" in shown
    assert test_google.everything(google) == before
    assert launched(google_text(), "destroy", "lab")[0] == 0
    assert test_google.everything(google) == []


_ZONE = f"{REGION}-a"


@pytest.mark.parametrize(
    ("kind", "name", "there"),
    [
        ("accounts", f"toilfn-lab-w@{PROJECT}.iam.gserviceaccount.com", {"description": "of somebody else"}),
        ("firewalls", "toilfn-lab-ssh", {"name": "toilfn-lab-ssh", "description": "of somebody else"}),
        ("templates", "toilfn-lab-cpu", {"name": "toilfn-lab-cpu", "properties": {}}),
        ("instances", (_ZONE, "toilfn-lab-controller"), {"name": "toilfn-lab-controller", "zone": _ZONE, "labels": {}}),
    ],
)
def test_a_name_that_somebody_else_has_at_google(google, launched, kind, name, there):
    getattr(google, kind)[name] = dict(there)
    status, shown = launched(google_text(), "launch", "lab")
    assert status == 1
    assert "another resource has this name: choose another name" in shown
    assert launched(google_text(), "destroy", "lab")[0] == 0
    assert getattr(google, kind) == {name: there}  # it was left alone
    assert test_google.everything(google) == [str(name)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_that_google_does_not_have(google, launched, command):
    status, shown = launched(google_text(), command, "lab", *COMMANDS[command])
    assert status == 2
    assert f"cluster 'lab' not found in project {PROJECT}" in shown
    assert "toilfn cluster list" in shown


# Commands that name a store


@pytest.mark.parametrize("command", ["ahead", "plan"])
def test_a_store_that_does_not_exist(launched, tmp_path, command):
    status, shown = launched(google_text(), command, str(tmp_path / "none"))
    assert status == 2
    assert str(tmp_path / "none") in shown
