"""Objects of buckets that are imported by their addresses: read where they are, and never read in another state."""

from __future__ import annotations

import urllib.request
import uuid
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import s3fs

import toilfn as toil
from tests.servers.fixtures import gcs_server, moto_server
from tests.servers.moto import Moto
from toilfn.cli import main
from toilfn.errors import CorruptObjectError, InputError
from toilfn.files import transfer
from toilfn.files.task_files import TaskFiles
from toilfn.stores import open_store

__all__ = ["gcs_server", "moto_server"]

CONTENT = bytes(range(256)) * 2**13


@pytest.fixture
def client(moto_server, monkeypatch, tmp_path):
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", Moto().url)
    (tmp_path / "work").mkdir()
    s3fs.S3FileSystem.clear_instance_cache()  # those of earlier tests may lead elsewhere
    client = boto3.client("s3", endpoint_url=Moto().url, region_name="us-east-1")
    client.create_bucket(Bucket="references")
    return client


@pytest.fixture
def url(client):
    """An object in a bucket."""
    key = f"{uuid.uuid4().hex}/input.bin"
    put(client, f"s3://references/{key}", CONTENT)
    return f"s3://references/{key}"


def put(client: Any, url: str, content: bytes) -> None:
    client.put_object(Bucket="references", Key=url.removeprefix("s3://references/"), Body=content)


@pytest.fixture
def session(client, tmp_path):
    """A running attempt."""
    (tmp_path / "temp").mkdir()
    with TaskFiles(open_store(tmp_path / "store"), lambda: tmp_path / "temp") as session:
        yield session


def blobs(store: Path) -> list[int]:
    return [path.stat().st_size for path in (store / "blobs").rglob("*") if path.is_file()]


@toil.task
def read(file: toil.File) -> tuple[bool, bool, str]:
    with file.open() as stream:
        streamed = stream.read() == CONTENT
    return streamed, file.path().read_bytes() == CONTENT, str(file)


def test_tasks_read_the_object_where_it_is(url, tmp_path):
    file = toil.import_file(url, link="reference")
    assert toil.compute(read(file), store=tmp_path / "store", workers=1) == (True, True, url)
    assert sum(blobs(tmp_path / "store")) < len(CONTENT)


def test_the_setting_is_for_all_imports(url, tmp_path):
    found = toil.compute(read(toil.import_file(url)), store=tmp_path / "store", link_imports="reference", workers=1)
    assert found == (True, True, url)


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT + b"x"], ids=["content", "size"])
def test_a_changed_object_is_named(url, client, session, other):
    file = toil.import_file(url, link="reference")
    put(client, url, other)
    for attempt in (file.read_bytes, file.path, lambda: toil.export(file, session.temp_dir() / "out")):
        with pytest.raises(CorruptObjectError, match=f"{url} was changed after it was imported"):
            attempt()


@pytest.mark.parametrize("size", [len(CONTENT), 20 * 2**20])
def test_a_change_while_it_is_read_is_noticed(url, client, session, size):
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    put(client, url, content)
    file = toil.import_file(url, link="reference")
    with file.open() as stream:
        assert stream.read(100) == CONTENT[:100]
        put(client, url, content[::-1])
        with pytest.raises(CorruptObjectError, match=f"{url} was changed"):
            stream.read()


def test_an_object_that_is_gone_is_named(url, client, session):
    file = toil.import_file(url, link="reference")
    client.delete_object(Bucket="references", Key=url.removeprefix("s3://references/"))
    with pytest.raises(CorruptObjectError, match=f"{url} is gone"):
        file.read_bytes()


def test_a_new_run_imports_the_present_object(url, client, tmp_path):
    store = tmp_path / "store"
    toil.compute(length(toil.import_file(url, link="reference")), store=store, workers=1)
    put(client, url, b"short")
    assert toil.compute(length(toil.import_file(url, link="reference")), store=store, workers=1) == 5


@toil.task
def length(file: toil.File) -> int:
    return len(file.read_bytes())


def test_exports_are_copies_of_the_object(url, session, tmp_path):
    file = toil.import_file(url, link="reference")
    toil.export(file, tmp_path / "out", move=True)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert not (tmp_path / "out").is_symlink()
    assert file.read_bytes() == CONTENT


def test_signed_urls_lead_to_the_object(url, session):
    file = toil.import_file(url, link="reference")
    with urllib.request.urlopen(file.url(expires="1h")) as answer:
        assert answer.read() == CONTENT


def test_the_command_reads_the_object(url, tmp_path, capfdbinary):
    toil.compute(toil.import_file(url, link="reference"), store=tmp_path / "store")
    assert main(["files", str(tmp_path / "store"), "cat", "input.bin"]) == 0
    assert capfdbinary.readouterr().out == CONTENT
    assert main(["files", str(tmp_path / "store"), "url", "input.bin"]) == 0
    with urllib.request.urlopen(capfdbinary.readouterr().out.decode().strip()) as answer:
        assert answer.read() == CONTENT


def test_a_file_that_cannot_be_referred_to_is_copied(session, tmp_path):
    (tmp_path / "local").write_bytes(b"local")
    assert toil.import_file(tmp_path / "local", link="reference").path().read_bytes() == b"local"
    toil.export(toil.import_file(tmp_path / "local"), f"memory://{session.store.id}/x")
    copy = toil.import_file(f"memory://{session.store.id}/x", link="reference")
    assert (copy.source, copy.read_bytes()) == ("", b"local")


