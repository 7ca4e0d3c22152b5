"""Batches of tasks, run in this process: outcomes, failures, tail calls, recalls."""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toilfn as toil
from tests.core.batches import Answered, make
from toilfn import protocol
from toilfn.clusters.local.channel import AttemptPage
from toilfn.model import records
from toilfn.stores import Store, open_store
from toilfn.worker.answers import Answers
from toilfn.worker.batch import Batch
from toilfn.worker.capture import NoCapture
from toilfn.worker.execute import AttemptRunner
from toilfn.worker.inprocess import InProcess
from toilfn.worker.surroundings import Surroundings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", sync=False)


@pytest.fixture
def run(store: Store) -> Iterator[Any]:
    runner = InProcess(store.url, {})

    def run(*promises: Any, **how: Any) -> tuple[Answered, list[bytes]]:
        made = make(store, *promises, **how)
        answered = Answered()
        for message in runner(made.message):
            answered.hear(message)
        assert answered.kinds[-1] == "done"
        return answered, made.ids

    yield run
    runner.close()


@toil.task
def same(value: Any) -> Any:
    return value


@toil.task
def fail(text: str) -> Any:
    raise ValueError(text)


@toil.task
def raising(name: str) -> Any:
    raise {"memory": MemoryError, "exit": SystemExit, "interrupt": KeyboardInterrupt}[name]("told to")


@toil.task
def caused() -> Any:
    try:
        fail.__wrapped__("the cause")
    except ValueError as error:
        raise RuntimeError("first line\nsecond line") from error


@toil.task
def misused(how: str) -> Any:
    if how == "file":
        return toil.write_file("nowhere.txt")
    if how == "option":
        return same.options(memory="lots")("value")
    return same("value").attribute


@toil.task
def appended(values: list[int]) -> list[int]:
    values.append(len(values))
    return values


@toil.task
def unstorable(kind: str) -> Any:
    if kind == "generator":
        return (x for x in range(3))
    if kind == "file":
        with open(os.devnull, "wb") as file:
            return {"rows": [1, file]}
    if kind == "lock":
        return [1, {"a": (2, threading.Lock())}]
    if kind.startswith("deep"):
        levels, innermost = (50, threading.Lock()) if kind == "deep lock" else (5000, 1)
        return functools.reduce(lambda inner, _: [inner], range(levels), innermost)
    return Holder(io.BytesIO(), threading.Lock())


class Holder:
    def __init__(self, good: Any, bad: Any) -> None:
        self.good = good
        self.bad = bad


@toil.task
def count_down(n: int) -> Any:
    return count_down(n - 1) if n else "lift-off"


@toil.task
def count_down_to_error(n: int) -> Any:
    return count_down_to_error(n - 1) if n else fail("at the end")


@toil.task
def wrapped(n: int) -> Any:
    return [n, wrapped(n - 1)] if n else []


@toil.task(memory="100M")
def small_then(memory: str) -> Any:
    return same.options(memory=memory)("next")


@toil.task
def two_calls() -> Any:
    return [same(1), same(2)]


@toil.task
def spawning() -> str:
    toil.spawn(same("spawned"))
    return "own value"


@toil.task
def after_two(first: Any, second: Any) -> Any:
    return first, second


def test_a_value_comes_back(run: Any, store: Store) -> None:
    answered, (id_,) = run(same({"a": [1, 2]}))
    assert answered.value(id_, store) == {"a": [1, 2]}
    assert answered.outcomes[id_].attempt == 1
    assert answered.outcomes[id_].stats.wall > 0


def test_values_pass_within_a_batch_and_cannot_be_altered_there(run: Any, store: Store) -> None:
    base = same([])
    answered, ids = run(appended(base), appended(base), appended(appended(base)))
    assert [answered.value(id_, store) for id_ in ids] == [[0], [0], [0, 1]]


def test_values_come_from_outside(run: Any, store: Store) -> None:
    answered, (given_id,) = run(same("x" * 100_000))
    outcome = answered.outcomes[given_id]
    assert isinstance(outcome.value, records.BlobRef)
    assert outcome.value in outcome.blobs
    assert answered.value(given_id, store) == "x" * 100_000


def test_a_failure_has_one_line_and_the_users_part_of_the_traceback(run: Any) -> None:
    answered, (id_,) = run(caused())
    failure = answered.failures[id_]
    assert failure.message == "RuntimeError: first line"
    assert failure.cause == "error"
    assert "raise RuntimeError" in failure.traceback
    assert "ValueError: the cause" in failure.traceback
    assert "execute.py" not in failure.traceback


@pytest.mark.parametrize("how", ["file", "option", "attribute"])
def test_the_traceback_ends_in_the_users_line_where_toilfn_refuses_a_call(run: Any, how: str) -> None:
    answered, (id_,) = run(misused(how))
    files = re.findall(r'File "(.*)", line', answered.failures[id_].traceback)
    assert files == [__file__]


@pytest.mark.parametrize(
    ("name", "cause", "message"),
    [
        ("memory", "memory", "MemoryError: told to"),
        ("exit", "error", "SystemExit: told to"),
    ],
)
def test_an_exception_of_a_task_is_its_own_failure(run: Any, name: str, cause: str, message: str) -> None:
    answered, (id_,) = run(raising(name))
    assert (answered.failures[id_].cause, answered.failures[id_].message) == (cause, message)


