"""`compute` from end to end, on a store on disk and real worker processes."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import toilfn as toil


@toil.task
def add(x: int, y: int = 0) -> int:
    return x + y


@toil.task
def total(xs: Any) -> int:
    return sum(xs)


@toil.task
def same(value: Any) -> Any:
    return value


@toil.task
def fail(text: str) -> int:
    print("about to fail")
    raise ValueError(text)


@toil.task
def factorial(n: int) -> Any:
    return 1 if n == 0 else product(n, factorial(n - 1))


@toil.task
def product(x: int, y: int) -> int:
    return x * y


@toil.task
def countdown(n: int) -> Any:
    return "lift-off" if n == 0 else countdown(n - 1)


@toil.task
def fan_out(n: int) -> Any:
    return total([add(i) for i in range(n)])


@toil.task
def structure(n: int) -> Any:
    return {"one": add(n), "list": [add(n + 1), (add(n + 2), n)]}


@toil.task(nout=2)
def divide(x: int, y: int) -> tuple[int, int]:
    return divmod(x, y)


@toil.task
def mark(folder: str, name: str) -> str:
    with Path(folder, name).open("a") as file:
        file.write("x")
    return name


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Box:
    content: Any


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def compute(store: str) -> Any:
    def run(*promises: Any, **settings: Any) -> Any:
        return toil.compute(*promises, **{"store": store, "progress": False, **settings})

    return run


def times(folder: Path, name: str) -> int:
    path = folder / name
    return len(path.read_text()) if path.exists() else 0


def test_one_promise_gives_its_value_and_several_give_a_tuple(compute: Any) -> None:
    assert compute(add(1, 2)) == 3
    assert compute(add(1, 2), add(3, 4)) == (3, 7)


def test_a_temporary_store_is_gone_after_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert toil.compute(add(1, 2), progress=False) == 3
    assert not [path for path in tmp_path.rglob("*") if path.name == "store.json"]


def test_promises_are_found_at_any_depth_of_arguments(compute: Any) -> None:
    one, two = add(1), add(2)
    value = {"list": [one, [two, {"deep": one}]], "tuple": (one,), "set": {5}, two: Point(one, Box([two]))}
    assert compute(same(value)) == {
        "list": [1, [2, {"deep": 1}]], "tuple": (1,), "set": {5}, 2: Point(1, Box([2]))
    }  # fmt: skip


def test_structures_of_promises_can_be_computed(compute: Any) -> None:
    assert compute([add(1), {"k": add(2)}]) == [1, {"k": 2}]


def test_items_and_slices_of_promises(compute: Any) -> None:
    value = same({"k": [1, 2, 3, 4]})
    assert compute(value["k"][1:3], total(value["k"])) == ([2, 3], 10)


def test_nout_unpacks(compute: Any) -> None:
    quotient, remainder = divide(17, 5)
    assert compute(add(quotient, remainder)) == 5


def test_a_returned_structure_of_promises_is_resolved(compute: Any) -> None:
    assert compute(same(structure(1))) == {"one": 1, "list": [2, (3, 1)]}


def test_map_makes_one_promise_for_each_item(compute: Any) -> None:
    assert compute(add.map([1, 2, 3], [10, 20, 30])) == [11, 22, 33]


def test_a_task_that_makes_tasks(compute: Any) -> None:
    assert compute(fan_out(100)) == 4950


def test_recursion_and_tail_calls_go_deep(compute: Any) -> None:
    assert compute(countdown(3000), factorial(300)) == ("lift-off", math.factorial(300))


def test_a_chain_deeper_than_the_stack(compute: Any) -> None:
    value = add(0)
    for _ in range(3000):
        value = add(value, 1)
    assert compute(value) == 3000


def test_one_promise_used_twice_is_one_task_and_two_equal_calls_are_two(compute: Any, tmp_path: Path) -> None:
    once = mark(str(tmp_path), "once")
    compute(same([once, once]), same([mark(str(tmp_path), "twice"), mark(str(tmp_path), "twice")]))
    assert (times(tmp_path, "once"), times(tmp_path, "twice")) == (1, 2)


def test_a_finished_task_is_not_run_again_on_the_same_store(compute: Any, tmp_path: Path) -> None:
    for _ in range(2):
        assert compute(same(mark(str(tmp_path), "a"))) == "a"
    assert times(tmp_path, "a") == 1


def test_only_new_tasks_run(compute: Any, tmp_path: Path) -> None:
    folder = str(tmp_path)
    compute(same([mark(folder, "a")]))
    compute(same([mark(folder, "a"), mark(folder, "b")]))
    assert (times(tmp_path, "a"), times(tmp_path, "b")) == (1, 1)


def test_after_makes_a_task_wait_without_passing_data(compute: Any, tmp_path: Path) -> None:
    @toil.task
    def seen(folder: str) -> list[str]:
        return sorted(path.name for path in Path(folder).iterdir() if path.name in "ab")

    first = [mark(str(tmp_path), name) for name in "ab"]
    assert compute(seen.options(after=first)(str(tmp_path))) == ["a", "b"]


def test_spawned_work_is_done_before_dependents_start(compute: Any, tmp_path: Path) -> None:
    @toil.task
    def parent(folder: str) -> str:
        toil.spawn(mark(folder, "child"))
        return "value"

    @toil.task
    def follower(value: str, folder: str) -> tuple[str, bool]:
        return value, Path(folder, "child").exists()

    assert compute(follower(parent(str(tmp_path)), str(tmp_path))) == ("value", True)


def test_large_values_and_arguments(compute: Any) -> None:
    data = bytes(range(256)) * 1000
    assert compute(same(same(data))) == data


def test_a_failure_names_task_error_log_and_remedy(compute: Any, store: str) -> None:
    with pytest.raises(toil.FailedTasksError) as caught:
        compute(add(fail("no such luck"), 1), retries=0)
    text = str(caught.value)
    for part in ("fail('no such luck')", "ValueError: no such luck", "about to fail", f"toilfn resume {store}"):
        assert part in text
    assert len(caught.value.failures) == 1


def test_other_branches_continue_after_a_failure(compute: Any, tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError):
        compute(fail("x"), mark(str(tmp_path), "other"), retries=0)
    assert times(tmp_path, "other") == 1


def test_a_failed_attempt_is_tried_again(compute: Any, tmp_path: Path) -> None:
    @toil.task(retries=2)
    def third_time(folder: str) -> int:
        with Path(folder, "tries").open("a") as file:
            file.write("x")
        tries = times(Path(folder), "tries")
        if tries < 3:
            raise RuntimeError("not yet")
        return tries

    assert compute(third_time(str(tmp_path)), retry_backoff=0.01) == 3


def test_resume_returns_what_compute_would_have_returned(compute: Any, store: str, tmp_path: Path) -> None:
    @toil.task
    def needs_file(path: str) -> str:
        return Path(path).read_text()

    path = tmp_path / "input"
    with pytest.raises(toil.FailedTasksError):
        compute([mark(str(tmp_path), "a"), needs_file(str(path))], retries=0)
    path.write_text("now")
    assert toil.resume(store, progress=False) == ["a", "now"]
    assert times(tmp_path, "a") == 1


def test_the_inline_cluster_runs_in_this_process(compute: Any) -> None:
    @toil.task
    def process() -> int:
        return os.getpid()

    assert compute(process(), cluster="inline") == os.getpid()


@pytest.mark.parametrize("value", [3, [1, 2], add, None])
def test_a_value_that_is_not_a_promise_is_refused(compute: Any, value: Any) -> None:
    with pytest.raises(toil.GraphError, match="no promise"):
        compute(value)


def test_a_structure_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(toil.GraphError, match="contains itself"):
        same(loop)


def test_an_argument_that_cannot_be_pickled_names_task_and_type(compute: Any) -> None:
    with pytest.raises(toil.SerializationError, match=r"same.*lock|lock.*same"):
        compute(same(threading.Lock()))


def test_promises_have_no_truth_length_or_items_yet() -> None:
    promise = add(1)
    for use in (bool, len, iter, list):
        with pytest.raises(TypeError, match="yet"):
            use(promise)
    with pytest.raises(AttributeError, match="does not exist yet"):
        promise.real  # noqa: B018  # the access is the test


def test_wrong_arguments_fail_at_the_call() -> None:
    with pytest.raises(TypeError, match="task add"):
        add(1, 2, 3)  # type: ignore[call-arg]


def test_the_store_of_another_workflow_is_refused(compute: Any) -> None:
    compute(add(1))
    with pytest.raises(toil.StoreExistsError, match="another workflow"):
        compute(divide(1, 1))


def test_a_class_of_the_script_comes_back_as_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, dataclasses, toilfn as toil

        @dataclasses.dataclass(frozen=True)
        class Point:
            x: int

        @toil.task
        def move(point):
            return Point(point.x + 1)

        point = toil.compute(move(Point(1)), store=sys.argv[1], progress=False)
        assert isinstance(point, Point) and point == Point(2), point
        print("moved")
        """)
    )
    for _ in range(2):
        command = [sys.executable, str(script), str(tmp_path / "store")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "moved\n"


def test_many_small_values_arrive_in_order(compute: Any) -> None:
    assert compute(same([add(i) for i in range(1000)])) == list(range(1000))


def test_submit_runs_in_the_background(store: str) -> None:
    run = toil.submit(fan_out(10), store=store, progress=False)
    assert run.result(timeout=60) == 45
    assert run.status() == "done"


def test_counter(compute: Any) -> None:
    assert compute(same(collections.Counter("hello"))) == collections.Counter("hello")


def test_a_large_argument_of_many_calls_is_stored_once(compute: Any, store: str) -> None:
    import numpy as np

    table = np.arange(500_000)

    @toil.task
    def pick(i: int, table: Any) -> int:
        return int(table[i])

    assert compute(pick.map(range(20), [table] * 20)) == list(range(20))
    stored = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
    assert stored < 3 * table.nbytes


def test_options_edited_after_a_failure_count_in_the_next_run(compute: Any, tmp_path: Path) -> None:
    def third_time(folder: str) -> int:
        with Path(folder, "tries").open("a") as file:
            file.write("x")
        if times(Path(folder), "tries") < 3:
            raise RuntimeError("not yet")
        return 3

    with pytest.raises(toil.FailedTasksError):
        compute(toil.task(retries=0)(third_time)(str(tmp_path)))
    assert compute(toil.task(retries=5)(third_time)(str(tmp_path)), retry_backoff=0.01) == 3
