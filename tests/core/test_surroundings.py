"""Tasks that follow each other in one process: none sees what another has left, and each has a directory of its own."""

from __future__ import annotations

import decimal
import locale
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil


@pytest.fixture(params=["local", "inline"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Computes a promise with one worker, in a directory of the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(promise: Any, **settings: Any) -> Any:
        how = {"cluster": "inline"} if request.param == "inline" else {"workers": 1}
        return toil.compute(promise, progress=False, store=str(tmp_path / "store"), **how, **settings)

    return run


def _environment() -> Any:
    os.environ["LEFT_BEHIND"] = "1"
    os.environ.pop("PATH")


def _zone() -> Any:
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()


def _path() -> Any:
    sys.path = ["/left/behind"]


def _handler() -> Any:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})


def _loggers() -> Any:
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger().handlers.clear()
    logging.getLogger("toilfn.left").addHandler(logging.NullHandler())
    logging.disable()


def _filters() -> Any:
    warnings.simplefilter("error")
    warnings.showwarning = print  # type: ignore[assignment]


def _numbers() -> Any:
    sys.setrecursionlimit(100_000)
    socket.setdefaulttimeout(7.0)
    decimal.getcontext().prec = 3


def _interpreter() -> Any:
    sys.setswitchinterval(0.5)
    sys.setprofile(lambda *_: None)
    sys.settrace(lambda *_: None)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "environment": (_environment, lambda: ("LEFT_BEHIND" in os.environ, "PATH" in os.environ)),
    "zone": (_zone, lambda: time.tzname),
    "path": (_path, lambda: list(sys.path)),
    "directory": (lambda: os.chdir("/"), lambda: os.getcwd() == "/"),
    "umask": (lambda: os.umask(0o077), lambda: (old := os.umask(0o022), os.umask(old))[0]),
    "handlers": (
        _handler,
        lambda: (signal.getsignal(signal.SIGUSR1), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
    ),
    "locale": (lambda: locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"), lambda: locale.setlocale(locale.LC_NUMERIC)),
    "loggers": (
        _loggers,
        lambda: (
            logging.root.level,
            len(logging.root.handlers),
            logging.root.manager.disable,
            logging.getLogger("toilfn.left").handlers,
        ),
    ),
    "warnings": (_filters, lambda: (warnings.filters[:3], warnings.showwarning.__module__)),
    "numbers": (_numbers, lambda: (sys.getrecursionlimit(), socket.getdefaulttimeout(), decimal.getcontext().prec)),
    "interpreter": (_interpreter, lambda: (sys.getswitchinterval(), sys.getprofile(), sys.gettrace())),
    "temporary": (lambda: setattr(tempfile, "tempdir", "/left"), lambda: tempfile.gettempdir()),
    "arguments": (lambda: sys.argv.append("left"), lambda: "left" in sys.argv),
}


@toil.task
def look(name: str, _: Any = None) -> Any:
    return CHANGES[name][1]()


@toil.task
def change(name: str, _: Any = None) -> Any:
    CHANGES[name][0]()


@toil.task
def temporary(place: str) -> str:
    if place:
        os.environ["TMPDIR"] = place
    return tempfile.gettempdir()


def test_a_task_finds_the_temporary_directory_of_its_environment(run: Callable[..., Any], tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in "ab"]
    for place in places:
        os.mkdir(place)
    by_option = temporary.options(env={"TMPDIR": places[1]})("")
    assert run([temporary(places[0]), by_option, temporary("")]) == [*places, tempfile.gettempdir()]


@pytest.mark.parametrize("name", CHANGES)
def test_changes_that_a_task_makes_in_its_process_are_undone(run: Callable[..., Any], name: str) -> None:
    before = look(name)
    after = look(name, change(name, before))
    seen = run([before, after])
    assert repr(seen[0]) == repr(seen[1])


@toil.task
def seeded(_: Any = None) -> float:
    random.seed(1)
    return random.random()


@toil.task
def unseeded(_: Any = None) -> float:
    return random.random()


def test_random_numbers_do_not_follow_from_an_earlier_tasks_seed(run: Callable[..., Any]) -> None:
    first = seeded()
    second = unseeded(first)
    third = unseeded(seeded(second))
    values = run([first, second, third])
    random.seed(1)
    expected = [random.random(), random.random()]
    assert values[0] == expected[0]
    assert values[1] != expected[1]
    assert values[1] != values[2]


@toil.task
def only_seeds() -> None:
    random.seed(1)


def test_random_numbers_do_not_follow_from_a_seed_that_an_earlier_task_made_no_use_of(run: Callable[..., Any]) -> None:
    random.seed(1)
    followed = [random.random() for _ in range(5)]
    assert run(unseeded(unseeded(only_seeds()))) not in followed


def test_a_script_that_runs_tasks_inline_keeps_its_own_random_numbers(tmp_path: Path) -> None:
    random.seed(5)
    expected = [random.random(), random.random()]
    random.seed(5)
    first = random.random()
    toil.compute(seeded(), cluster="inline", store=str(tmp_path / "store"))
    assert [first, random.random()] == expected


@toil.task
def numpy_seeded(_: Any = None) -> float:
    import numpy as np

    np.random.seed(1)
    return float(np.random.random())


@toil.task
def numpy_unseeded(_: Any = None) -> float:
    import numpy as np

    return float(np.random.random())


def test_numpys_random_numbers_do_not_follow_from_an_earlier_tasks_seed(run: Callable[..., Any]) -> None:
    np = pytest.importorskip("numpy")
    seeded = numpy_seeded()
    first, second = run([seeded, numpy_unseeded(seeded)])
    np.random.seed(1)
    assert [first, second] != [np.random.random(), np.random.random()]
    assert first == pytest.approx(0.417022004702574)


@toil.task(retries=0)
def takes_output_away(how: str) -> str:
    if how == "closed":
        sys.stdout.close()
    elif how == "none":
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
    elif how == "detached":
        sys.stdout.detach()
    elif how == "descriptors":
        os.closerange(1, 3)
    else:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return how


@toil.task(retries=0)
def prints(_: Any) -> tuple[str, str]:
    print("to standard output")
    print("to standard error", file=sys.stderr)
    toil.current().log.warning("to the log")
    subprocess.run(["sh", "-c", "echo from a command; echo and its error >&2"], check=True)
    raise ValueError("see the log")


@pytest.mark.parametrize("how", ["closed", "none", "detached", "descriptors", "replaced"])
def test_a_task_that_closes_standard_output_affects_only_itself(tmp_path: Path, how: str) -> None:
    with pytest.raises(toil.FailedTasksError) as caught:
        toil.compute(prints(takes_output_away(how)), workers=1, progress=False, store=str(tmp_path / "store"))
    text = str(caught.value)
    for line in ("see the log", "to standard output", "to standard error", "to the log", "from a command", "its error"):
        assert line in text, text
    assert "worker process ended" not in text


@toil.task(retries=0)
def forks(how: str) -> str:
    child = os.fork()
    if child == 0:
        if how == "returns":
            return "child"
        if how == "exits":
            sys.exit(3)
        raise ValueError("in the child")
    _, status = os.waitpid(child, 0)
    return f"parent, child ended with {os.waitstatus_to_exitcode(status)}"


@pytest.mark.parametrize(("how", "status"), [("returns", 0), ("exits", 3), ("raises", 1)])
def test_a_forked_child_that_returns_does_not_answer_for_its_task(
    run: Callable[..., Any], how: str, status: int
) -> None:
    assert run(forks(how)) == f"parent, child ended with {status}"


@toil.task(retries=0)
def ends_children() -> list[int]:
    ends = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return ends


def test_sigterm_ends_a_forked_child_however_young(run: Callable[..., Any]) -> None:
    assert run(ends_children()) == [-signal.SIGTERM] * 20


@toil.task
def writes(text: str) -> tuple[str, str, list[str]]:
    found = os.listdir(".")
    Path("out.txt").write_text(text)
    time.sleep(0.05)
    return Path("out.txt").read_text(), os.getcwd(), found


def test_tasks_that_write_a_file_of_one_name_do_not_meet(run: Callable[..., Any]) -> None:
    made = run([writes(str(i)) for i in range(5)])
    assert [text for text, _, _ in made] == [str(i) for i in range(5)]
    assert all(found == [] for _, _, found in made)
    assert not Path("out.txt").exists()


@toil.task
def where() -> tuple[str, str]:
    place = os.getcwd()
    return place, str(toil.current().temp_dir)


def test_a_task_starts_in_its_temporary_directory(run: Callable[..., Any]) -> None:
    place, temporary = run(where())
    assert os.path.realpath(place) == os.path.realpath(temporary)
    assert place != os.getcwd()


@toil.task
def produces() -> Path:
    Path("made.txt").write_text("made")
    return Path("made.txt")


@toil.task
def reads(file: Any) -> str:
    return (file if isinstance(file, Path) else file.path()).read_text()


@toil.task
def names() -> Path:
    return Path("only/a/name")


def test_a_relative_path_that_a_task_returns_is_a_file_if_there_is_one(run: Callable[..., Any]) -> None:
    assert run([reads(produces()), names()]) == ["made", Path("only/a/name")]


def test_a_relative_path_of_the_script_means_the_same_in_a_task(run: Callable[..., Any]) -> None:
    Path("data.txt").write_text("given")
    assert run(reads(Path("data.txt"))) == "given"
    assert run([reads(path) for path in [Path("data.txt")]]) == ["given"]


@toil.task(retries=0)
def opens(name: str) -> str:
    with open(name) as file:
        return file.read()


@toil.task(retries=0)
def opens_indirectly(name: str) -> str:
    try:
        return open(name).read()
    except OSError as error:
        raise ValueError("no data") from error


@pytest.mark.parametrize("task", [opens, opens_indirectly])
def test_a_file_that_is_where_the_script_was_started_is_said_to_be_there(run: Callable[..., Any], task: Any) -> None:
    Path("data.txt").write_text("given")
    with pytest.raises(toil.FailedTasksError) as caught:
        run(task("data.txt"))
    text = str(caught.value)
    assert f"'data.txt' is in {Path.cwd()}" in text
    assert "pathlib.Path('data.txt')" in text
    assert "own_directory=False" in text
    with pytest.raises(toil.FailedTasksError) as caught:
        run(task("nowhere.txt"))
    assert "own_directory" not in str(caught.value)


def test_a_setting_lets_tasks_start_where_the_script_was_started(run: Callable[..., Any]) -> None:
    Path("data.txt").write_text("given")
    assert run(opens("data.txt"), own_directory=False) == "given"


@toil.task
def process(_: Any = None) -> int:
    return os.getpid()


@toil.task
def goes_on(count: int, seen: tuple[int, ...] = ()) -> tuple[int, ...]:
    seen = (*seen, os.getpid())
    return goes_on(count - 1, seen) if count else seen


def test_each_attempt_may_have_a_process_of_its_own(tmp_path: Path) -> None:
    chain = [process()]
    for _ in range(3):
        chain.append(process(chain[-1]))
    how: dict[str, Any] = {"workers": 2, "progress": False, "fresh_process": True}
    seen = toil.compute([chain, [process(i) for i in range(5)], goes_on(3)], store=str(tmp_path / "store"), **how)
    processes = [*seen[0], *seen[1], *seen[2]]
    assert len(set(processes)) == len(processes)


def test_a_worker_that_crashes_leaves_without_waiting_for_what_tasks_have_started(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text(
        textwrap.dedent("""
        import atexit, threading, time
        import toilfn as toil
        import toilfn.worker.main

        @toil.task(retries={"lost": 0, "error": 0})
        def leaves():
            import toilfn.worker.execute as execute
            atexit.register(time.sleep, 600)
            threading.Thread(target=time.sleep, args=(600,)).start()
            def broken(*_):
                raise AssertionError("a fault of the worker's own")
            execute.AttemptRunner._end = broken

        if __name__ == "__main__":
            try:
                toil.compute(leaves(), progress=False)
            except toil.FailedTasksError as error:
                print("ended with exit status 1" in str(error), "a fault of the worker's own" in str(error))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "True True\n", done.stderr


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    @property
    def __notes__(self) -> Any:
        raise RuntimeError("no notes")


@toil.task(retries=0)
def raises_unspeakable() -> None:
    raise UnspeakableError


@toil.task(retries=0)
def raises_surrogates() -> None:
    print("printed caf\udce9.txt")
    raise ValueError("no such file: caf\udce9.txt")


def test_an_exception_that_cannot_be_shown_is_still_the_tasks(run: Callable[..., Any]) -> None:
    with pytest.raises(toil.FailedTasksError, match="UnspeakableError"):
        run(raises_unspeakable())


def test_a_message_that_is_not_unicode_is_shown_with_escapes(run: Callable[..., Any]) -> None:
    with pytest.raises(toil.FailedTasksError) as caught:
        run(raises_surrogates())
    assert "ValueError: no such file: caf\\udce9.txt" in str(caught.value)
    str(caught.value).encode()


def test_modules_of_a_folder_whose_name_is_not_unicode_are_found(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "helper.py").write_text("VALUE = 7\n")
    (folder / "flow.py").write_text(
        "import toilfn as toil\nimport helper\n\n@toil.task\ndef f():\n    import helper\n    return helper.VALUE\n\n"
        "if __name__ == '__main__':\n    print(toil.compute(f(), store='store', progress=False))\n"
    )
    done = subprocess.run([sys.executable, "flow.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


@pytest.mark.parametrize("cluster", ["LocalCluster(workers=1)", "ProcessCluster()"])
def test_files_of_the_current_directory_are_not_taken_for_modules(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "flow.py").write_text(
        "import toilfn as toil\nfrom toilfn import LocalCluster\n"
        "from toilfn.clusters.local.beside import ProcessCluster\n\n"
        "@toil.task(retries={'error': 0, 'lost': 0})\ndef f():\n    import helper\n    return helper.VALUE\n\n"
        f"if __name__ == '__main__':\n    print(toil.compute(f(), cluster={cluster}, store='store', progress=False))\n"
    )
    (tmp_path / "helper.py").write_text("VALUE = 7\n")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("random", "queue", "logging", "toilfn", "msgpack", "helper"):
        (data / f"{name}.py").write_text(f"raise SystemExit('the wrong {name} was imported')\n")
    command = [sys.executable, "../flow.py"]
    done = subprocess.run(command, cwd=data, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "7\n", done.stderr


@toil.task(walltime="60s", retries=0)
def sleeps() -> str:
    time.sleep(1)
    return "slept"


def test_a_clock_that_is_set_meanwhile_does_not_count_as_walltime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert toil.compute(sleeps(), workers=1, progress=False, store=str(tmp_path / "store")) == "slept"
