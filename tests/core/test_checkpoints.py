"""Checkpoints: rolled back and run again when what they led to fails permanently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.errors import FailedTasksError
from toilfn.model import records
from toilfn.model.records import decode
from toilfn.stores import open_store


def count(place: str, name: str) -> int:
    """Count this attempt with the earlier ones."""
    with open(Path(place, name), "a") as file:
        file.write("x")
    return Path(place, name).stat().st_size


@toil.task(retries=0)
def fragile(place: str, name: str, good_at: int) -> int:
    attempt = count(place, name)
    if attempt < good_at:
        raise ValueError("not yet")
    return attempt


@toil.task
def made(place: str, name: str) -> toil.File:
    count(place, name)
    path = toil.current().temp_dir / "data"
    path.write_text(name)
    return toil.write_file(path)


@toil.task
def use(file: toil.File, number: int) -> str:
    text = file.path().read_text()
    file.delete()
    return f"{text} {number}"


@toil.task(checkpoint=True, retries=3)
def stage(place: str, good_at: int) -> Any:
    count(place, "stage")
    file = made(place, "made")
    return use(file, fragile.options(after=file)(place, "fragile", good_at))


@toil.task(checkpoint=True, retries=1)
def outer(place: str, good_at: int) -> Any:
    count(place, "outer")
    return stage.options(retries=1)(place, good_at)


@toil.task(checkpoint=True, retries=2)
def given(file: toil.File, place: str) -> Any:
    first = use(file, 1)
    return [first, fragile.options(after=first)(place, "fragile", 2)]


@toil.task
def length(value: Any) -> int:
    return len(value)


@toil.task(checkpoint=True, retries=2)
def spawning(place: str) -> str:
    toil.spawn(fragile(place, "fragile", 3))
    return "value"


@toil.task(checkpoint=True, retries=2)
def dynamic(place: str, depth: int) -> Any:
    return chain(place, depth)


@toil.task
def chain(place: str, depth: int) -> Any:
    return fragile(place, "fragile", 3) if depth == 0 else chain(place, depth - 1)


def counts(place: Path, *names: str) -> list[int]:
    return [(place / name).stat().st_size for name in names]


def blobs(store: Path) -> list[bytes]:
    return [path.read_bytes() for path in (store / "blobs").rglob("*") if path.is_file()]


@pytest.fixture(params=["inline", "local"])
def how(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    workers = {"workers": 2} if request.param == "local" else {}
    return {"store": str(tmp_path / "store"), "cluster": request.param, "retry_backoff": 0.01, **workers}


def test_a_checkpoint_runs_again_with_all_that_it_led_to(tmp_path: Path, how: dict[str, Any]) -> None:
    assert toil.compute(length(stage(str(tmp_path), 3)), **how) == len("made 3")
    assert counts(tmp_path, "stage", "made", "fragile") == [3, 3, 3]


def test_files_of_what_was_rolled_back_are_removed(tmp_path: Path, how: dict[str, Any]) -> None:
    assert toil.compute(stage(str(tmp_path), 3), **how) == "made 3"
    assert b"made" not in blobs(tmp_path / "store")


def test_a_file_that_was_deleted_below_a_checkpoint_is_there_for_the_next_attempt(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    assert toil.compute(given(made(str(tmp_path), "made"), str(tmp_path)), **how) == ["made 1", 2]
    assert b"made" not in blobs(tmp_path / "store")


def test_the_innermost_checkpoint_is_rolled_back_first(tmp_path: Path, how: dict[str, Any]) -> None:
    assert toil.compute(outer(str(tmp_path), 3), **how) == "made 3"
    assert counts(tmp_path, "outer", "stage", "fragile") == [2, 3, 3]


def test_the_run_fails_when_all_retries_are_used_up_and_can_be_resumed(tmp_path: Path, how: dict[str, Any]) -> None:
    with pytest.raises(FailedTasksError, match=r"1 task failed[\s\S]*fragile\("):
        toil.compute(stage.options(retries=1)(str(tmp_path), 3), **how)
    assert counts(tmp_path, "stage", "fragile") == [2, 2]
    assert toil.resume(how.pop("store"), **how) == "made 3"
    assert counts(tmp_path, "stage", "fragile") == [2, 3]


def test_a_leader_rolls_back_what_an_earlier_one_ran(tmp_path: Path, how: dict[str, Any]) -> None:
    with pytest.raises(FailedTasksError):
        toil.compute(stage.options(retries=None)(str(tmp_path), 3), retries=0, **how)
    assert toil.compute(stage.options(retries=None)(str(tmp_path), 3), retries=3, **how) == "made 3"
    assert counts(tmp_path, "made", "fragile")[1] == 3
    assert blobs(tmp_path / "store").count(b"made") == 0


def test_spawned_tasks_and_deep_descendants_count(tmp_path: Path, how: dict[str, Any]) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    values = toil.compute(spawning(str(tmp_path / "a")), dynamic(str(tmp_path / "b"), 20), **how)
    assert values == ("value", 3)


def test_the_log_reports_the_roll_back(tmp_path: Path, how: dict[str, Any]) -> None:
    toil.compute(stage(str(tmp_path), 2), **how)
    found = [decode(data) for _, data in open_store(how["store"], create=False).log.read()]
    (forget,) = [record for record in found if isinstance(record, records.Forget)]
    told = [record for record in found if isinstance(record, records.Failure) and "rolled back" in record.message]
    assert told[0].id in forget.ids
    assert "fragile" in told[0].message


@toil.task
def parent(place: str) -> str:
    toil.spawn(slow_child(place))
    return "value"


@toil.task
def slow_child(place: str) -> None:
    grandchild_path = Path(place, "grandchild")
    toil.spawn(write(str(grandchild_path)))


@toil.task
def write(path: str) -> None:
    Path(path).write_text("done")


@toil.task
def reads(_: Any, path: str) -> str:
    return Path(path).read_text()


def test_dependents_of_a_task_wait_for_all_its_descendants(tmp_path: Path, how: dict[str, Any]) -> None:
    after = reads.options(after=parent(str(tmp_path)))(None, str(tmp_path / "grandchild"))
    assert toil.compute(after, **how) == "done"
