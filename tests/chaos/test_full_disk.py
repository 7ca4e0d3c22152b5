"""A disk that is full, or may not be written to: one clear error, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import toilfn as toil


@toil.task(retries=0)
def block(i: int) -> bytes:
    return bytes([i]) * 200_000


@toil.task
def lengths(blocks: list[bytes]) -> int:
    return sum(map(len, blocks))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_later(disk: Path) -> None:
    with pytest.raises(toil.ToilfnError, match="No space left"):
        toil.compute(lengths(block.map(range(20))), store=disk / "store", progress=False)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert toil.resume(disk / "store", progress=False) == 4_000_000


def test_a_disk_that_may_not_be_written_to(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(toil.StoreError, match=r"store.*Read-only"):
        toil.compute(block(1), store=disk / "store", progress=False)


@toil.task(retries=0)
def large() -> toil.File:
    with toil.open_write("large") as file:
        file.write(bytes(700_000))
    return file.file


@toil.task(retries=0)
def copied(file: toil.File) -> toil.File:
    with toil.open_write("copy") as copy:
        copy.write(file.read_bytes())
    return copy.file


@pytest.mark.parametrize("intermediates", ["keep", "drop"])
def test_a_disk_that_is_full_of_files_is_told_and_they_are_kept(disk: Path, intermediates: str) -> None:
    (disk / "work").mkdir()
    settings = {"store": disk / "store", "work_dir": disk / "work", "progress": False, "intermediates": intermediates}
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(copied(large()), workers=1, **settings)
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert toil.resume(disk / "store", work_dir=disk / "work", progress=False).size == 700_000


def test_an_export_to_a_full_disk_leaves_the_file_in_the_store(
    disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("elsewhere") / "store"
    (disk / "filler").write_bytes(bytes(600_000))
    made = large()
    with pytest.raises(toil.FailedTasksError, match="No space left"):
        toil.compute(toil.export(made, disk / "out", move=True), store=store, progress=False, retries=0)
    assert not list(disk.glob("*out*"))
    (disk / "filler").unlink()
    assert toil.compute(toil.export(made, disk / "out", move=True), store=store, progress=False) == str(disk / "out")
    assert toil.compute(made, store=store, progress=False).read_bytes() == bytes(700_000)