def test_an_interrupt_ends_the_run_when_it_is_in_this_process(run: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(raising("interrupt"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("generator", "value is a generator: return a list instead"),
        ("file", "value['rows'][1] is a _io.BufferedWriter: return the content, or a File"),
        ("lock", "value[1]['a'][1] is a _thread.lock"),
        ("object", "value.bad is a _thread.lock"),
        ("deep", "it is nested too deeply"),
        ("deep lock", "value" + 30 * "[0]" + " is a list"),
    ],
)
def test_a_value_that_cannot_be_stored_is_named(run: Any, kind: str, text: str) -> None:
    answered, (id_,) = run(unstorable(kind))
    failure = answered.failures[id_]
    assert failure.cause == "input"
    assert f"the value of task unstorable cannot be stored: {text}" in failure.message


def test_dependents_of_a_failed_task_are_given_back_and_the_rest_runs(run: Any, store: Store) -> None:
    failed = fail("no")
    answered, ids = run(failed, same(failed), same(same(failed)), same("other"))
    assert set(answered.failures) == {ids[0]}
    assert set(answered.returned) >= {ids[1], ids[2]}
    assert len(answered.returned) == 3
    assert answered.value(ids[3], store) == "other"


@given(depth=st.integers(0, 30))
@settings(max_examples=10)
def test_tail_calls_continue_in_the_same_batch(depth: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = open_store(tmp_path_factory.mktemp("store"), sync=False)
    runner, answered = InProcess(store.url, {}), Answered()
    made = make(store, same(count_down(depth)))
    for message in runner(made.message):
        answered.hear(message)
    runner.close()
    assert answered.value(made.ids[0], store) == "lift-off"
    assert len(answered.outcomes) == depth + 2
    assert len(answered.kept) == depth
    assert set(answered.kept) < set(answered.outcomes)


def test_a_structure_around_a_tail_call_is_resolved_for_what_needs_it(run: Any, store: Store) -> None:
    answered, (id_,) = run(same(wrapped(3)))
    assert answered.value(id_, store) == [3, [2, [1, []]]]


def test_dependents_of_a_tail_call_that_fails_are_given_back(run: Any) -> None:
    answered, (_, needing) = run(count_down_to_error(3), same(count_down_to_error(3)))
    assert [failure.message for failure in answered.failures.values()] == ["ValueError: at the end"] * 2
    assert needing in answered.returned


@pytest.mark.parametrize(("memory", "kept"), [("100M", 1), ("50M", 1), ("200M", 0)])
def test_a_call_that_asks_for_more_is_left_to_the_leader(run: Any, memory: str, kept: int) -> None:
    answered, (id_,) = run(small_then(memory))
    assert len(answered.kept) == kept
    assert len(answered.outcomes) == 1 + kept
    assert len(answered.outcomes[id_].tasks) == 1


def test_several_calls_are_left_to_the_leader(run: Any) -> None:
    answered, (id_, needing) = run(two_calls(), same(two_calls()))
    assert len(answered.outcomes[id_].tasks) == 2
    assert not answered.kept
    assert needing in answered.returned


def test_spawned_work_is_a_child_that_the_value_does_not_refer_to(run: Any, store: Store) -> None:
    answered, (id_,) = run(spawning())
    (child,) = answered.outcomes[id_].tasks
    assert answered.outcomes[id_].refs == ()
    assert answered.value(child.id, store) == "spawned"
    assert answered.kept == [child.id]


def executor_of(store: Store) -> AttemptRunner:
    return AttemptRunner(store, NoCapture(), AttemptPage(), Surroundings(limit_threads=False), KeyboardInterrupt)


def test_a_loop_of_tail_calls_keeps_only_the_value_that_is_needed(store: Store) -> None:
    executor = executor_of(store)
    made = make(store, same(count_down(500)))
    batch = Batch(executor, protocol.expect(protocol.Run, made.message))
    while (attempt := batch.next()) is not None:
        batch.ended(attempt, executor.run(attempt, batch.payloads))
        assert len(batch.payloads) <= 1


def test_tasks_without_time_left_for_their_walltime_are_given_back(store: Store) -> None:
    """The first task is run in any case; a tail call counts as another one."""
    for walltime, ran in ((120.0, 5), (60.0, 1)):
        executor = executor_of(store)
        made = make(store, same(count_down(2)), same(2), walltime=60.0)
        batch = Batch(executor, protocol.expect(protocol.Run, made.message)._replace(walltime=walltime))
        attempts = []
        while (attempt := batch.next()) is not None:
            attempts.append(attempt.task.id)
            batch.ended(attempt, executor.run(attempt, batch.payloads))
        assert len(attempts) == ran


@given(started=st.integers(0, 6))
@settings(max_examples=7)
def test_a_recall_gives_back_what_has_not_started(started: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = open_store(tmp_path_factory.mktemp("store"), sync=False)
    executor = executor_of(store)
    made = make(store, *[same(i) for i in range(6)])
    batch = Batch(executor, protocol.expect(protocol.Run, made.message))
    ran = []
    for attempt in itertools.islice(iter(batch.next, None), started):
        assert attempt is not None
        ran.append(attempt.task.id)
    assert ran + batch.recall() == made.ids
    assert batch.next() is None


def test_the_end_of_an_announced_task_is_reported_before_the_next_one_begins():
    """Else that one could end the process, and the leader would charge the task that it believes to be running."""
    said = []
    answers = Answers(said.append)
    answers.running(b"a", 1.0)
    answers.add(b"outcome of a")
    answers.begin()
    assert [msgpack.unpackb(message)[0] for message in said] == ["running", "records"]
    answers.add(b"outcome of b, which was quick")
    answers.begin()
    assert len(said) == 2
