"""Stores in S3: the whole contract, on a real server and on moto."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
import s3fs

import toilfn as toil
from tests.servers import moto, radosgw
from tests.servers.counting import Counting
from tests.servers.fixtures import moto_server, radosgw_server
from tests.servers.moto import Moto
from tests.servers.radosgw import KEY, KMS_KEY, SECRET, RadosGateway
from tests.servers.relay import Answer, Relay, Request
from toilfn.cli import main
from toilfn.errors import CorruptObjectError, StoreError, StoreNotFoundError
from toilfn.files.task_files import TaskFiles
from toilfn.stores import new_blob_name, open_store, options
from toilfn.stores.s3 import s3_options
from toilfn.stores.testing import StoreContract

__all__ = ["moto_server", "radosgw_server"]


def make_bucket(url: str, options: dict[str, Any]) -> str:
    """Create the bucket of a contract's stores, so that whichever test comes first finds it; return its URL."""
    open_store(f"{url}/{uuid.uuid4().hex}", **options)
    return url


@pytest.fixture(scope="module")
def ceph_bucket(radosgw_server):
    return make_bucket("s3://contract", on(radosgw_server))


@pytest.fixture(scope="module")
def moto_bucket(moto_server):
    return make_bucket("s3://contract", on(moto_server))


class TestRadosGateway(StoreContract):
    options: ClassVar = {"endpoint_url": RadosGateway().url, "create_bucket": True}
    damages = 41

    @pytest.fixture
    def url(self, ceph_bucket):
        return f'{ceph_bucket}/{uuid.uuid4().hex}/it\'s a "störe" %20#1'


class TestMoto(StoreContract):
    options: ClassVar = {"endpoint_url": Moto().url, "create_bucket": True}
    damages = 41

    @pytest.fixture
    def url(self, moto_bucket):
        return f"{moto_bucket}/{uuid.uuid4().hex}"


CUSTOMER_KEY, OTHER_KEY = "5a" * 32, "6b" * 32


@pytest.fixture
def url(radosgw_server):
    return f"s3://tests/{uuid.uuid4().hex}"


@pytest.fixture
def moto_url(moto_server):
    return f"s3://tests/{uuid.uuid4().hex}"


def on(server: Moto | RadosGateway, **more: Any) -> dict[str, Any]:
    return {"endpoint_url": server.url, "create_bucket": True, **more}


def client(server: Moto | RadosGateway) -> Any:
    return boto3.client("s3", endpoint_url=server.url)


