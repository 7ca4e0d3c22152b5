"""Requirements that come from values: promises, and functions of a call's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import pytest

import toilfn as toil
from toilfn.errors import FailedTasksError

MIB = 2**20


@toil.task
def granted(*_: Any) -> tuple[float, int, int]:
    here = toil.current()
    return here.cores, here.memory, here.disk


@toil.task
def number(n: Any) -> Any:
    return n


@toil.task
def numbers(n: int) -> dict[str, list[int]]:
    return {"sizes": [i * MIB for i in range(n)]}


@toil.task
def total(ns: list[int]) -> int:
    return sum(ns)


@toil.task(cores=0.5, memory=lambda text, times=1: times * len(text) * MIB, disk=lambda text, times=1: MIB)
def sized(text: str, times: int = 1) -> tuple[float, int, int]:
    here = toil.current()
    return here.cores, here.memory, here.disk


@toil.task
def nested(n: int) -> Any:
    return [sized("x" * n), granted.options(memory=number(n * MIB))()]


def run(*promises: Any, **settings: Any) -> Any:
    return toil.compute(*promises, cluster="inline", **settings)


def test_a_promise_is_a_requirement() -> None:
    values = numbers(9)
    promise = granted.options(memory=values["sizes"][7], cores=number(0.25), disk=number("3Mi"))(1)
    assert run(promise) == (0.25, 7 * MIB, 3 * MIB)


def test_a_function_of_the_resolved_arguments_is_a_requirement() -> None:
    assert run(sized("four"), sized(number("three"), times=2)) == ((0.5, 4 * MIB, MIB), (0.5, 10 * MIB, MIB))


def test_a_task_may_be_the_function_and_many_promises_one_requirement() -> None:
    several = [number(i * MIB) for i in range(1, 5)]
    promises = granted.options(memory=total)(several), granted.options(memory=total(several))()
    assert [memory for _, memory, _ in run(*promises)] == [10 * MIB, 10 * MIB]


def test_a_dask_collection_is_a_requirement() -> None:
    assert run(granted.options(memory=dask.delayed(3 * MIB))())[1] == 3 * MIB


def test_requirements_of_tasks_that_tasks_make() -> None:
    made = run(nested(3))
    assert [memory for _, memory, _ in made] == [3 * MIB, 3 * MIB]


def test_workers_are_given_what_the_values_say(tmp_path: Path) -> None:
    calls = [sized("x" * n, times=200) for n in range(1, 6)]
    results = toil.compute(*calls, nested(200), store=str(tmp_path / "store"), workers=2)
    assert [memory for _, memory, _ in results[:5]] == [200 * n * MIB for n in range(1, 6)]
    assert [memory for _, memory, _ in results[5]] == [200 * MIB, 200 * MIB]


def test_accelerators_walltime_and_preemptible_may_come_late() -> None:
    promise = granted.options(walltime=number("1h"), preemptible=number(True), accelerators=number(0))()
    assert run(promise)


def test_an_option_of_a_call_takes_the_place_of_the_function() -> None:
    assert run(sized.options(memory="5Mi")("x" * 40))[1] == 5 * MIB
    assert run(granted.options(memory="5Mi")(1), granted(2))[1][1] == 2048 * MIB


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("memory", "2X", "'2X'"), ("cores", -1, "-1"), ("disk", None, "None"), ("preemptible", 1, "1")],
)
def test_a_wrong_value_is_reported_with_the_task_and_the_requirement(name: str, value: Any, text: str) -> None:
    with pytest.raises(FailedTasksError) as error:
        run(granted.options(**{name: number(value)})())
    assert "granted(" in str(error.value)
    assert f"option {name}: " in str(error.value)
    assert text in str(error.value)


def test_requests_above_what_the_cluster_has_are_reported() -> None:
    with pytest.raises(FailedTasksError, match="requests 1 cores, 1000 TiB of memory"):
        run(granted.options(memory=number("1000Ti"))())


def test_a_requirement_function_that_fails_is_reported_as_a_task() -> None:
    with pytest.raises(FailedTasksError, match=r"memory of granted\(7\).*ZeroDivisionError"):
        run(granted.options(memory=lambda n: n // 0)(7), retries=0)


@toil.task
def counted(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    return 7 * MIB


@toil.task(retries=0)
def fails_unless(path: str) -> int:
    if not Path(path).exists():
        raise OSError("not yet")
    return toil.current().memory


def test_computed_requirements_are_not_computed_again(tmp_path: Path) -> None:
    store, count, flag = (str(tmp_path / name) for name in ("store", "count", "flag"))
    promise = fails_unless.options(memory=counted(count))(flag)
    with pytest.raises(FailedTasksError):
        run(promise, store=store)
    Path(flag).touch()
    assert toil.resume(store, cluster="inline") == 7 * MIB
    assert Path(count).read_text() == "x"


def test_dask_runs_such_a_call_as_well() -> None:
    assert dask.compute(total.options(memory=lambda ns: len(ns))([1, 2]), scheduler="sync") == (3,)
