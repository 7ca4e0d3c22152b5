"""``python -m toilfn.worker STORE BATCH``: a batch whose message and answers are in the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.core.batches import Answered, Made, make
from toilfn.stores import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", sync=False)


class Answers:
    """Has the name of a class that the worker's process has loaded before."""

    def __init__(self, number: int) -> None:
        self.number = number


@toil.task
def same(value: Any) -> Any:
    print("same", value)
    return value


@toil.task
def slow(note: str) -> None:
    toil.current().defer(Path(note + ".deferred").write_text, "called")
    Path(note).write_text("started")
    time.sleep(1000)


@toil.task
def crash() -> None:
    os.abort()


def worker(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toilfn.worker", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def put(store: Store, *promises: Any) -> Made:
    made = make(store, *promises)
    store.put_batches("b1", [made.message])
    return made


def answered(store: Store) -> Answered:
    found = Answered()
    for message in store.get_answers("b1-0"):
        found.hear(message)
    return found


def test_a_batch_is_run_and_answered(store: Store) -> None:
    made = put(store, same(1), same(same([2])))
    assert worker(store.url, "b1-0").returncode == 0
    found = answered(store)
    assert [found.value(id_, store) for id_ in made.ids] == [1, [2]]
    assert found.outcomes[made.ids[0]].log == b"same 1\n"
    assert found.kinds == ["done"]


def test_a_second_worker_for_one_batch_stops(store: Store) -> None:
    put(store, same(1))
    worker(store.url, "b1-0")
    before = store.get_answers("b1-0")
    again = worker(store.url, "b1-0")
    assert again.returncode == 75
    assert "another worker has answered for batch b1-0" in again.stderr
    assert store.get_answers("b1-0") == before


def test_a_request_to_end_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    note = tmp_path / "note"
    put(store, slow(str(note)))
    command = [sys.executable, "-m", "toilfn.worker", store.url, "b1-0"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TOILFN_WORK_DIR": str(tmp_path / "work")}
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 30
        while not note.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    assert Path(f"{note}.deferred").exists()
    left = {path.relative_to(tmp_path / "work").parts[1] for path in (tmp_path / "work").rglob("*/*")}
    assert left <= {"runs"}  # which code and files the next worker would find


def test_the_traceback_of_a_crashed_worker_is_in_the_jobs_own_log(store: Store) -> None:
    put(store, crash())
    crashed = worker(store.url, "b1-0")
    assert crashed.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in crashed.stderr
    assert "in crash" in crashed.stderr


def test_a_batch_that_is_not_there_is_an_error(store: Store) -> None:
    missing = worker(store.url, "b2-0")
    assert missing.returncode == 1
    assert missing.stderr.startswith("toilfn.worker: ")


@pytest.mark.parametrize("arguments", [(), ("one",), ("--fd", "1")])
def test_wrong_usage_is_reported(arguments: tuple[str, ...]) -> None:
    wrong = worker(*arguments)
    assert wrong.returncode in (1, 2)
    assert "toilfn.worker" in wrong.stderr


SCRIPT = """
import sys
import toilfn as toil
from tests.core.batches import make
from toilfn.stores import open_store

class Answers:
    def __init__(self, number):
        self.number = number

@toil.task
def number_of(answers):
    assert isinstance(answers, Answers)
    return Answers(answers.number + 1)

store = open_store(sys.argv[1])
store.put_batches("b1", [make(store, number_of(number_of(Answers(1)))).message])
"""


def test_classes_of_a_script_are_not_mistaken_for_the_workers(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, str(script), store.url], env=environment, check=True)
    assert worker(store.url, "b1-0").returncode == 0
    found = answered(store)
    assert not found.failures
    assert len(found.outcomes) == 2
