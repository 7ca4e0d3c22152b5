"""A leader killed at each step of a commit while checkpoints are rolled back: the next one tells the same story."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.chaos.test_mixtures import assert_only_what_is_needed
from toilfn.stores import faults

STEPS = 40
"""More than the commits of the longest of these runs."""


def is_first(folder: str, name: str) -> bool:
    path = Path(folder, name)
    is_new = not path.exists()
    path.touch()
    return is_new


def written(text: str) -> toil.File:
    with toil.open_write("text", "w") as file:
        file.write(text)
    return file.file


@toil.task
def make(text: str) -> toil.File:
    return written(text)


@toil.task(retries=0)
def fail_once(folder: str, file: Any) -> str:
    if is_first(folder, "failed"):
        raise ValueError("not this time")
    return str(file.read_text())


@toil.task
def remove(file: toil.File) -> str:
    text = file.read_text()
    file.delete()
    return text


@toil.task(checkpoint=True, retries=2)
def with_files(folder: str, given: toil.File) -> Any:
    """The family deletes a file from outside before it fails, and one of its own."""
    removed = remove(given)
    own = make("own")
    return [removed, remove.options(after=removed)(own), fail_once.options(after=removed)(folder, make("third"))]


@toil.service(cores=0.1)
def server(text: str) -> Iterator[str]:
    yield text


@toil.task(retries=0)
def client(folder: str, value: str, file: toil.File) -> Any:
    file.delete()
    return [value, fail_once(folder, file)]


@toil.task
def reads_before(file: toil.File) -> str:
    return file.read_text()


@toil.task(checkpoint=True, retries=2)
def with_a_service(folder: str, given: toil.File) -> Any:
    return client.options(after=reads_before(given))(folder, server("value"), given)


@toil.task(checkpoint=True, retries=2)
def nested(folder: str, given: toil.File) -> Any:
    return [with_files.options(retries=0)(folder, given), with_files.options(retries=0)(folder, make("other"))]


PROGRAMS: dict[str, tuple[Any, Any]] = {
    "files": (with_files, ["given", "own", "third"]),
    "nested": (nested, [["given", "own", "third"], ["other", "own", "third"]]),
    "service": (with_a_service, ["value", "given"]),
}


def lead(program: Any, folder: str, fault: str) -> None:
    faults.hook = faults.killer(fault)
    toil.compute(program(folder, make("given")), store=f"{folder}/store", **HOW)


HOW: dict[str, Any] = {"cluster": "inline", "progress": False, "retry_backoff": 0, "durability": "none"}


@pytest.mark.parametrize(
    ("name", "point"), [("files", "log.appended"), ("nested", "log.appending"), ("service", "log.appended")]
)
def test_a_leader_killed_at_any_commit(tmp_path: Path, name: str, point: str) -> None:
    program, expected = PROGRAMS[name]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.test_rolled_back", "toilfn.leader.drive", "toilfn.leader.run"])
    for step in range(1, STEPS):
        folder = tmp_path / str(step)
        folder.mkdir()
        leader = context.Process(target=lead, args=(program, str(folder), f"{point}:{step}"))
        leader.start()
        leader.join()
        status = leader.exitcode
        leader.close()
        assert status in (0, -signal.SIGKILL)
        value = toil.compute(program(str(folder), make("given")), store=folder / "store", **HOW)
        assert value == expected
        assert_only_what_is_needed(folder / "store")
        if status == 0:
            break
    assert 4 < step < STEPS - 1
