"""Retries by cause: each has a budget of its own, and only what killed a task is enlarged."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.core.scheduler_model import name, new
from toilfn.config.settings import Settings
from toilfn.errors import FailedTasksError, InputError
from toilfn.graph import options
from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import Failed, GaveUp, Lost, Retry, Submitted

MIB = 2**20


def attempts(path: str) -> int:
    """Count this attempt with the earlier ones, wherever they ran."""
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


@toil.task(memory="150Mi", retries={"memory": 2, "error": 0}, double_memory=True)
def hungry(path: str) -> tuple[int, int]:
    count = attempts(path)
    held = b"x" * (230 * MIB)
    while toil.current().memory < 230 * MIB:  # until the watch ends it
        time.sleep(1)
    return count, toil.current().memory + 0 * len(held)


@toil.task(walltime=3, retries={"walltime": 2}, double_walltime=True)
def slow(path: str) -> tuple[int, float]:
    count = attempts(path)
    if count == 1:
        time.sleep(3600)
    return count, toil.current()._limits["walltime"]


@toil.task(retries={"error": 0, "lost": 2})
def dies(path: str) -> int:
    if attempts(path) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 3


@toil.task(retries={"error": 2, "lost": 0})
def raises(path: str) -> int:
    if attempts(path) < 3:
        raise ValueError("again")
    return 3


@toil.task(memory="300Mi", walltime=30)
def limits(*_: Any) -> tuple[int, float]:
    here = toil.current()
    return here.memory, here._limits["walltime"]


@toil.task(memory="700Mi", walltime=60)
def tail() -> Any:
    return limits()


def run(promise: Any, tmp_path: Path, **settings: Any) -> Any:
    return toil.compute(promise, store=str(tmp_path / "store"), workers=1, retry_backoff=0.01, **settings)


def test_memory_doubles_after_a_death_by_memory(tmp_path: Path) -> None:
    assert run(hungry(str(tmp_path / "count")), tmp_path) == (2, 300 * MIB)


def test_without_doubling_a_death_by_memory_uses_up_its_own_budget(tmp_path: Path) -> None:
    with pytest.raises(FailedTasksError, match="requested 150 MiB"):
        run(hungry.options(double_memory=False, retries={"memory": 1, "error": 9})(str(tmp_path / "count")), tmp_path)
    assert (tmp_path / "count").stat().st_size == 2


def test_walltime_doubles_after_a_death_by_walltime(tmp_path: Path) -> None:
    assert run(slow(str(tmp_path / "count")), tmp_path) == (2, 6.0)


def test_errors_and_lost_workers_have_budgets_of_their_own(tmp_path: Path) -> None:
    assert run([dies(str(tmp_path / "dies")), raises(str(tmp_path / "raises"))], tmp_path) == [3, 3]


def test_each_task_of_a_batch_has_its_own_limits(tmp_path: Path) -> None:
    chain = limits.options(memory="100Mi", walltime=20)(limits())
    assert run([chain, tail()], tmp_path) == [(100 * MIB, 20.0), (300 * MIB, 30.0)]


def test_retries_as_options_and_settings() -> None:
    run = Settings(retries=4, memory_retries=2, lost_retries=7, preempted_retries=5, double_walltime=True)
    assert options.budget({}, run) == Budget(4, 2, 4, 7, 5, double_walltime=True)
    asked = options.normalise({"retries": {"walltime": 1, "preempted": None}, "double_memory": True})
    assert options.budget(asked, run) == Budget(4, 2, 1, 7, None, double_memory=True, double_walltime=True)
    assert options.budget({"retries": 0}, Settings()) == Budget(error=0, memory=0, walltime=0)
    assert options.budget({"double_walltime": False}, run) == Budget(4, 2, 4, 7, 5)


@pytest.mark.parametrize(("retries", "text"), [({"eror": 1}, "'eror' is not a cause"), ({"error": -1}, "-1 is not")])
def test_wrong_retries_are_reported(retries: Any, text: str) -> None:
    with pytest.raises(InputError, match=f"option retries: {text}"):
        options.normalise({"retries": retries})


LARGEST = Resources(cores=8, memory=250, disk=10, walltime=35.0)
SHAPE = Resources(cores=1, memory=100, disk=1, walltime=10.0)


def failing(budget: Budget, *causes: Cause) -> tuple[Resources, Any]:
    """Fail a task by some causes; gives what it asks for then, and the verdict."""
    scheduler = Scheduler(Capacity(None, LARGEST))
    scheduler.handle(Submitted((new(1, shape=SHAPE, budget=budget),)))
    verdict = None
    for n, cause in enumerate(causes):
        (submit,) = scheduler.dispatch(100.0 * n)
        lost = cause in (Cause.LOST, Cause.PREEMPTED)
        event = Lost(submit.batch, cause, 100.0 * n) if lost else Failed(name(1), cause, 100.0 * n)
        verdict = scheduler.handle(event)[0]
    return scheduler.shape(name(1)), verdict


def test_what_is_doubled_ends_at_what_the_cluster_has() -> None:
    budget = Budget(memory=5, walltime=5, double_memory=True, double_walltime=True)
    memory, walltime = Cause.MEMORY, Cause.WALLTIME
    assert failing(budget, memory)[0] == Resources(cores=1, memory=200, disk=1, walltime=10.0)
    assert failing(budget, memory, memory, memory)[0].memory == 250
    assert failing(budget, walltime)[0] == Resources(cores=1, memory=100, disk=1, walltime=20.0)
    assert failing(budget, walltime, memory, walltime)[0] == Resources(cores=1, memory=200, disk=1, walltime=35.0)
    assert failing(budget, Cause.ERROR, Cause.LOST)[0] == SHAPE


def test_a_preempted_attempt_costs_nothing_and_keeps_what_was_doubled() -> None:
    budget = Budget(error=0, memory=1, lost=0, double_memory=True)
    shape, verdict = failing(budget, Cause.MEMORY, *[Cause.PREEMPTED] * 50)
    assert shape.memory == 200
    assert isinstance(verdict, Retry)
    assert isinstance(failing(Budget(preempted=1), Cause.PREEMPTED, Cause.PREEMPTED)[1], GaveUp)


def test_no_cause_uses_the_budget_of_another() -> None:
    budget = Budget(error=1, memory=1, walltime=1, lost=1, preempted=1)
    causes = [Cause.ERROR, Cause.MEMORY, Cause.WALLTIME, Cause.LOST, Cause.PREEMPTED]
    assert isinstance(failing(budget, *causes)[1], Retry)
    for cause in causes:
        assert failing(budget, *causes, cause)[1] == GaveUp(name(1), cause)


def test_a_permanent_error_is_not_tried_again(tmp_path):
    @toil.task(retries=3)
    def fails():
        with (tmp_path / "tries").open("a") as stream:
            stream.write("x")
        raise toil.PermanentError("it is what it is")

    with pytest.raises(FailedTasksError, match="it is what it is"):
        toil.compute(fails(), cluster="inline")
    assert (tmp_path / "tries").read_text() == "x"
