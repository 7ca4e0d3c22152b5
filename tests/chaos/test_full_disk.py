"""A disk that is full, or may not be written to: one clear error, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.servers.fixtures import moto_server
from tests.servers.moto import Moto

__all__ = ["moto_server"]


@toil.task(retries=0)
def block(i: int) -> bytes:
    return bytes([i]) * 3_200_000


@toil.task
def lengths(blocks: list[bytes]) -> int:
    return sum(map(len, blocks))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MiB: what tests load travels with each run, and must fit."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_reported_and_the_run_continues_later(disk: Path) -> None:
    with pytest.raises(toil.ToilfnError, match="No space left"):
        toil.compute(lengths(block.map(range(20))), store=disk / "store", progress=False)
    subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
    assert toil.resume(disk / "store", progress=False) == 64_000_000


def test_a_disk_that_may_not_be_written_to(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(toil.StoreError, match=r"store.*Read-only"):
        toil.compute(block(1), store=disk / "store", progress=False)


@toil.task(retries=0)
def large() -> toil.File:
    with toil.open_write("large") as file:
        file.write(bytes(11_200_000))
    return file.file


@toil.task(retries=0)
def copied(file: toil.File) -> toil.File:
    with toil.open_write("copy") as copy:
        copy.write(file.read_bytes())
    return copy.file


@pytest.mark.parametrize("intermediates", ["keep", "drop"])
def test_a_disk_that_is_full_of_files_is_reported_and_they_are_kept(disk: Path, intermediates: str) -> None:
    (disk / "work").mkdir()
    settings = {"store": disk / "store", "work_dir": disk / "work", "progress": False, "intermediates": intermediates}
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(copied(large()), workers=1, **settings)
    subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
    assert toil.resume(disk / "store", work_dir=disk / "work", progress=False).size == 11_200_000


def test_an_export_to_a_full_disk_leaves_the_file_in_the_store(
    disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("elsewhere") / "store"
    (disk / "filler").write_bytes(bytes(9_600_000))
    made = large()
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(toil.export(made, disk / "out", move=True), store=store, progress=False, retries=0)
    assert not list(disk.glob("*out*"))
    (disk / "filler").unlink()
    assert toil.compute(toil.export(made, disk / "out", move=True), store=store, progress=False) == str(disk / "out")
    assert toil.compute(made, store=store, progress=False).read_bytes() == bytes(11_200_000)


CONTENT = bytes(range(256)) * 44_800


@toil.task(retries=0)
def first_bytes(file: toil.File) -> bytes:
    return file.path().read_bytes()[:256]


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on another file system, with room."""
    return tmp_path_factory.mktemp("elsewhere")


def fill(disk: Path) -> Path:
    """Take all room of a disk but some for records."""
    filler = disk / "filler"
    usage = os.statvfs(disk)
    filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize - 3_200_000))
    return filler


def test_an_import_into_a_full_disk_can_be_repeated(disk: Path, elsewhere: Path) -> None:
    (elsewhere / "in").write_bytes(CONTENT)
    settings = {"store": disk / "store", "work_dir": elsewhere, "progress": False}
    filler = fill(disk)
    with pytest.raises(toil.FailedTasksError, match="No space left") as raised:
        toil.compute(first_bytes(toil.import_file(elsewhere / "in")), **settings, retries=0)
    assert "import_file" in str(raised.value)
    assert sum(path.stat().st_size for path in (disk / "store").rglob("*in")) == 0
    filler.unlink()
    assert toil.resume(disk / "store", work_dir=elsewhere, progress=False) == CONTENT[:256]


@pytest.mark.parametrize("link", ["symlink", "hard", "reflink"])
def test_an_import_by_link_from_a_full_disk_leaves_its_source(disk: Path, elsewhere: Path, link: Any) -> None:
    source = disk / "in"
    source.write_bytes(CONTENT)
    settings = {"store": disk / "store", "work_dir": elsewhere, "progress": False, "retries": 0}
    filler = fill(disk)
    promise = first_bytes(toil.import_file(source, link=link))
    if link == "reflink":  # a copy, on this kind of file system
        with pytest.raises(toil.FailedTasksError, match="No space left"):
            toil.compute(promise, **settings)
    else:
        assert toil.compute(promise, **settings) == CONTENT[:256]
    assert source.read_bytes() == CONTENT
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
    assert toil.compute(promise, **settings) == CONTENT[:256]
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize("is_list", [True, False])
def test_an_export_to_a_full_disk_can_be_repeated(disk: Path, elsewhere: Path, is_list: bool) -> None:
    settings = {"store": elsewhere / "store", "work_dir": elsewhere, "progress": False, "retries": 0}
    filler = fill(disk)
    made = large()
    exported = toil.export([made] if is_list else made, f"{disk}/out/")
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(exported, **settings)
    assert not [path for path in (disk / "out").rglob("*") if path.is_file()]
    filler.unlink()
    toil.compute(exported, **settings)
    assert (disk / "out" / "large").read_bytes() == bytes(11_200_000)


def test_a_move_within_a_full_disk_loses_nothing(disk: Path, elsewhere: Path) -> None:
    settings = {"store": disk / "store", "work_dir": elsewhere, "progress": False, "retries": 0}
    made = large()
    toil.compute(made, **settings)
    fill(disk)
    toil.compute(toil.export(made, disk / "out", move=True), **settings)  # takes no room
    assert (disk / "out").read_bytes() == bytes(11_200_000)
    assert toil.compute(first_bytes(made), **settings) == bytes(256)


def test_a_cache_on_a_full_disk_is_reported(disk: Path, elsewhere: Path) -> None:
    settings = {"store": elsewhere / "store", "work_dir": disk, "progress": False, "retries": 0}
    made = large()
    toil.compute(made, **{**settings, "work_dir": elsewhere})
    filler = fill(disk)
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(first_bytes(made), **settings)
    assert not [
        path for path in disk.rglob("*") if path.is_file() and path.stat().st_size > 9_600_000 and path != filler
    ]
    filler.unlink()
    assert toil.resume(elsewhere / "store", work_dir=disk, progress=False) == bytes(256)


@toil.task(retries=0)
def streamed(size: int) -> toil.File:
    with toil.open_write("streamed") as file:
        for _ in range(size):
            file.write(bytes(2**20))
    return file.file


@toil.task(retries=0)
def length(file: toil.File) -> int:
    with file.open() as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(2**20), b""))


def test_a_bucket_is_written_and_read_while_the_local_disk_is_full(disk: Path, moto_server: Moto) -> None:
    fill(disk)
    options = {"endpoint_url": moto_server.url, "create_bucket": True}
    url = f"s3://full-{uuid.uuid4().hex}/store"
    settings = {"store": url, "store_options": options, "work_dir": disk, "progress": False}
    assert toil.compute(length(streamed(24)), **settings) == 24 * 2**20


def test_digests_are_not_kept_on_a_full_disk(disk: Path, elsewhere: Path) -> None:
    settings = {"store": elsewhere / "store", "work_dir": disk, "progress": False, "retries": 0}
    usage = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(usage.f_bavail * usage.f_frsize - 16_384))
    (elsewhere / "in").write_bytes(CONTENT * 2)
    assert toil.compute(length(toil.import_file(elsewhere / "in")), **settings) == 2 * len(CONTENT)
