"""The message that a run with failed tasks ends with."""

from __future__ import annotations

import hashlib
import importlib
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.config.settings import Settings
from toilfn.errors import FailedTasksError
from toilfn.leader.failures import failed_tasks
from toilfn.leader.run import WorkflowRun
from toilfn.model.records import Failure, Stats

STATS = Stats(start=0.0, wall=1.0, cpu=1.0, memory=0, host="node1", worker=7)


def failure(number: int, message: str = "ValueError: bad", cause: str = "error", log: bytes = b"") -> Failure:
    id_ = hashlib.blake2b(f"{number}".encode(), digest_size=16).digest()
    return Failure(id_, 1, cause, message, f"Traceback: {message}\n", log, STATS, final=True)


def told(*failures: Failure, name: str = "sort", store: str = "run1") -> str:
    resume = f"toilfn resume {shlex.quote(store)}"
    error = failed_tasks(failures, lambda _: name, lambda _: "1", lambda f: str(f.log, "utf-8"), store, resume)
    assert error.failures == failures
    return str(error)


def test_failures_that_are_alike_are_shown_once_with_their_number() -> None:
    text = told(*(failure(n, f"ValueError: bad {n}") for n in range(300)))
    assert text.count("Traceback: ") == 1
    assert "300 tasks failed" in text
    assert "299 more failed in the same way" in text
    assert "toilfn status run1 --failed" in text
    assert len(text.splitlines()) < 20


def test_different_failures_are_all_shown() -> None:
    text = told(failure(1, "ValueError: bad"), failure(2, "KeyError: 'x'"))
    assert "Traceback: ValueError: bad" in text
    assert "Traceback: KeyError: 'x'" in text


def test_a_tasks_own_error_comes_before_lost_machines() -> None:
    text = told(failure(1, "the node died", "lost"), failure(2, "KeyError: 'x'"))
    assert text.index("KeyError") < text.index("the node died")


def test_the_end_of_a_long_log_is_shown_with_the_command_for_the_rest() -> None:
    one = failure(1, log="".join(f"line {n}\n" for n in range(500)).encode())
    text = told(one)
    assert "line 499" in text
    assert "line 400" not in text
    assert f"toilfn logs run1 {one.id.hex()[:12]}" in text


def test_the_message_stays_short_whatever_failed() -> None:
    log = b"noise\n" * 10_000
    failures = [failure(n, f"{chr(65 + n % 26) * (n + 1)}Error: {'x' * 10**6}", log=log) for n in range(60)]
    text = told(*failures)
    assert len(text.splitlines()) < 200
    assert "more: toilfn status run1 --failed" in text


def test_names_messages_and_logs_cannot_control_the_terminal() -> None:
    text = told(failure(1, "ValueError: \x1b[2J", log=b"\x1b]0;title\x07"), name="\x1b[31msort")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[31msort" in text


def test_a_stores_name_is_quoted_in_commands() -> None:
    assert "toilfn resume 'my run'" in told(failure(1), store="my run")


@toil.task(retries=0)
def call(text: bool) -> None:
    code = "import sys; print('half done'); print('reference index is missing', file=sys.stderr); sys.exit(4)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=text)


@toil.task(retries=0)
def call_behind_another_error() -> None:
    try:
        call.__wrapped__(True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError("alignment failed") from error


@pytest.mark.parametrize("promise", [call(True), call(False), call_behind_another_error()], ids=repr)
def test_the_last_output_of_a_failed_command_is_in_the_error(promise: toil.Promise[None]) -> None:
    with pytest.raises(FailedTasksError) as raised:
        toil.compute(promise, cluster="inline", progress=False)
    assert "reference index is missing" in str(raised.value)
    assert "half done" in str(raised.value)


@toil.task(retries=0)
def imports(name: str) -> None:
    importlib.import_module(name)


@toil.task(retries=0)
def does_without() -> None:
    try:
        importlib.import_module("not_installed_here")
    except ImportError:
        int("no number")


@toil.task(retries=0)
def needs_it_for_a_format() -> None:
    try:
        importlib.import_module("not_installed_here.excel")
    except ImportError as error:
        raise ValueError("cannot read this format") from error


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_a_package_that_the_worker_lacks_is_named_with_its_interpreter(cluster: str, tmp_path: Path) -> None:
    for number, lazy in enumerate((imports("not_installed_here"), needs_it_for_a_format())):
        with pytest.raises(toil.FailedTasksError, match="not_installed_here") as caught:
            toil.compute(lazy, store=tmp_path / f"store{number}", cluster=cluster, progress=False)
        said = " ".join(str(caught.value).split())
        assert f"{sys.executable} on {socket.gethostname()} has no module 'not_installed_here" in said
        assert "install it there" in said


def test_a_package_that_the_task_does_without_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match="invalid literal") as caught:
        toil.compute(does_without(), store=tmp_path / "store", cluster="inline", progress=False)
    assert "install it there" not in str(caught.value)


def test_no_message_points_to_a_store_that_is_removed(tmp_path: Path) -> None:
    @toil.task
    def fails(number: int) -> None:
        raise ValueError("bad" if number else "worse")

    failing = fails.map(range(13))
    with pytest.raises(toil.FailedTasksError) as caught:
        toil.compute(failing, store=tmp_path / "s", clean="onError", cluster="inline", retries=0, progress=False)
    assert "11 more failed in the same way" in str(caught.value)
    assert not re.search("toilfn (resume|status|logs)", str(caught.value))
    assert not (tmp_path / "s" / "store.json").exists()


def test_a_store_stays_while_its_jobs_run(tmp_path: Path) -> None:
    with WorkflowRun(Settings.resolve(store=tmp_path / "s t", clean="always", cluster="inline")) as run:
        run._has_begun = run.may_have_jobs = True
    assert run.way_on == f"toilfn resume '{tmp_path / 's t'}'"
    assert (tmp_path / "s t" / "store.json").exists()
