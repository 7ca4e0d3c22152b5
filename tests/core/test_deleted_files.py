"""Files that were deleted and are needed again, since the workflow was edited: the tasks that made them run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.files.file import files_in


def count(place: str, name: str) -> None:
    with Path(place, name).open("a") as file:
        file.write("x")


def counts(place: Path, *names: str) -> list[int]:
    return [len((place / name).read_text()) for name in names]


def written(text: str, *, cleanup: bool = False) -> toil.File:
    with toil.open_write("text", "w", cleanup=cleanup) as file:
        file.write(text)
    return file.file


@toil.task
def make(place: str) -> toil.File:
    count(place, "make")
    return written("text")


@toil.task
def make_by_a_child(place: str) -> Any:
    count(place, "maker")
    return {"made": make(place)}


@toil.task
def large(file: toil.File, place: str) -> list[Any]:
    """Pass a file on in a value that is too large to be kept in the log."""
    count(place, "large")
    return [bytes(100_000), file]


@toil.task
def use(value: Any, place: str) -> str:
    count(place, "use")
    return file_in(value).read_text()


@toil.task
def remove(value: Any, used: Any) -> int:
    file_in(value).delete()
    return len(used)


@toil.task(version="1")
def use_last(value: Any, edit: str) -> str:
    """Stands for a task that is edited: its version does what an edit of its body would."""
    text = file_in(value).read_text()
    file_in(value).delete()
    return text + edit


def file_in(value: Any) -> toil.File:
    (file,) = files_in(value)
    return file


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    return lambda promise: toil.compute(promise, store=tmp_path / "store", cluster="inline", progress=False)


MAKERS: dict[str, Callable[[str], Any]] = {
    "plain": make,
    "by a child": make_by_a_child,
    "passed on": lambda place: large(make(place), place),
    "selected": lambda place: make_by_a_child(place)["made"],
}


@pytest.mark.parametrize("maker", MAKERS)
def test_only_the_task_that_made_a_deleted_file_runs_again(tmp_path: Path, run: Callable[..., Any], maker: str) -> None:
    def promise(edit: str) -> Any:
        value = MAKERS[maker](str(tmp_path))
        return [use(value, str(tmp_path)), use_last.options(after=use(value, str(tmp_path)))(value, edit)]

    assert run(promise("")) == ["text", "text"]
    assert run(promise(" and more")) == ["text", "text and more"]
    assert run(promise(" and more")) == ["text", "text and more"]
    assert counts(tmp_path, "make", "use") == [2, 2]
    if maker == "passed on":
        assert counts(tmp_path, "large") == [2]


@toil.task
def makes_and_uses(place: str, edit: str) -> Any:
    file = make(place)
    first = use(file, place)
    return [first, use_last.options(after=first)(file, edit)]


def test_a_child_of_a_task_that_was_edited(tmp_path: Path, run: Callable[..., Any]) -> None:
    assert run(makes_and_uses(str(tmp_path), "")) == ["text", "text"]
    assert run(makes_and_uses(str(tmp_path), " and more")) == ["text", "text and more"]


@toil.task
def temporary(place: str) -> Any:
    count(place, "make")
    file = written("text", cleanup=True)
    toil.spawn(use(file, place))
    return {"file": file, "use": use(file, place)}


def test_files_that_went_by_themselves_are_made_again(tmp_path: Path, run: Callable[..., Any]) -> None:
    @toil.task
    def texts(value: Any, edit: str) -> str:
        return str(value["use"] + edit)

    assert run(texts(temporary(str(tmp_path)), "")) == "text"
    assert run(texts(temporary(str(tmp_path)), "!")) == "text!"
    assert counts(tmp_path, "make") == [2]


def test_tasks_are_not_repeated_for_a_task_that_needs_no_deleted_file(tmp_path: Path, run: Callable[..., Any]) -> None:
    file = make(str(tmp_path))
    used = use(file, str(tmp_path))
    assert run(remove(file, used)) == 4
    assert run(use.options(after=remove(file, used))(used_elsewhere(), str(tmp_path))) == "other"
    assert counts(tmp_path, "make") == [1]


@toil.task
def used_elsewhere() -> toil.File:
    return written("other")


def test_files_that_clean_has_removed_are_made_again_too(tmp_path: Path, run: Callable[..., Any]) -> None:
    assert run(use_last(make(str(tmp_path)), "")) == "text"
    assert main(["clean", "--garbage", str(tmp_path / "store")]) == 0
    assert run(use_last(make(str(tmp_path)), "!")) == "text!"
    assert counts(tmp_path, "make") == [2]
