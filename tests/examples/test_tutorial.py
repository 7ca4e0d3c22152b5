"""The programs of Toil's manual, in toilfn's words, do what they do there."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.containers import IMAGE, Containers
from tests.servers.fixtures import containers

__all__ = ["containers"]

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial"

LENGTHS = {
    "arguments.py": 16, "cwlexample.py": 38, "discoverfiles.py": 27, "docker.py": 17, "dynamic.py": 18,
    "encapsulation.py": 19, "encapsulation2.py": 18, "helloworld.py": 11, "invokeworkflow.py": 19,
    "invokeworkflow2.py": 23, "jobfunctions.py": 15, "managing.py": 17, "managing2.py": 27,
    "../merge_sort.py": 59, "multiplejobs.py": 18,
    "multiplejobs2.py": 15, "multiplejobs3.py": 16, "promises.py": 18, "promises2.py": 20, "quickstart.py": 15,
    "requirements.py": 24, "services.py": 25, "staging.py": 27,
}  # fmt: skip
"""Lines of the programs in Toil's manual (5.10), without blank lines and comments."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program to its end; its stores and temporary files are in the test's own directory."""

    def run(name: str, *args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, str(TUTORIAL / name), *map(str, args)]
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    return run


def said(text: str, *parts: str) -> list[str]:
    """The parts in the order in which a log has them."""
    places = [(found, part) for part in set(parts) for found in _places(text, part)]
    return [part for _, part in sorted(places)]


def _places(text: str, part: str) -> list[int]:
    return [place for place in range(len(text)) if text.startswith(f"{part}\n", place)]


def test_all_programs_are_tested() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in TUTORIAL.glob("*.py") if f'"{path.name}"' not in text] == []


@pytest.mark.parametrize("name", LENGTHS)
def test_no_program_is_longer_than_the_original(name: str) -> None:
    assert lines_of_code((TUTORIAL / name).read_text()) <= LENGTHS[name]


def lines_of_code(text: str) -> int:
    """Count the lines that are neither blank nor comments nor docstrings."""
    lines = {n for n, line in enumerate(text.splitlines(), start=1) if line.strip() and line.strip()[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_cwl(run: Run, tmp_path: Path) -> None:
    run("cwlexample.py", tmp_path)
    outputs = sorted(tmp_path.glob("sample_*"))
    assert [(path.name, path.read_text()) for path in outputs] == [
        (f"sample_{n}_output.txt", f"hello{n}\n") for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("name", ["quickstart.py", "invokeworkflow.py", "arguments.py"])
def test_hello(run: Run, name: str) -> None:
    assert run(name).stdout == "Hello, world!, here's a message: Woot\n"


def test_settings_are_flags(run: Run, tmp_path: Path) -> None:
    assert run("helloworld.py", "--store", tmp_path / "store").stdout.endswith("You did it!\n")
    assert (tmp_path / "store").exists()


def test_the_same_script_resumes_the_run(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("invokeworkflow2.py", tmp_path / "store").stdout == "Hello, world!, I have a message: Woot!\n"


def test_a_task_logs(run: Run) -> None:
    assert "Hello world, I have a message: Woot!" in run("jobfunctions.py").stderr


@pytest.mark.parametrize("name", ["multiplejobs.py", "multiplejobs2.py", "multiplejobs3.py"])
def test_several_tasks_in_order(run: Run, name: str) -> None:
    messages = said(run(name).stderr, "message: first", "message: second or third", "message: last")
    assert messages == ["message: first", *["message: second or third"] * 2, "message: last"]


def test_dynamic(run: Run) -> None:
    strings = ["".join(bits) for bits in itertools.product("01", repeat=5)]
    log = run("dynamic.py").stderr
    assert sorted(said(log, *(f"Binary string: {string}" for string in strings))) == [
        f"Binary string: {string}" for string in strings
    ]


def test_promises(run: Run) -> None:
    assert said(run("promises.py").stderr, "i is: 1", "i is: 2", "i is: 3") == ["i is: 1", "i is: 2", "i is: 3"]


def test_promises_of_promises(run: Run) -> None:
    strings = ["".join(bits) for bits in itertools.product("01", repeat=5)]
    assert run("promises2.py").stdout == f"{strings}\n"


def test_an_element_of_a_promise(run: Run) -> None:
    assert "RuntimeError: 2\n" in run("indexing.py", status=1).stderr


@pytest.mark.parametrize(("name", "files"), [("requirements.py", 1), ("requirements2.py", 10)])
def test_requirements_from_values(run: Run, name: str, files: int) -> None:
    assert int(run(name).stdout) == files * (TUTORIAL / name).stat().st_size


def test_temporary_files_are_removed(run: Run) -> None:
    scratch = Path(run("managing.py").stdout.strip())
    assert scratch.name == "scratch"
    assert not scratch.exists()


def test_files_of_the_workflow(run: Run) -> None:
    lines = ["Oh, what a tangled web we weave", "Out brief candle"]
    assert said(run("managing2.py").stderr, *lines) == lines


def test_staging(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Hello, ")
    run("staging.py", "in.txt", "out.txt")
    assert (tmp_path / "out.txt").read_text() == "Hello, World!"


def test_docker(run: Run, containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILFN_CONTAINER_ENGINE", "podman")
    (tmp_path / "seen inside").touch()
    assert "seen inside\n" in run("docker.py", IMAGE).stdout


def test_encapsulation(run: Run) -> None:
    order = said(run("encapsulation.py").stderr, "A", "child", "follow-on", "B")
    assert sorted(order) == ["A", "B", "child", "follow-on"]
    assert order[-1] == "B"


def test_nothing_to_encapsulate(run: Run) -> None:
    order = ["child", "follow-on", "B"]
    assert said(run("encapsulation2.py").stderr, *order) == order


def test_discover_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").touch()
    names = run("discoverfiles.py", "folder").stdout.split()
    assert names[0] == "one"
    assert "folder" in names


def test_services(run: Run) -> None:
    order = ["the database starts", "connected with loginCredentials", "the database stops"]
    log = run("services.py").stderr
    assert sorted(said(log, *order)) == sorted(order)
    assert said(log, *order[:2]) == order[:2]