def key_of(url: str, name: str) -> dict[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": f"{prefix}/{name}"}


def test_buckets_are_made_only_when_asked_to(radosgw_server):
    bucket = f"new-{uuid.uuid4().hex}"
    with pytest.raises(StoreNotFoundError, match=rf"bucket {bucket} of .*pass the store option create_bucket=true"):
        open_store(f"s3://{bucket}/x", endpoint_url=radosgw_server.url)
    with pytest.raises(StoreError, match="does not exist"):
        open_store(f"s3://{bucket}/x", create=False, **on(radosgw_server))
    buckets = [entry["Name"] for entry in client(radosgw_server).list_buckets()["Buckets"]]
    assert bucket not in buckets
    store = open_store(f"s3://{bucket}/x", **on(radosgw_server))
    store.destroy()
    client(radosgw_server).head_bucket(Bucket=bucket)


def test_destroying_keeps_files_that_are_not_part_of_the_store(radosgw_server, url):
    store = open_store(url, **on(radosgw_server))
    foreign = [key_of(url, "notes.txt"), key_of(url, "blobs-of-mine/x"), key_of(f"{url}x", "y")]
    for place in foreign:
        client(radosgw_server).put_object(**place, Body=b"mine")
    store.put_blob(b"x")
    store.destroy()
    for place in foreign:
        assert client(radosgw_server).get_object(**place)["Body"].read() == b"mine"
    with pytest.raises(StoreNotFoundError):
        open_store(url, create=False)


def test_wrong_credentials_are_an_error(radosgw_server, url):
    with pytest.raises(StoreError, match=r"cannot read store\.json in s3://tests/.*SignatureDoesNotMatch") as caught:
        open_store(url, **on(radosgw_server, key=KEY, secret="wrong"))
    assert "wrong" not in str(caught.value)
    options._remembered.pop(url)


def test_a_key_that_the_user_provides(radosgw_server, url, tmp_path):
    """SSE-C: the server encrypts with a key that it forgets."""
    store = open_store(url, **on(radosgw_server, sse_key=CUSTOMER_KEY))
    content = b"0123456789abcdef" * 2**20 + b"end"
    (tmp_path / "in").write_bytes(content)
    ref = store.put_blob_file(tmp_path / "in", name=new_blob_name("x"))
    store.fetch_blob(ref, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    with store.open_blob(ref) as stream:
        stream.seek(-3, 2)
        assert stream.read() == b"end"
    with pytest.raises(client(radosgw_server).exceptions.ClientError):
        client(radosgw_server).get_object(**key_of(url, ref.name))
    with pytest.raises(StoreError, match=r"cannot read store\.json"):
        open_store(url, create=False, **on(radosgw_server, sse_key=OTHER_KEY))
    with pytest.raises(StoreError, match="would have to contain your encryption key"):
        store.objects.presigned_url(ref.name, 60)
    options._remembered.pop(url)
    with pytest.raises(StoreError, match=r"cannot read store\.json"):
        open_store(url, create=False, **on(radosgw_server))


@pytest.mark.parametrize("size", [10, 17 * 2**20])
def test_a_key_that_the_server_keeps(radosgw_server, url, tmp_path, size):
    store = open_store(url, **on(radosgw_server, sse="aws:kms", sse_kms_key_id=KMS_KEY))
    (tmp_path / "in").write_bytes(bytes(size))
    ref = store.put_blob_file(tmp_path / "in")
    found = client(radosgw_server).head_object(**key_of(url, ref.name))
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)
    assert open_store(url).get_blob(ref) == bytes(size)


def test_encryption_by_the_server(moto_server, moto_url):
    ref = open_store(moto_url, **on(moto_server, sse="AES256")).put_blob(b"x")
    assert client(moto_server).head_object(**key_of(moto_url, ref.name))["ServerSideEncryption"] == "AES256"


def test_tags(radosgw_server, url):
    store = open_store(url, **on(radosgw_server, tags={"project": "a b", "cost": "42"}))
    found = client(radosgw_server).get_object_tagging(**key_of(url, store.put_blob(b"x").name))["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in found} == {"project": "a b", "cost": "42"}


class Payers(Relay):
    """Collects the requests that say who pays."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.payers: list[str] = []

    def answer(self, request: Request) -> Answer:
        self.payers.append({name.lower(): value for name, value in request.headers}.get("x-amz-request-payer", ""))
        return self.ask(request)


def test_the_requester_pays(moto_server, moto_url):
    open_store(moto_url, **on(moto_server))
    with Payers(moto.PORT).running() as relay:
        assert isinstance(relay, Payers)
        store = open_store(moto_url, endpoint_url=relay.url, requester_pays=True)
        store.put_blob(b"x")
        store.objects.delete(store.objects.list("blobs/"))
    assert set(relay.payers) == {"requester"}


class Unconditional(Relay):
    """Ignores If-None-Match, like many a server."""

    def answer(self, request: Request) -> Answer:
        headers = [(name, value) for name, value in request.headers if name.lower() != "if-none-match"]
        return self.ask(request._replace(headers=headers))


def test_a_server_without_conditional_writes_is_recognised(moto_server, moto_url, caplog):
    with Unconditional(moto.PORT).running() as relay:
        store = open_store(moto_url, **on(moto_server, endpoint_url=relay.url))
        assert not store.objects.conditional
        assert "has no conditional writes: only the lease keeps" in caplog.text
        store.log.append([b"x"])
        assert [record for _, record in open_store(moto_url).log.read()] == [b"x"]


def test_a_profile_of_the_users_configuration(radosgw_server, url, tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = on(radosgw_server, profile="lab", path_style=True, region="us-east-1")
    open_store(url, **options).log.append([b"written"])
    assert [record for _, record in open_store(url, create=False, **options).log.read()] == [b"written"]
    with pytest.raises(StoreError):
        open_store(url, create=False, **(options | {"profile": "another"}))


def test_options_become_those_of_s3fs():
    found = s3_options({"region": "eu-west-1", "path_style": True, "tags": {"a": "b c"}, "key": "k", "anon": False})
    assert found["client_kwargs"] == {"region_name": "eu-west-1"}
    assert found["config_kwargs"]["s3"] == {"addressing_style": "path"}
    assert found["s3_additional_kwargs"] == {"Tagging": "a=b%20c"}
    assert (found["key"], found["anon"]) == ("k", False)
    assert s3_options({"path_style": False})["config_kwargs"]["s3"] == {"addressing_style": "virtual"}
    assert s3_options({"sse_kms_key_id": "arn"})["s3_additional_kwargs"]["ServerSideEncryption"] == "aws:kms"
    with pytest.raises(StoreError, match="sse: unknown value 'rot13'"):
        s3_options({"sse": "rot13"})
    with pytest.raises(StoreError, match="sse_key cannot be combined"):
        s3_options({"sse": "AES256", "sse_key": CUSTOMER_KEY})


def test_large_folders_are_listed_whole(radosgw_server, url):
    with Counting(radosgw.PORT).running() as relay:
        assert isinstance(relay, Counting)
        store = open_store(url, **on(radosgw_server, endpoint_url=relay.url))
        with ThreadPoolExecutor(16) as pool:
            refs = {ref.name for ref in pool.map(store.put_blob, (b"%d" % n for n in range(1100)))}
        relay.seen.clear()
        assert set(store.objects.list("blobs/")) == refs
        assert relay.seen["GET list"] == 17, "one page, then sixteen digits at the same time"
        assert store.objects.requests > 1100
        assert store.collect([]) == 1100
    assert relay.seen["POST other"] <= 2, "a thousand objects are deleted by one request"


def test_a_fork_has_connections_of_its_own(radosgw_server, url):
    code = """
import os, sys
from toilfn.stores import open_store
store = open_store(sys.argv[1], endpoint_url=sys.argv[2], create_bucket=True)
store.put_blob(b"before")
if (child := os.fork()) == 0:
    store.put_blob(b"child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.put_blob(b"after")
print(len(list(store.objects.list("blobs/"))))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, url, radosgw_server.url]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout == "3\n"


# Workflows


@toil.task
def written(text: str) -> toil.File:
    with toil.open_write("result.txt", "w") as file:
        file.write(text)
    return file.file


@toil.task
def command_lines(file: toil.File) -> str:
    """Give what every process of the machine shows."""
    file.read_text()
    return "\n".join(path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline"))


def test_a_result_has_a_url(radosgw_server, url, capsys):
    file = toil.compute(written("for you"), store=url, store_options=on(radosgw_server), progress=False)
    assert file.read_text() == "for you"
    assert main(["files", url, "url", "result.txt", "--store-options", f"endpoint_url={radosgw_server.url}"]) == 0
    link = capsys.readouterr().out.strip()
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"for you"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(link.partition("?")[0])
    assert main(["files", str(Path.cwd() / "no-store"), "url", "x"]) == 2


def test_the_url_of_a_file_in_a_directory_is_its_place(tmp_path, capsys):
    toil.compute(written("x"), store=tmp_path / "store", progress=False)
    capsys.readouterr()
    assert main(["files", str(tmp_path / "store"), "url", "result.txt"]) == 0
    with urllib.request.urlopen(capsys.readouterr().out.strip()) as content:
        assert content.read() == b"x"


def test_no_secret_is_written_anywhere(radosgw_server, url, tmp_path, capfd):
    secrets = {"secret": SECRET, "sse_key": CUSTOMER_KEY, "encryption_key": OTHER_KEY}
    given = on(radosgw_server, key=KEY, **secrets)
    how = {"progress": False, "workers": 1, "write_logs": tmp_path / "logs", "write_logs_success": True}
    shown = toil.compute(command_lines(written("x")), store=url, store_options=given, log_level="debug", **how)
    places = [shown, *capfd.readouterr()]
    places += [path.read_text() for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    place = open_store(url).objects._inner
    places += [repr(place.get(name)) for name in place.list("")]
    places += [repr(record) for _, record in open_store(url).log.read()]
    for secret in secrets.values():
        assert not [text for text in places if re.search(re.escape(secret), text)]
    with pytest.raises(CorruptObjectError, match="a key other than"):
        open_store(url, **{**given, "encryption_key": CUSTOMER_KEY})


def test_imports_and_exports(radosgw_server, url, tmp_path):
    place = f"s3://tests/{uuid.uuid4().hex}"
    open_store(url, **on(radosgw_server))  # makes the bucket
    client(radosgw_server).put_object(**key_of(place, "in.txt"), Body=b"brought in")

    @toil.task
    def shout(file: toil.File) -> toil.File:
        return written.__wrapped__(file.read_text().upper())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", radosgw_server.url)
        wanted = toil.export(shout(toil.import_file(f"{place}/in.txt")), f"{place}/out.txt")
        assert toil.compute(wanted, store=tmp_path / "store", progress=False, workers=1) == f"{place}/out.txt"
    assert client(radosgw_server).get_object(**key_of(place, "out.txt"))["Body"].read() == b"BROUGHT IN"


class Refusing(Relay):
    """Answers a conditional write by 501, as Amazon's list of errors has it for an unknown header."""

    def answer(self, request: Request) -> Answer:
        if any(name.lower() == "if-none-match" for name, _ in request.headers):
            body = (
                b"<Error><Code>NotImplemented</Code>"
                b"<Message>A header you provided implies functionality that is not implemented</Message></Error>"
            )
            return Answer(501, [("Content-Type", "application/xml")], body)
        return self.ask(request)


def test_a_server_that_refuses_conditional_writes_is_used_without(moto_server, moto_url, caplog):
    with Refusing(moto.PORT).running() as relay:
        store = open_store(moto_url, **on(moto_server, endpoint_url=relay.url))
        assert not store.objects.conditional
        assert "has no conditional writes: only the lease keeps" in caplog.text
        store.log.append([b"x"])
        assert [record for _, record in open_store(moto_url).log.read()] == [b"x"]


class Altering(Relay):
    """Alters the next body that is sent or answered."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.method = ""

    def answer(self, request: Request) -> Answer:
        if request.method != self.method:
            return self.ask(request)
        self.method = ""
        if request.method == "PUT":
            return self.ask(request._replace(body=altered(request.body)))
        answer = self.ask(request)
        return answer._replace(body=altered(answer.body))


def altered(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


def test_one_altered_answer_is_no_damage(radosgw_server, url, tmp_path):
    with Altering(radosgw.PORT).running() as relay:
        assert isinstance(relay, Altering)
        store = open_store(url, **on(radosgw_server, endpoint_url=relay.url))
        store.log.append([b"x"])
        ref = store.put_blob(b"content")
        relay.method = "GET"
        assert store.get_blob(ref) == b"content"
        relay.method = "GET"
        store.fetch_blob(ref, tmp_path / "x")
        relay.method = "GET"
        assert [record for _, record in open_store(url).log.read()] == [b"x"]


def test_a_write_that_arrives_altered_is_sent_again(radosgw_server, url):
    with Altering(radosgw.PORT).running() as relay:
        assert isinstance(relay, Altering)
        store = open_store(url, **on(radosgw_server, endpoint_url=relay.url))
        relay.method = "PUT"
        store.log.append([b"x"])
        relay.method = "PUT"
        ref = store.put_blob(b"content")
        assert store.get_blob(ref) == b"content"
        assert [record for _, record in open_store(url).log.read()] == [b"x"]


def test_clean_says_what_a_bucket_with_versions_keeps(moto_server, capsys):
    bucket = f"versioned-{uuid.uuid4().hex}"
    client(moto_server).create_bucket(Bucket=bucket)
    client(moto_server).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    url = f"s3://{bucket}/run"
    open_store(url, **on(moto_server)).put_blob(b"x")
    assert main(["clean", url, "--yes", "--store-options", f"endpoint_url={moto_server.url}"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"removed s3://versioned-\w+/run, but its bucket keeps \d+ old versions", told)
    assert "NoncurrentVersionExpiration" in told


def test_unfinished_uploads_are_garbage(moto_server, moto_url):
    store = open_store(moto_url, **on(moto_server))
    s3 = client(moto_server)
    s3.create_multipart_upload(**key_of(moto_url, "blobs/aa/x"))
    s3.create_multipart_upload(Bucket="tests", Key="another/x")
    store.collect(())
    left = [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="tests").get("Uploads", ())]
    assert not [key for key in left if key.startswith(moto_url.removeprefix("s3://tests/"))]
    assert "another/x" in left


@pytest.mark.parametrize("region", [None, "us-east-1", "eu-west-1"])
def test_urls_are_signed_by_version_4_for_seven_days_at_most(moto_server, moto_url, region):
    store = open_store(moto_url, **on(moto_server, **({"region": region} if region else {})))
    ref = store.put_blob(b"x")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in store.objects.presigned_url(ref.name, 3600)
    for seconds in (0, -1, 7 * 86400 + 1):
        with pytest.raises(StoreError, match="choose between 1 second and 7 days"):
            store.objects.presigned_url(ref.name, seconds)


class Told(Relay):
    """Answers everything in one way."""

    def __init__(self, upstream: int, status: int, code: str, message: str, headers: list[tuple[str, str]]) -> None:
        super().__init__(upstream)
        self.told = (status, code, message, headers)

    def answer(self, request: Request) -> Answer:
        status, code, message, headers = self.told
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        return Answer(status, [("Content-Type", "application/xml"), *headers], body)


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (403, "AccessDenied", "Access Denied", "s3:ListBucket"),
        (400, "AuthorizationHeaderMalformed", "the region 'a' is wrong; expecting 'eu-west-1'", "store option region="),
        (400, "ExpiredToken", "The provided token has expired.", "renew the credentials"),
        (
            400,
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption.",
            "store option sse_key",
        ),
        (400, "InvalidBucketName", "The specified bucket is not valid.", "check the bucket's name"),
    ],
)
def test_errors_of_the_server_come_with_advice(moto_server, moto_url, status, code, message, hint):
    with Told(moto.PORT, status, code, message, []).running() as relay, pytest.raises(StoreError) as raised:
        open_store(moto_url, endpoint_url=relay.url, region="us-east-1")
    assert hint in str(raised.value)


def point_to_moto(monkeypatch):
    """Make s3:// URLs lead to moto; s3fs keeps file systems, and those of earlier tests may lead elsewhere."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", Moto().url)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("size", [10, 9 * 2**20])
def test_an_export_to_the_same_server_is_copied_there(moto_server, tmp_path, monkeypatch, size):
    point_to_moto(monkeypatch)
    store = open_store(f"s3://contract/{uuid.uuid4().hex}", endpoint_url=Moto().url, create_bucket=True)
    target = f"s3://contract/exports/{uuid.uuid4().hex}"
    with TaskFiles(store, lambda: tmp_path):
        with toil.open_write("x") as writer:
            writer.write(b"x" * size)
        with monkeypatch.context() as patched:
            patched.setattr(store.objects, "download", None)
            patched.setattr(store.objects, "open", None)
            toil.export(writer.file, target)
        assert toil.import_file(target).checksum == writer.file.checksum


def test_an_export_to_another_server_passes_through_here(moto_server, radosgw_server, tmp_path, monkeypatch):
    point_to_moto(monkeypatch)
    options = {"endpoint_url": RadosGateway().url, "create_bucket": True, "key": KEY, "secret": SECRET}
    store = open_store(f"s3://contract/{uuid.uuid4().hex}", **options)
    target = f"s3://contract/exports/{uuid.uuid4().hex}"
    open_store(f"s3://contract/{uuid.uuid4().hex}", endpoint_url=Moto().url, create_bucket=True)
    with TaskFiles(store, lambda: tmp_path):
        with toil.open_write("x") as writer:
            writer.write(b"content")
        toil.export(writer.file, target)
        assert toil.import_file(target).read_bytes() == b"content"


@pytest.mark.parametrize("size", [0, 1000, 30 * 2**20])
def test_a_file_goes_up_while_it_is_written(moto_server, tmp_path, size):
    store = open_store(f"s3://contract/{uuid.uuid4().hex}", endpoint_url=Moto().url, create_bucket=True)
    with TaskFiles(store, lambda: tmp_path):
        tracemalloc.start()
        with toil.open_write("x") as writer:
            for _ in range(size // 1000):
                writer.write(b"x" * 1000)
            writer.write(b"x" * (size % 1000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert not list(tmp_path.iterdir())  # no local file
        assert peak < 28 * 2**20
        assert writer.file.size == size
        assert writer.file.read_bytes() == b"x" * size


def fail_to_write(size):
    with toil.open_write("x", "w") as writer:
        writer.write("x" * size)
        raise KeyError


@pytest.mark.parametrize("size", [1000, 20 * 2**20])
def test_nothing_is_left_of_a_file_whose_task_failed(moto_server, tmp_path, size):
    store = open_store(f"s3://contract/{uuid.uuid4().hex}", endpoint_url=Moto().url, create_bucket=True)
    with TaskFiles(store, lambda: tmp_path) as files:
        with pytest.raises(KeyError):
            fail_to_write(size)
        assert not files.made
        with toil.open_write("seeks", seekable=True) as other:
            other.write(b"bad")
            other.seek(0)
            other.write(b"bet")
        assert other.file.read_bytes() == b"bet"
    assert [name.rpartition("-")[2] for name in store.objects.list("blobs/")] == ["seeks"]
    assert store.objects.sweep(0) == 0  # no parts of an upload either
