"""The task's own view of itself, and the processes and files that it may leave behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.core.batches import Answered, make
from toilfn.errors import ToilfnError
from toilfn.files.scratch import Scratch, sweep
from toilfn.stores import open_store
from toilfn.worker.inprocess import InProcess


@pytest.fixture
def value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Runs one task and gives its value."""
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    store = open_store(tmp_path / "store", sync=False)
    runner = InProcess(store.url, {})

    def value(promise: Any, **how: Any) -> Any:
        made, answered = make(store, promise, **how), Answered()
        for message in runner(made.message):
            answered.hear(message)
        assert not answered.failures or how.get("attempt"), answered.failures
        return answered.value(made.ids[0], store) if answered.outcomes else None

    yield value
    runner.close()
    assert not any((tmp_path / "work").rglob("*/*"))


@toil.task(name="about-itself")
def about() -> dict[str, Any]:
    here = toil.current()
    return {name: getattr(here, name) for name in ("name", "id", "attempt", "cores", "memory", "disk", "accelerators")}


@toil.task
def temporary() -> tuple[Path, int, bool]:
    place = toil.current().temp_dir
    (place / "sub").mkdir()
    (place / "sub" / "file").write_text("x")
    (place / "sub").chmod(0o500)
    return str(place), stat.S_IMODE(place.stat().st_mode), place == toil.current().temp_dir


@toil.task
def deferring(log: str, fails: bool) -> str:
    for word in ("first", "second"):
        toil.current().defer(append, log, word)
    toil.current().defer(append, "/no/such/directory", "")
    if fails:
        raise ValueError("after deferring")
    append(log, "body")
    return "done"


def append(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word} ")


@toil.task
def in_a_thread() -> str:
    found = []
    thread = threading.Thread(target=lambda: found.append(toil.current().name))
    thread.start()
    thread.join()
    return found[0]


@toil.task
def spawn_a_number() -> str:
    with pytest.raises(TypeError, match="promise returned by calling a task, not 3"):
        toil.spawn(3)
    return "refused"


@toil.task(env={"TOILFN_TEST_GREETING": "hello"})
def variables() -> str | None:
    os.chdir("/")
    return os.environ.get("TOILFN_TEST_GREETING")


@toil.task
def devices() -> tuple[str, ...]:
    return toil.current().accelerators


def test_a_task_knows_itself(value: Callable[..., Any]) -> None:
    known = value(about(), attempt=3, cores=2.5, memory=10**9, disk=5)
    assert known.pop("id").isalnum()
    assert known == {"name": "about-itself", "attempt": 3, "cores": 2.5, "memory": 10**9, "disk": 5, "accelerators": ()}


def test_the_temporary_directory_is_private_and_gone_afterwards(value: Callable[..., Any], tmp_path: Path) -> None:
    place, mode, is_one = value(temporary())
    assert place.startswith(str(tmp_path / "work"))
    assert mode == 0o700
    assert is_one
    assert not Path(place).exists()


@pytest.mark.parametrize(
    ("policy", "kept"), [("always", []), ("onSuccess", ["bad"]), ("onError", ["good"]), ("never", ["bad", "good"])]
)
def test_the_temporary_directory_can_be_kept(
    value: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, kept: list[str]
) -> None:
    def write() -> None:
        (toil.current().temp_dir / "notes").write_text(toil.current().name)

    def fail() -> None:
        write()
        raise ValueError

    monkeypatch.setenv("TOILFN_CLEAN_WORK_DIR", policy)
    value(toil.task(write, name="good")())
    value(toil.task(fail, name="bad")(), attempt=1)
    found = sorted(notes.read_text() for notes in (tmp_path / "work").glob("*/kept/*/notes"))
    assert found == kept
    for directory in (tmp_path / "work").glob("*/kept"):
        shutil.rmtree(directory)


@pytest.mark.parametrize("fails", [False, True])
def test_deferred_calls_are_made_in_reverse_however_the_attempt_ends(
    value: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    log = tmp_path / "log"
    value(deferring(str(log), fails), attempt=1)
    assert log.read_text() == ("" if fails else "body ") + "second first "
    assert "the deferred function" in caplog.text
    assert "/no/such/directory" in caplog.text


def test_threads_of_a_task_are_in_it(value: Callable[..., Any]) -> None:
    assert value(in_a_thread()) == "in_a_thread"


def test_only_promises_can_be_spawned(value: Callable[..., Any]) -> None:
    assert value(spawn_a_number()) == "refused"


def test_directory_and_variables_are_put_back(value: Callable[..., Any]) -> None:
    before = os.getcwd()
    assert value(variables()) == "hello"
    assert os.getcwd() == before
    assert "TOILFN_TEST_GREETING" not in os.environ


def test_devices_are_shown_to_tasks_that_asked_for_some(
    value: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert value(devices()) == ()
    assert value(devices(), accelerators=(toil.Accelerator(2),)) == ("2", "5")


@pytest.mark.parametrize("function", [toil.current, lambda: toil.spawn(about())])
def test_outside_a_task_the_error_says_so(function: Callable[[], Any]) -> None:
    with pytest.raises(ToilfnError, match="no task is running here"):
        function()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from toilfn.files.scratch import Scratch
    scratch = Scratch(Path(sys.argv[1]))
    (scratch.new_dir() / "file").write_text("left behind")
    for word in ("first", "second"):
        scratch.defer(lambda log, word: Path(log + word).write_text(word), (sys.argv[2], word), {})
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_sweep_cleans_up_after_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    base, log = tmp_path / "base", tmp_path / "log"
    base.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(base), str(log)]
    dead = subprocess.run([*command, "killed"], check=False)
    assert dead.returncode == -signal.SIGKILL
    with subprocess.Popen([*command, "alive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == b"ready\n"
        assert len(list(base.iterdir())) == 2
        sweep(base)
        assert sorted(path.name for path in tmp_path.glob("log*")) == ["logfirst", "logsecond"]
        (left,) = base.iterdir()
        assert left.name.startswith(f"{alive.pid}-")
        alive.communicate()


def test_a_call_that_cannot_be_pickled_is_made_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scratch, lock = Scratch(tmp_path), threading.Lock()
    with caplog.at_level(logging.WARNING):
        scratch.defer(lock.acquire, (), {}).run()
    assert lock.locked()
    assert "it will not be called if this process is killed" in caplog.text
    scratch.close()
