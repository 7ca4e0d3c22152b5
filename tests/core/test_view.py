"""Views: the runs and tasks of a store's log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.cli.story import (
    end,
    epoch,
    failure,
    function,
    half_done,
    id_of,
    outcome,
    run,
    started,
    task,
    tell,
)
from toilfn.errors import InputError
from toilfn.inspect.view import State, View
from toilfn.model.records import Forget, Record


def view_of(path: Path, *records: Record) -> View:
    return View(tell(path / "store", *records))


def state_of(view: View, name: str) -> State:
    return view.tasks[id_of(name)].state


def test_states_of_a_run_that_has_not_ended(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done())
    counts = Counter(task.state for task in view.current())
    assert counts == {State.DONE: 4, State.RUNNING: 1, State.FAILED: 1, State.WAITING: 2}
    assert view.status == "open"
    failed = view.tasks[id_of("sort 3")]
    assert (failed.attempts, failed.cause, failed.error) == (2, "error", "ValueError: bad")
    done = view.tasks[id_of("sort 1")]
    assert (done.wall, done.host, done.name, done.error) == (2.0, "node1", "sort_chunk", "")


def test_a_store_without_a_run_is_empty(tmp_path: Path) -> None:
    view = view_of(tmp_path, epoch())
    assert (view.status, view.run, view.current()) == ("empty", None, [])


def test_nothing_runs_after_the_end(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done(), end("failed"))
    assert view.status == "failed"
    assert state_of(view, "sort 4") is State.WAITING
    assert state_of(view, "sort 3") is State.FAILED


def test_a_new_leader_retries_failed_tasks_once_it_starts_one(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done(), end("failed"), epoch(2))
    assert (state_of(view, "sort 3"), state_of(view, "sort 4")) == (State.FAILED, State.WAITING)
    view = view_of(tmp_path, started("sort 4"))
    assert (state_of(view, "sort 3"), state_of(view, "sort 4")) == (State.WAITING, State.RUNNING)


def test_the_first_outcome_counts(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done(), outcome("sort 0", wall=99.0), failure("sort 0", final=True))
    found = view.tasks[id_of("sort 0")]
    assert (found.state, found.wall, found.attempts) == (State.DONE, 1.0, 1)


def test_children_belong_to_the_run_until_their_parent_is_forgotten(tmp_path: Path) -> None:
    child = task("child", "leaf", parent="root")
    grown: list[Record] = [
        epoch(),
        run("root"),
        function("grow"),
        function("leaf"),
        task("root", "grow"),
        outcome("root", [child]),
    ]
    view = view_of(tmp_path, *grown)
    assert [task.name for task in view.current()] == ["grow", "leaf"]
    view = view_of(tmp_path, Forget((id_of("root"),)))
    assert [(task.name, task.state) for task in view.current()] == [("grow", State.WAITING)]


def test_tasks_of_earlier_versions_are_not_current(tmp_path: Path) -> None:
    old: list[Record] = [epoch(), run("old"), function("f"), task("old", "f"), outcome("old"), end("done")]
    view = view_of(tmp_path, *old, epoch(2), run("new", number=2), task("new", "f"))
    assert [task.id for task in view.current()] == [id_of("new")]
    assert len(view.tasks) == 2
    assert view.find("f").id == id_of("new")


def test_tasks_are_found_by_name_and_by_the_start_of_the_id(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done())
    assert view.find("merge").id == id_of("merge")
    assert view.find(id_of("sort 2").hex()[:12].upper()).id == id_of("sort 2")


def test_an_ambiguous_name_lists_candidates_failed_ones_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5 tasks are called 'sort_chunk'") as raised:
        view_of(tmp_path, *half_done()).find("sort_chunk")
    lines = str(raised.value).splitlines()
    assert lines[1] == f"  {id_of('sort 3').hex()[:12]}  sort_chunk  failed  ValueError: bad"
    assert len(lines) == 6


def test_an_id_that_is_too_short_lists_the_ids_that_begin_with_it(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done())
    firsts = Counter(id.hex()[0] for id in view.tasks)
    start, count = firsts.most_common(1)[0]
    assert count > 1
    with pytest.raises(InputError, match=f"^{count} tasks have an id that starts with '{start}'"):
        view.find(start)
    with pytest.raises(InputError, match="no task has the name or id ''"):
        view.find("")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tasks are merge, report, sort_chunk, split"):
        view_of(tmp_path, *half_done()).find("srot")


def test_attempts_are_read_in_order(tmp_path: Path) -> None:
    view = view_of(tmp_path, *half_done(), outcome("sort 3"))
    found = [type(attempt).__name__ for attempt in view.attempts(id_of("sort 3"))]
    assert found == ["Failure", "Failure", "Outcome"]
