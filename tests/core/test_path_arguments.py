"""A path of a file among the arguments counts by what is in the file."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

import pytest

import toilfn as toil
from toilfn.errors import InputError
from toilfn.graph.identity import arguments_identity, contents


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def identity(*args: Any) -> bytes:
    def no_promise(promise: Any) -> bytes:
        raise AssertionError(promise)

    return arguments_identity(args, {}, no_promise)[0]


@toil.task
def length(path: Path) -> int:
    return len(path.read_text())


@toil.task
def entries(folder: Path) -> int:
    return len(list(folder.iterdir()))


@toil.task
def through(path: Path) -> Any:
    return length(path)


def test_an_edited_file_runs_its_tasks_again(tmp_path: Path) -> None:
    file = tmp_path / "data"
    for text in ("one", "three"):
        file.write_text(text)
        wanted = [length(file), through(toil.input(file))]
        assert toil.compute(wanted, store=tmp_path / "store", cluster="inline", progress=False) == [len(text)] * 2


def test_a_path_counts_by_content_at_any_depth_and_a_string_does_not(tmp_path: Path) -> None:
    file = tmp_path / "data"
    shapes = [file, [file], {"a": (file,)}, str(file), PurePath(file)]
    file.write_text("one")
    before = [identity(shape) for shape in shapes]
    assert before == [identity(shape) for shape in shapes]
    file.write_text("two")
    after = [identity(shape) for shape in shapes]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, True, False, False]


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 2**21)
    monkeypatch.setattr(contents, "_SETTLED", -(10**18))  # as if it had been written long ago
    first = identity(file)
    reads: list[Path] = []
    read = contents._read
    monkeypatch.setattr(contents, "_read", lambda path: reads.append(path) or read(path))
    assert identity(file) == first
    assert not reads
    file.write_bytes(b"y" * 2**21)
    assert identity(file) != first
    assert reads == [file]


def test_a_large_file_without_a_place_to_remember_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not-a-folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not-a-folder"))
    file = tmp_path / "large"
    file.write_bytes(b"x" * 2**21)
    assert identity(file) == identity(file)


def test_what_is_not_a_file_counts_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert len({identity(tmp_path / name) for name in ("missing", "pipe", ".")}) == 3


def test_an_input_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file not found"):
        toil.input(tmp_path / "missing")
    with pytest.raises(InputError, match="import_directory"):
        toil.input(tmp_path)


def test_a_folder_is_said_not_to_be_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder := tmp_path / "folder").mkdir()
    toil.compute(entries(folder), store=tmp_path / "store", cluster="inline", progress=False)
    assert f"not compared: {folder} (a folder: import_directory makes its files count)" in caplog.text
