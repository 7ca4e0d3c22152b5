"""`toilfn debug`: one task in this process, with its real inputs; the store stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging
import toilfn as toil

@toil.task
def write(name, text):
    with toil.open_write(name, "w") as stream:
        stream.write(text)
    return stream.file

@toil.task
def count(file, factor, *, also):
    words = file.read_text().split()
    print("counting", toil.current().temp_dir.exists())
    with toil.open_write("copy", "w") as stream:
        stream.write("copy")
    return toil.spawn(later(1)) or len(words) * factor

@toil.task(retries=0)
def look(n):
    breakpoint()
    return n

@toil.task
def later(n):
    return n

@toil.service
def address(other="nowhere"):
    print("up beside", other)
    yield {"port": 80, "beside": other}
    print("down")

@toil.service
def clock():
    print("starts")
    yield "noon"
    print("stops")

@toil.service
def broken():
    raise OSError("no such port")
    yield

@toil.task(retries=0)
def client(server, factor):
    print("asking")
    toil.current().log.info("asked at %s", server["port"])
    logging.getLogger("mine").debug("of no interest")
    return server["port"] * factor

@toil.task(retries=0)
def failing_client(server):
    raise ValueError(f"no answer from {server['port']}")

@toil.task(retries=0)
def lost_client(server):
    return server

@toil.task(retries=0)
def divide(number, by):
    quotient = number // by
    return quotient

@toil.task
def after(number):
    return number

if __name__ == "__main__":
    import contextlib
    number = count(write("in put.txt", "one two three"), 2, also=[1])
    with contextlib.suppress(toil.FailedTasksError):
        clients = client(address(address()), 2), failing_client(address("here")), lost_client(broken()), later(clock())
        toil.compute(number, toil.task(min)(number, 7), look(3), clients, after(divide(number, 0)), retries=0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store whose workflow has failed, and without the script it came from."""
    folder = tmp_path_factory.mktemp("debug")
    (folder / "flow.py").write_text(SCRIPT)
    toilfn(folder, "run", "flow.py", "--store", "store")
    (folder / "flow.py").unlink()
    return folder


def toilfn(folder: Path, *arguments: str, said: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "toilfn", *arguments], cwd=folder, input=said, text=True, capture_output=True,
        env={**os.environ, "SHELL": "/bin/sh"}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def contents(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "store").rglob("*")}


def test_a_task_runs_again_and_the_store_stays_as_it_is(folder: Path) -> None:
    before = contents(folder)
    assert toilfn(folder, "debug", "store", "count").stdout == "counting True\nvalue: 6\n"
    assert contents(folder) == before


def test_an_exception_is_shown_from_the_tasks_own_line_on(folder: Path) -> None:
    err = toilfn(folder, "debug", "store", "divide", status=1).stderr
    assert "ZeroDivisionError" in err
    assert "toilfn/" not in err


def test_the_debugger_opens_where_the_task_failed(folder: Path) -> None:
    done = toilfn(folder, "debug", "store", "divide", "--pdb", said="p ('number', number, by)\nq\n", status=1)
    assert "('number', 6, 0)" in done.stdout


def test_inputs_are_printed_by_name(folder: Path) -> None:
    lines = toilfn(folder, "debug", "store", "count", "--print-inputs").stdout.splitlines()
    assert lines[0].startswith("file: ")
    assert "in put.txt" in lines[0]
    assert lines[1:] == ["factor: 2", "also: [1]"]


def test_inputs_of_a_service_are_printed_without_starting_it(folder: Path) -> None:
    assert toilfn(folder, "debug", "store", "broken", "--print-inputs").stdout == ""


def test_inputs_of_a_function_that_hides_its_parameters_are_numbered(folder: Path) -> None:
    assert toilfn(folder, "debug", "store", "min", "--print-inputs").stdout == "0: 6\n1: 7\n"


def test_a_shell_opens_beside_the_input_files(folder: Path) -> None:
    out = toilfn(folder, "debug", "store", "count", "--shell", said="cat 'in put.txt'\n").stdout
    assert out.endswith("one two three")


def test_input_files_are_copied(folder: Path, tmp_path: Path) -> None:
    toilfn(folder, "debug", "store", "count", "--files", str(tmp_path / "inputs"))
    assert [path.read_text() for path in (tmp_path / "inputs").iterdir()] == ["one two three"]


def test_a_task_whose_input_failed_cannot_run(folder: Path) -> None:
    err = toilfn(folder, "debug", "store", "after", status=2).stderr
    assert "the input divide (" in err
    assert "has no value yet" in err


def test_the_services_that_a_task_uses_run_meanwhile(folder: Path) -> None:
    lines = toilfn(folder, "debug", "store", "client").stdout.splitlines()
    assert lines[:2] == ["up beside nowhere", "up beside {'port': 80, 'beside': 'nowhere'}"]
    assert lines[2:] == ["asking", "down", "down", "value: 160"]


def test_services_of_a_task_that_fails_stop_too(folder: Path) -> None:
    done = toilfn(folder, "debug", "store", "failing_client", status=1)
    assert "ValueError: no answer from 80" in done.stderr
    assert done.stdout.splitlines() == ["up beside here", "down"]


def test_a_service_that_cannot_start_says_why(folder: Path) -> None:
    err = toilfn(folder, "debug", "store", "lost_client", status=1).stderr
    assert "service broken failed: OSError: no such port" in err


def test_log_messages_are_shown_as_workers_write_them(folder: Path) -> None:
    (line,) = toilfn(folder, "debug", "store", "client").stderr.splitlines()
    assert line.endswith("INFO client: asked at 80")


def test_a_user_who_leaves_a_debugger_sees_no_internals(folder: Path) -> None:
    done = toilfn(folder, "debug", "store", "look", said="p 'n is', n\nq\n", status=130)
    assert "('n is', 3)" in done.stdout
    assert done.stderr == "toilfn: interrupted\n"


def test_a_user_who_leaves_a_debugger_in_a_run_sees_no_internals(tmp_path: Path) -> None:
    script = "import toilfn as toil\nlook = toil.task(lambda: breakpoint())\ntoil.compute(look(), cluster='inline')\n"
    (tmp_path / "flow.py").write_text(script)
    done = toilfn(tmp_path, "run", "flow.py", "--store", "store", said="q\n", status=130)
    assert done.stderr.endswith("toilfn: interrupted\n")
    assert "Traceback" not in done.stderr


def test_a_service_by_itself_starts_and_stops(folder: Path) -> None:
    lines = toilfn(folder, "debug", "store", "clock").stdout.splitlines()
    assert lines == ["starts", "stops", "value: 'noon'"]


def test_a_service_by_itself_that_fails_is_shown_from_its_own_line_on(folder: Path) -> None:
    err = toilfn(folder, "debug", "store", "broken", status=1).stderr
    assert "OSError: no such port" in err
    assert "toilfn/" not in err