def test_a_missing_object_is_an_error_at_once(client, session):
    with pytest.raises(InputError, match="file not found"):
        toil.import_file("s3://references/nothing", link="reference")


def test_references_in_encrypted_stores(url, client, tmp_path):
    store = open_store(tmp_path / "store", encryption_key="ab" * 32)
    (tmp_path / "temp").mkdir()
    with TaskFiles(store, lambda: tmp_path / "temp"):
        assert toil.import_file(url, link="reference").read_bytes() == CONTENT
    assert not any(b"references" in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_an_exported_object_is_read_once_for_its_digest(url, client, session, monkeypatch):
    file = toil.import_file(url)
    read = []
    monkeypatch.setattr(transfer, "_read_through", lambda place, take: (read.append(place), take(CONTENT)))
    for _ in range(3):
        toil.export(file, url)
    assert read == [url]
    put(client, url, CONTENT[::-1])
    monkeypatch.setattr(transfer, "_read_through", lambda place, take: (read.append(place), take(CONTENT[::-1])))
    toil.export(file, url)
    assert read == [url, url]
    assert toil.import_file(url).read_bytes() == CONTENT


@pytest.fixture
def folder(client):
    """A bucket's folder with some objects."""
    url = f"s3://references/{uuid.uuid4().hex}"
    for name, content in {"a.bin": CONTENT, "sub/b.bin": b"b", "sub/deep/c.bin": b"c"}.items():
        put(client, f"{url}/{name}", content)
    return url


def test_a_directory_is_imported_by_its_addresses(folder, client, session, tmp_path):
    directory = toil.import_directory(folder, link="reference")
    assert {path: entry.size for path, entry in directory.walk() if isinstance(entry, toil.File)} == {
        "a.bin": len(CONTENT), "sub/b.bin": 1, "sub/deep/c.bin": 1,
    }  # fmt: skip
    assert sum(blobs(tmp_path / "store")) < 1000
    assert str(directory["sub/b.bin"]) == f"{folder}/sub/b.bin"
    assert (directory.path() / "a.bin").read_bytes() == CONTENT
    assert directory["sub"]["deep"]["c.bin"].read_bytes() == b"c"
    put(client, f"{folder}/sub/b.bin", b"x")
    with pytest.raises(CorruptObjectError, match=f"{folder}/sub/b.bin was changed after it was imported"):
        directory["sub/b.bin"].read_bytes()


def test_a_directory_is_imported_again_when_an_object_in_it_has_changed(folder, client, tmp_path):
    def total():
        directory = toil.import_directory(folder)
        return toil.compute(sizes(directory), store=tmp_path / "store", link_imports="reference", workers=1)

    assert total() == len(CONTENT) + 2
    put(client, f"{folder}/new", b"123")
    assert total() == len(CONTENT) + 5


@toil.task
def sizes(directory: toil.Directory) -> int:
    return sum(len(entry.read_bytes()) for _, entry in directory.walk() if isinstance(entry, toil.File))


def test_an_object_is_exported_by_its_server(folder, client, session, monkeypatch):
    directory = toil.import_directory(folder, link="reference")
    target = f"s3://references/{uuid.uuid4().hex}"
    with monkeypatch.context() as patched:
        patched.setattr(s3fs.S3FileSystem, "get_file", None)
        patched.setattr(s3fs.S3FileSystem, "put_file", None)
        patched.setattr(s3fs.S3FileSystem, "open", None)
        toil.export(directory, target)
        toil.export([directory["a.bin"]], f"{target}-list")
    for place in (f"{target}/a.bin", f"{target}-list/a.bin"):
        assert toil.import_file(place).read_bytes() == CONTENT
    assert toil.import_file(f"{target}/sub/deep/c.bin").read_bytes() == b"c"
    put(client, f"{folder}/a.bin", b"changed")
    with pytest.raises(CorruptObjectError, match="was changed after it was imported"):
        toil.export(directory["a.bin"], f"{target}/again")
    assert not s3fs.S3FileSystem().exists(f"{target}/again")


@pytest.fixture
def google(gcs_server, session, monkeypatch):
    """An object of Google Cloud Storage, and its file system."""
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "tests"})
    url = f"gs://references-{uuid.uuid4().hex}/input.bin"
    system, place = fsspec.core.url_to_fs(url)
    system.mkdir(place.partition("/")[0])
    system.pipe_file(place, CONTENT)
    return url, system, place


def test_objects_of_google_are_known_by_their_generations(google, session):
    url, system, place = google
    file = toil.import_file(url, link="reference")
    assert (file.source, file.read_bytes(), file.path().read_bytes()) == (url, CONTENT, CONTENT)
    assert session.store.source_of(file.ref).state == str(system.info(place)["generation"])
    assert sum(blobs(Path(session.store.url.removeprefix("file://")))) < len(CONTENT)
    system.pipe_file(place, CONTENT)  # the same content
    with pytest.raises(CorruptObjectError, match=f"{url} was changed after it was imported"):
        file.read_bytes()
    assert toil.import_file(url, link="reference").read_bytes() == CONTENT


def test_an_object_of_google_that_is_gone_is_named(google):
    url, system, place = google
    file = toil.import_file(url, link="reference")
    system.rm_file(place)
    with pytest.raises(CorruptObjectError, match=f"{url} is gone"):
        file.read_bytes()
