"""A path of a file among the arguments counts by the file's content."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
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


def test_a_path_that_is_not_a_file_counts_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert len({identity(tmp_path / name) for name in ("missing", "pipe", ".")}) == 3


def test_an_input_must_be_a_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file not found"):
        toil.input(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a file or folder"):
        toil.input(tmp_path / "pipe")


@toil.task
def total(folder: Path) -> int:
    return sum(len(path.read_text()) for path in folder.rglob("*") if path.is_file())


def test_an_edit_in_a_folder_runs_its_tasks_again_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inner := tmp_path / "folder" / "inner").mkdir(parents=True)
    store = tmp_path / "store"
    for text in ("one", "three", "three"):
        (inner / "text").write_text(text)
        wanted = total(toil.input(tmp_path / "folder"))
        assert toil.compute(wanted, store=store, cluster="inline", progress=False) == len(text)
    assert main(["explain", str(store), "total"]) == 0
    assert "total" in capsys.readouterr().out
    (inner / "more").write_text("!")
    (inner / "text").write_text("four")
    assert toil.compute(wanted, store=store, cluster="inline", progress=False) == 5
    assert main(["explain", str(store), "total"]) == 0
    said = capsys.readouterr().out
    assert f"inner/text in {tmp_path / 'folder'} changed" in said
    assert f"inner/more in {tmp_path / 'folder'} is new" in said


@toil.task
def written(folder: Path, text: str, _before: object = None) -> toil.Promise[str]:
    """Write a file, and call a task with it and with its folder."""
    (folder / "text").write_text(text)
    return joined(read(folder / "text"), total(folder))


@toil.task
def read(path: Path) -> str:
    return path.read_text()


@toil.task
def joined(text: str, size: int) -> str:
    return f"{text} {size}"


@toil.task
def both(one: str, two: str) -> tuple[str, str]:
    return one, two


def test_a_file_that_a_task_rewrites_is_read_again_by_the_worker_that_lives_on(tmp_path: Path) -> None:
    """The second task of one function, in the same worker, gives its children another content under the same path."""
    (folder := tmp_path / "folder").mkdir()
    first = written(folder, "one")
    wanted = both(first, written(folder, "three", first))
    assert toil.compute(wanted, store=tmp_path / "store", workers=1, progress=False) == ("one 3", "three 5")


def test_a_folder_counts_by_names_contents_and_kinds(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    seen = [identity(folder)]

    def differs() -> None:
        assert identity([folder]) == identity([folder])
        seen.append(identity(folder))

    (folder / "a").touch()
    differs()
    (folder / "a").rename(folder / "b")
    differs()
    (folder / "b").write_text("text")
    differs()
    (folder / "empty").mkdir()
    differs()
    (folder / "round").symlink_to(".")
    differs()
    (folder / "dangling").symlink_to("nowhere")
    differs()
    os.mkfifo(folder / "pipe")
    differs()
    (folder / "line\nbreak").touch()
    differs()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("one")
    differs()
    (tmp_path / "elsewhere").write_text("two")
    differs()
    assert len(set(seen)) == len(seen)


def test_a_folder_that_is_too_large_is_said_not_to_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(contents, "_MOST_FILES", 2)
    (folder := tmp_path / "folder").mkdir()
    for number in range(3):
        (folder / str(number)).touch()
    for expected in (3, 3):
        assert toil.compute(entries(folder), store=tmp_path / "store", cluster="inline", progress=False) == expected
        (folder / "more").touch()
    assert f"not compared: {folder} (a folder with more than 2 files: import_directory makes" in caplog.text
    assert identity(folder) != identity(tmp_path)
