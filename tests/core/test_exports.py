"""Exports of many files: several tasks at the same time, and nothing that was delivered is delivered again."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs

import toilfn as toil
from tests.servers.counting import Counting
from tests.servers.fixtures import moto_server
from tests.servers.moto import PORT, Moto
from toilfn.errors import InputError
from toilfn.files import exchange, transfer
from toilfn.files.task_files import TaskFiles
from toilfn.model.index import Index
from toilfn.stores import open_store

__all__ = ["moto_server"]

COUNT = 7


@toil.task
def written(name: str) -> toil.File:
    with toil.open_write(name, "w") as stream:
        stream.write(name)
    return stream.file


@toil.task
def many(count: int) -> list[toil.File]:
    return [written(f"{number}.txt") for number in range(count)]


@toil.task
def folder() -> Path:
    made = toil.current().temp_dir / "folder"
    for number in range(COUNT):
        place = made / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(f"{number}.txt")
    (made / "empty").mkdir()
    return made


@pytest.fixture
def compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path))
    monkeypatch.setattr(exchange, "_GROUP", 2)
    return lambda *promises, **settings: toil.compute(*promises, store=tmp_path / "store", cluster="inline", **settings)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFiles:
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path))
    (tmp_path / "temp").mkdir()
    with TaskFiles(open_store(tmp_path / "store"), lambda: tmp_path / "temp") as session:
        yield session


def listed(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@pytest.mark.parametrize("is_list_of_promises", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_a_list_goes_into_a_directory(
    compute: Callable[..., Any], tmp_path: Path, is_list_of_promises: bool, local: bool
) -> None:
    files = [written(f"{number}.txt") for number in range(COUNT)] if is_list_of_promises else many(COUNT)
    target = tmp_path / "out"
    names = [f"{number}.txt" for number in range(COUNT)]
    assert compute(toil.export(files, target, local=local)) == [str(target / name) for name in names]
    assert [(target / name).read_text() for name in names] == names
    assert listed(target) == names


def test_a_large_directory_is_exported_by_several_tasks(compute: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert compute(toil.export(folder(), target)) == str(target)
    files = [f"{number % 2}/{number}.txt" for number in range(COUNT)]
    assert listed(target) == sorted(["0", "1", "empty", *files])
    assert compute(toil.export([folder()], f"{tmp_path}/in/")) == [f"{tmp_path}/in/folder"]
    assert listed(tmp_path / "in" / "folder") == listed(target)


def test_a_resume_exports_only_what_is_missing(
    compute: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    sent: list[str] = []
    send = transfer.send

    def failing(source: Path, url: str, **named: Any) -> None:
        if url.endswith("5.txt") and "5" not in sent:
            sent.append("5")
            raise RuntimeError("full")
        sent.append(os.path.basename(url))
        send(source, url, **named)

    monkeypatch.setattr(transfer, "send", failing)
    promise = toil.export(many(COUNT), target)
    with pytest.raises(toil.FailedTasksError, match="full"):
        compute(promise, retries=0)
    before = set(sent) - {"5"}
    assert before
    sent.clear()
    sent.append("5")
    assert len(compute(promise)) == COUNT
    assert sorted([*before, *sent[1:]]) == [f"{number}.txt" for number in range(COUNT)]
    assert len(listed(target)) == COUNT


def test_moved_files_are_links_in_the_store(compute: Callable[..., Any], tmp_path: Path) -> None:
    files = many(COUNT)
    compute(toil.export(files, tmp_path / "out", move=True))
    found = compute(files)
    assert [os.path.realpath(transfer.local_path(str(file)) or "") for file in found] == [
        str(tmp_path / "out" / file.name) for file in found
    ]
    assert [file.read_text() for file in found] == [file.name for file in found]


def test_in_a_task_it_is_done_at_once(session: TaskFiles, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = [session.put(tmp_path / name) for name in "ab"]
    assert toil.export(files, tmp_path / "out") == [str(tmp_path / "out" / name) for name in "ab"]
    assert listed(tmp_path / "out") == ["a", "b"]


def test_two_files_of_one_name_are_refused(session: TaskFiles, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    files = [session.put(tmp_path / "a"), session.put(tmp_path / "a")]
    with pytest.raises(InputError, match="two of its files are called 'a'"):
        toil.export(files, tmp_path / "out")
    with pytest.raises(InputError, match=r"cannot export item 1 of a list to .*: a str is not a File"):
        toil.export([files[0], "a"], tmp_path / "out")  # type: ignore[list-item]


def test_an_error_names_the_file(session: TaskFiles, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    file = session.put(tmp_path / "a")
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OSError, match="out"):
        toil.export([file], tmp_path / "out")


@pytest.fixture
def relay(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """A relay before an S3 server that counts requests."""
    monkeypatch.setattr(exchange, "_LISTED", 2)
    monkeypatch.setattr(exchange, "_GROUP", 20)
    monkeypatch.setattr(exchange, "_THREADS", 1)
    s3fs.S3FileSystem.clear_instance_cache()  # those of earlier tests may lead elsewhere
    relay = Counting(PORT)
    with relay.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
        yield relay
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(relay: Counting) -> str:
    name = f"exports-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=Moto().url, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/out"


def asked(relay: Counting, method: str) -> int:
    return sum(count for name, count in relay.seen.items() if name.startswith(f"{method} "))


def test_an_export_to_an_empty_place_asks_for_no_file(
    compute: Callable[..., Any], relay: Counting, bucket: str
) -> None:
    promise = toil.export(many(30), bucket)
    assert len(compute(promise)) == 30
    assert asked(relay, "PUT") == 30
    assert asked(relay, "HEAD") + asked(relay, "GET") < 10


def test_objects_that_are_already_in_a_bucket_are_not_sent_again(
    compute: Callable[..., Any], relay: Counting, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = s3fs.S3FileSystem._put_file
    others = {f"{number}.txt" for number in range(20)} - {"5.txt"}
    failures, done = ["5"], set()

    async def failing(self: s3fs.S3FileSystem, source: str, target: str, **named: Any) -> None:
        if target.endswith("/5.txt") and failures:
            while not others <= done:
                await asyncio.sleep(0.01)
            raise RuntimeError(f"full {failures.pop()}")
        await put_file(self, source, target, **named)
        done.add(target.rpartition("/")[2])

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", failing)
    promise = toil.export(many(30), bucket)
    with pytest.raises(toil.FailedTasksError, match="full"):
        compute(promise, retries=0)
    assert len(compute(promise)) == 30
    assert asked(relay, "PUT") == 30
    assert len(compute(toil.export(many(30), f"{bucket}/"))) == 30
    assert asked(relay, "PUT") == 30
    system = s3fs.S3FileSystem()
    assert {system.cat_file(path).decode() for path in system.find(bucket)} == {f"{number}.txt" for number in range(30)}


def test_a_directory_of_a_bucket_is_imported_by_several_tasks(
    compute: Callable[..., Any], relay: Counting, bucket: str, tmp_path: Path
) -> None:
    names = [f"{number % 2}/{number}.txt" for number in range(30)]
    s3fs.S3FileSystem().pipe({f"{bucket}/{name}": name.encode() for name in names})
    relay.seen.clear()
    directory = compute(toil.import_directory(bucket, "mine"))
    assert directory.name == "mine"
    assert {path: file.read_text() for path, file in directory.walk() if isinstance(file, toil.File)} == {
        name: name for name in names
    }
    assert asked(relay, "GET") + asked(relay, "HEAD") < 40
    index = Index.load(open_store(tmp_path / "store", create=False).log)
    assert len(index.outcomes) == 4  # the listing, two groups of files, and the directory


@pytest.mark.parametrize("local", [True, False])
def test_files_that_a_failed_import_of_a_directory_has_fetched_are_kept(
    compute: Callable[..., Any], relay: Counting, bucket: str, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    s3fs.S3FileSystem().pipe({f"{bucket}/{number:02}": b"x" for number in range(40)})
    get_file, failures, fetched = s3fs.S3FileSystem._get_file, ["39"], []

    async def failing(self: s3fs.S3FileSystem, source: str, *rest: Any, **named: Any) -> None:
        if source.endswith("/39") and failures:
            raise RuntimeError(f"cut {failures.pop()}")
        fetched.append(source.rpartition("/")[2])
        await get_file(self, source, *rest, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_get_file", failing)
    promise = toil.import_directory(bucket, local=local)
    with pytest.raises(toil.FailedTasksError, match="cut"):
        compute(promise, retries=0)
    assert len(compute(promise)) == 40
    assert all(fetched.count(f"{number:02}") == 1 for number in range(20))
