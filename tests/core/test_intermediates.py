"""``intermediates="drop"``: files go when nothing needs them any longer, and are made again when something does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.files.file import files_in
from toilfn.leader.callbacks import ScarceDisk
from toilfn.model.records import Outcome, Started, decode
from toilfn.stores import open_store
from toilfn.units import format_size


def count(place: str, name: str) -> None:
    with Path(place, name).open("a") as file:
        file.write("x")


def counts(place: Path, *names: str) -> list[int]:
    return [len((place / name).read_text()) for name in names]


def written(text: str) -> toil.File:
    with toil.open_write("text", "w") as file:
        file.write(text)
    return file.file


@toil.task
def make(place: str, text: str = "text") -> toil.File:
    count(place, "make")
    return written(text)


@toil.task(intermediates="keep")
def make_to_keep(place: str) -> toil.File:
    return written("kept")


@toil.task(intermediates="drop")
def make_to_drop(place: str) -> toil.File:
    return written("dropped")


@toil.task
def shout(file: toil.File, place: str) -> toil.File:
    count(place, "shout")
    return written(file.read_text().upper())


@toil.task(version="1")
def finish(file: toil.File, place: str, edit: str = "") -> toil.File:
    count(place, "finish")
    return written(file.read_text() + edit)


@toil.task
def large(file: toil.File, place: str) -> list[Any]:
    """Pass a file on in a value that is too large to be kept in the log."""
    return [bytes(3_000_000), file]


@toil.task
def last(value: list[Any]) -> str:
    return value[1].read_text()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    settings = {"store": tmp_path / "store", "cluster": "inline", "progress": False, "intermediates": "drop"}
    return lambda *promises, **more: toil.compute(*promises, **{**settings, **more})


def files(place: Path) -> list[str]:
    """The texts of all files in the store."""
    found = [path for path in (place / "store" / "blobs").rglob("*-text") if path.is_file()]
    return sorted(path.read_text() for path in found)


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_files_between_tasks_go_and_results_stay(tmp_path: Path, run: Callable[..., Any], cluster: str) -> None:
    place = str(tmp_path)
    result = run(finish(shout(make(place), place), place), cluster=cluster)
    assert result.read_text() == "TEXT"
    assert files(tmp_path) == ["TEXT"]
    assert run(finish(shout(make(place), place), place)).read_text() == "TEXT"
    assert counts(tmp_path, "make", "shout", "finish") == [1, 1, 1]


def test_by_default_all_files_are_kept(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run(finish(shout(make(place), place), place), intermediates=None)
    assert files(tmp_path) == ["TEXT", "TEXT", "text"]


def test_an_edit_makes_again_what_it_needs_and_no_more(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run(finish(shout(make(place), place), place))
    result = run(finish(shout(make(place), place), place, "!"))
    assert result.read_text() == "TEXT!"
    assert counts(tmp_path, "make", "shout", "finish") == [2, 2, 2]
    assert files(tmp_path) == ["TEXT", "TEXT!"]


def test_tasks_that_only_pass_text_on_do_not_run_again(tmp_path: Path, run: Callable[..., Any]) -> None:
    @toil.task
    def length(file: toil.File) -> int:
        return len(file.read_text())

    @toil.task
    def double(number: int, factor: int) -> int:
        return number * factor

    assert run(double(length(make(str(tmp_path))), 2)) == 8
    assert run(double(length(make(str(tmp_path))), 3)) == 12
    assert counts(tmp_path, "make") == [1]
    assert files(tmp_path) == []


def test_a_later_run_may_return_what_was_dropped(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run(finish(shout(make(place), place), place))
    assert toil.compute(shout(make(place), place), store=tmp_path / "store", dry_run=True)
    assert run(shout(make(place), place)).read_text() == "TEXT"
    assert not toil.compute(shout(make(place), place), store=tmp_path / "store", dry_run=True)
    assert counts(tmp_path, "make", "shout", "finish") == [2, 2, 1]
    assert run(shout(make(place), place)).read_text() == "TEXT"
    assert counts(tmp_path, "make", "shout", "finish") == [2, 2, 1]
    assert files(tmp_path) == ["TEXT", "TEXT"]


def test_a_dry_run_and_explain_say_what_is_made_again(
    tmp_path: Path, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path)
    run(finish(shout(make(place), place), place))
    edited = finish(shout(make(place), place), place, "!")
    plan = toil.compute(edited, store=tmp_path / "store", dry_run=True)
    assert sorted(task.name for task in plan.tasks) == ["finish", "make", "shout"]
    assert "a file that it created" in str(plan)
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "store"), "make"]) == 0
    assert "nothing needed its files any more, so they were dropped" in capsys.readouterr().out
    run(edited)
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "store"), "make"]) == 0
    assert "a file that it created no longer exists, and a task that will run needs it" in capsys.readouterr().out


def test_each_task_may_decide_whether_its_files_are_kept(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run(finish(make_to_keep(place), place), finish(make_to_drop(place), place))
    assert files(tmp_path) == ["dropped", "kept", "kept"]


def test_a_task_may_drop_files_of_a_run_that_keeps_the_others(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run(finish(make_to_drop(place), place), finish(make(place), place), intermediates="keep")
    assert files(tmp_path) == ["dropped", "text", "text"]


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(toil.InputError, match="'burn' is not 'keep' or 'drop'"):
        toil.task(intermediates="burn")(make.__wrapped__)  # type: ignore[call-overload]
    with pytest.raises(toil.InputError, match="keep, drop"):
        toil.compute(make("x"), intermediates="burn")  # type: ignore[call-overload]


def test_files_in_large_values_are_held(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    assert run(last(large(make(place), place))) == "text"
    assert files(tmp_path) == []


@toil.task
def family(place: str, edit: str) -> Any:
    """Make a file, and tasks that read it by its name and by a promise."""
    own = written("own")
    first = finish(own, place)
    return {"child": finish(first, place, edit), "read": [shout(own, place), shout(first, place)]}


@toil.task
def texts(value: Any, edit: str) -> str:
    return "".join(file.read_text() for file in files_in(value)) + edit


def test_files_that_are_named_in_the_arguments_of_dynamic_tasks(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    assert sorted(run(texts(family(place, ""), "."))) == sorted("ownOWNOWN.")
    assert files(tmp_path) == []
    assert sorted(run(texts(family(place, ""), "!"))) == sorted("ownOWNOWN!")  # all of the family is made again
    assert sorted(run(texts(family(place, "?"), "!"))) == sorted("own?OWNOWN!")
    assert files(tmp_path) == []


@toil.task
def only(value: Any) -> str:
    return value["child"].read_text()


def test_the_needed_files_of_an_edited_family_are_made_again(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    assert run(only(family(place, ""))) == "own"
    assert run(only(family(place, "?"))) == "own?"
    assert files(tmp_path) == []


@toil.task(checkpoint=True, retries=1)
def saved(file: toil.File, place: str) -> Any:
    count(place, "saved")
    return fails_once(shout(file, place), place)


@toil.task(retries=0)
def fails_once(file: toil.File, place: str) -> str:
    count(place, "fails")
    if counts(Path(place), "fails") == [1]:
        raise RuntimeError("once")
    return file.read_text()


def test_a_checkpoint_that_is_rolled_back_has_its_files(tmp_path: Path, run: Callable[..., Any]) -> None:
    assert run(saved(make(str(tmp_path)), str(tmp_path))) == "TEXT"
    assert counts(tmp_path, "make", "saved", "shout", "fails") == [1, 2, 2, 2]
    assert files(tmp_path) == []


@toil.task(retries=0)
def needs_a_sign(file: toil.File, place: str) -> str:
    if not Path(place, "sign").exists():
        raise RuntimeError("no sign")
    return file.read_text()


def test_files_that_a_failed_task_needs_are_kept_for_the_resume(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    promise = [needs_a_sign(make(place), place), finish(make(place, "other"), place)]
    with pytest.raises(toil.FailedTasksError):
        run(promise)
    assert files(tmp_path) == ["other", "text"]
    Path(place, "sign").touch()
    assert toil.resume(tmp_path / "store", cluster="inline", progress=False)[0] == "text"  # it drops as the run did
    assert counts(tmp_path, "make") == [2]
    assert files(tmp_path) == ["other"]


def test_the_results_of_every_finished_run_stay(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    first = run(finish(make(place), place))
    second = run(finish(first, place, "!"))
    assert (first.read_text(), second.read_text()) == ("text", "text!")


def test_unfinished_work_of_another_workflow_is_kept(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    with pytest.raises(toil.FailedTasksError):
        run(needs_a_sign(make(place), place), workflow="one")
    run(finish(make(place, "other"), place), workflow="two")
    assert files(tmp_path) == ["other", "text"]


def test_files_that_an_edited_run_had_left_are_removed(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    with pytest.raises(toil.FailedTasksError):
        run([needs_a_sign(make(place), place), finish(make(place, "other"), place)])
    run([finish(make(place, "edited"), place)])
    assert files(tmp_path) == ["edited"]


def test_a_reverted_edit_makes_deleted_files_again(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    promise = [needs_a_sign(make(place), place), finish(make(place, "other"), place)]
    with pytest.raises(toil.FailedTasksError):
        run(promise)
    run([finish(make(place, "edited"), place)])
    Path(place, "sign").touch()
    text, file = run(promise)
    assert (text, file.read_text()) == ("text", "other")


@toil.task
def spawner(place: str) -> Any:
    return needs_a_sign(written("spawned"), place)


def test_a_reverted_edit_runs_tasks_again_whose_files_were_deleted(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    with pytest.raises(toil.FailedTasksError):
        run([spawner(place), make(place)])
    run([make(place, "edited")])
    assert files(tmp_path) == ["edited"]
    Path(place, "sign").touch()
    assert run([spawner(place)]) == ["spawned"]


@pytest.mark.parametrize("move", [False, True])
def test_exported_files_are_outputs(tmp_path: Path, run: Callable[..., Any], move: bool) -> None:
    place, out = str(tmp_path), tmp_path / "out"
    for fate in ("new", "there", "there", "gone"):
        if fate == "gone" and not move:
            out.unlink()
        run(toil.export(finish(shout(make(place), place), place), out, move=move))
        assert out.read_text() == "TEXT"
        assert files(tmp_path) == ["TEXT"]
    assert counts(tmp_path, "make", "shout", "finish") == [1, 1, 1]


def test_a_task_may_deliver_what_it_reads(tmp_path: Path, run: Callable[..., Any]) -> None:
    @toil.task(delivers=True)
    def upload(file: toil.File, where: str) -> str:
        return where + file.read_text()

    assert run(upload(shout(make(str(tmp_path)), str(tmp_path)), "there/")) == "there/TEXT"
    assert files(tmp_path) == ["TEXT"]


def order(place: Path) -> list[str]:
    """What the log says of tasks: how many began together, and that one has ended."""
    found = [decode(data) for _, data in open_store(place / "store", create=False).log.read()]
    return [
        f"{len(record.ids)} began" if isinstance(record, Started) else "ended"
        for record in found
        if isinstance(record, (Started, Outcome))
    ]


@pytest.mark.parametrize("is_full", [True, False])
def test_a_full_disk_lets_tasks_start_one_by_one(
    tmp_path: Path, run: Callable[..., Any], caplog: pytest.LogCaptureFixture, is_full: bool
) -> None:
    place = str(tmp_path)
    whole = shutil.disk_usage(tmp_path).total
    run(*[make(place, str(number)) for number in range(3)], cluster="local", workers=2, min_free=whole * is_full)
    assert (order(tmp_path) == ["1 began", "ended"] * 3) == is_full
    assert ("new tasks start one by one" in caplog.text) == is_full
    assert f"min_free is {format_size(whole)}" in caplog.text or not is_full


def test_a_disk_that_cannot_be_measured_delays_nothing(tmp_path: Path) -> None:
    assert not ScarceDisk(tmp_path / "gone", 1, print).is_scarce()


def test_a_twentieth_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [shutil._ntuple_diskusage(100, 95, 5), shutil._ntuple_diskusage(100, 96, 4)]
    warned: list[str] = []
    for usage, is_scarce in zip(found, (False, True), strict=True):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert ScarceDisk(tmp_path, None, warned.append).is_scarce() is is_scarce
    assert len(warned) == 1


@toil.service(check_interval=0.05)
def serve() -> Any:
    yield "served"


@toil.task
def ask(address: str, file: toil.File, place: str) -> toil.File:
    return written(f"{address} {file.read_text()}")


@toil.task
def use_service(place: str) -> Any:
    return ask(serve(), make(place), place)


@pytest.mark.parametrize("is_created", [True, False])
def test_files_that_the_client_of_a_service_has_read_are_deleted(tmp_path: Path, is_created: bool) -> None:
    place = str(tmp_path)
    asked = use_service(place) if is_created else ask(serve(), make(place), place)
    settings: Any = {"store": tmp_path / "store", "progress": False, "intermediates": "drop", "workers": 2}
    assert toil.compute(finish(asked, place), **settings).read_text() == "served text"
    blobs = [path.read_bytes() for path in (tmp_path / "store" / "blobs").rglob("*-text") if path.is_file()]
    assert blobs == [b"served text"]


@toil.task
def block(place: str, byte: int = 1) -> bytes:
    count(place, "block")
    return bytes([byte]) * 2_000_000


@toil.task
def doubled(data: bytes, place: str) -> bytes:
    count(place, "doubled")
    return data * 2


@toil.task(version="1")
def measured(data: bytes, place: str, edit: str = "") -> str:
    count(place, "measured")
    return f"{len(data)}{edit}"


@toil.task
def measured_apart(place: str) -> list[Any]:
    """Pass a large value to a task that it creates."""
    count(place, "apart")
    return [measured(bytes([3]) * 3_000_000, place), measured(bytes([3]) * 3_000_000, place, "!")]


def buffers(place: Path) -> list[int]:
    """The sizes of all large objects in the store."""
    sizes = [path.stat().st_size for path in (place / "store" / "blobs").rglob("*") if path.is_file()]
    return sorted(size for size in sizes if size > 1_000_000)


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_large_values_between_tasks_go_and_are_made_again(
    tmp_path: Path, run: Callable[..., Any], cluster: str
) -> None:
    place = str(tmp_path)
    assert run(measured(doubled(block(place), place), place), cluster=cluster) == "4000000"
    assert buffers(tmp_path) == []
    assert run(measured(doubled(block(place), place), place), cluster=cluster) == "4000000"
    assert counts(tmp_path, "block", "doubled", "measured") == [1, 1, 1]
    assert run(measured(doubled(block(place), place), place, "x"), cluster=cluster) == "4000000x"
    assert counts(tmp_path, "block", "doubled", "measured") == [2, 2, 2]
    assert buffers(tmp_path) == []


def test_large_results_stay(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    assert len(run(doubled(block(place), place))) == 4_000_000
    assert buffers(tmp_path) == [4_000_000]
    assert len(run(block(place))) == 2_000_000  # which was dropped
    assert counts(tmp_path, "block", "doubled") == [2, 1]
    assert buffers(tmp_path) == [2_000_000, 4_000_000]


def test_equal_values_of_several_tasks_are_dropped_one_by_one(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    found = run([block(place), measured(block(place, 1), place), measured(doubled(block(place), place), place)])
    assert (len(found[0]), found[1:]) == (2_000_000, ["2000000", "4000000"])
    assert buffers(tmp_path) == [2_000_000]


def test_large_arguments_of_dynamic_tasks_go(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    assert run(measured_apart(place)) == ["3000000", "3000000!"]
    assert buffers(tmp_path) == []
    assert run(measured_apart(place)) == ["3000000", "3000000!"]
    assert counts(tmp_path, "apart", "measured") == [1, 2]


def test_a_failed_task_finds_its_large_value(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)

    @toil.task(version="1")
    def fails(data: bytes) -> int:
        if not Path(place, "repaired").exists():
            raise ValueError("not yet")
        return len(data)

    with pytest.raises(toil.FailedTasksError, match="not yet"):
        run(fails(doubled(block(place), place)), retries=0)
    assert buffers(tmp_path) == [4_000_000]
    Path(place, "repaired").touch()
    assert run(fails(doubled(block(place), place)), retries=0) == 4_000_000
    assert counts(tmp_path, "block", "doubled") == [1, 1]
    assert buffers(tmp_path) == []


def test_by_default_equal_large_values_are_one_object(tmp_path: Path, run: Callable[..., Any]) -> None:
    place = str(tmp_path)
    run([doubled(block(place), place), doubled(block(place), place)], intermediates=None)
    assert buffers(tmp_path) == [2_000_000, 4_000_000]
