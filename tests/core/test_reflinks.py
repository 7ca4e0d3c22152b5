"""Reflinks on a file system that has them: XFS, on a disk of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.files.exchange import Link
from toilfn.files.task_files import TaskFiles
from toilfn.stores import open_store

SIZE = 40 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted XFS."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("needs root and xfsprogs")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(400 * 2**20)  # XFS takes at least 300 MB
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False).returncode:
        pytest.skip("this machine cannot mount XFS")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def session(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskFiles]:
    monkeypatch.setenv("TOILFN_WORK_DIR", str(disk))
    (disk / "temp").mkdir()
    with TaskFiles(open_store(disk / "store"), lambda: disk / "temp") as session:
        yield session


def used(disk: Path) -> int:
    os.sync()
    return shutil.disk_usage(disk).used


@pytest.fixture
def source(disk: Path) -> Path:
    path = disk / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("link", ["reflink", "copy"])
def test_an_import_shares_the_blocks_and_stays_as_it_was(
    disk: Path, session: TaskFiles, source: Path, link: Link
) -> None:
    content, before = source.read_bytes(), used(disk)
    file = toil.import_file(source, link=link)
    assert used(disk) - before < SIZE / 4
    with source.open("r+b") as stream:
        stream.write(b"changed")
    assert file.read_bytes() == content


def test_an_export_shares_the_blocks_and_may_be_changed(disk: Path, session: TaskFiles, source: Path) -> None:
    content, before = source.read_bytes(), used(disk)
    file = toil.import_file(source, link="reflink")
    target = Path(toil.export(file, disk / "out"))
    assert used(disk) - before < SIZE / 4
    with target.open("r+b") as stream:
        stream.write(b"changed")
    assert file.read_bytes() == source.read_bytes() == content


def test_a_private_copy_shares_the_blocks(disk: Path, session: TaskFiles, source: Path) -> None:
    file = toil.import_file(source, link="reflink")
    before = used(disk)
    mine = file.path(mutable=True)
    assert used(disk) - before < SIZE / 4
    mine.write_bytes(b"mine")
    assert file.size == len(file.read_bytes()) == SIZE
