"""`toilfn graph` draws a script before it runs, and a store as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import toilfn

SCRIPT = """
import sys
import toilfn as toil

@toil.task
def square(x):
    open("ran", "a").close()
    return x * x

@toil.task
def total(values):
    return sum(values)

@toil.task
def shown(value):
    return str(value)

if __name__ == "__main__":
    print("building")
    first = toil.compute(total(square.map(range(int(sys.argv[1])))), store="run1", cluster="inline")
    print(toil.compute(shown(total([first])), store="run1", cluster="inline"))
"""

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(SCRIPT)
    return tmp_path


def test_a_script_is_drawn_and_nothing_runs(project: Path) -> None:
    done = toilfn(project, "graph", "flow.py", "--", "3")
    assert (done.returncode, done.stdout) == (0, "total  waiting\n└── square  3 tasks: 3 waiting\n")
    assert done.stderr == "building\n"
    assert [path.name for path in project.iterdir()] == ["flow.py"]


def test_finished_and_later_tasks_are_drawn_together(project: Path) -> None:
    toilfn(project, "run", "flow.py", "--", "3")
    (project / "flow.py").write_text(SCRIPT.replace("return str(value)", "return str(value) + '!'"))
    text = toilfn(project, "graph", "flow.py", "--", "3").stdout
    assert "square  3 tasks: 3 done" in text
    assert "shown  waiting" in text
    assert "square" not in toilfn(project, "graph", "run1").stdout  # the newest run is that of the second compute


def test_pictures_show_each_task_up_to_fifty(project: Path) -> None:
    small = toilfn(project, "graph", "flow.py", "--format", "dot", "--", "49").stdout
    large = toilfn(project, "graph", "flow.py", "--format", "dot", "--", "50").stdout
    assert small.count("square (") == 49
    assert '"square" [label="square\\n50 tasks: 50 waiting"' in large
    every = toilfn(project, "graph", "flow.py", "--format", "dot", "--all", "--", "50").stdout
    assert every.count("square (") == 50


@needs_dot
@pytest.mark.parametrize(
    ("name", "start"), [("g.svg", b"<?xml"), ("g.png", b"\x89PNG"), ("g.pdf", b"%PDF"), ("g.dot", b"digraph")]
)
def test_the_name_of_the_file_says_the_format(project: Path, name: str, start: bytes) -> None:
    done = toilfn(project, "graph", "flow.py", "-o", name, "--", "3")
    assert done.returncode == 0, done.stderr
    assert (project / name).read_bytes().startswith(start)


def test_a_missing_graphviz_is_named(project: Path) -> None:
    done = toilfn(project, "graph", "flow.py", "-o", "g.pdf", "--", "3", PATH="")
    assert done.returncode == 2
    assert "Graphviz's command 'dot', which draws PDF, was not found" in done.stderr
    assert "hint: install graphviz" in done.stderr
    done = toilfn(project, "graph", "flow.py", "-o", "g.gif", "--", "3")
    assert (done.returncode, (project / "g.gif").exists()) == (2, False)
    assert "g.gif: unknown format 'gif'" in done.stderr
    assert "hint: name a file for it: -o graph.png" in toilfn(project, "graph", "flow.py", "--format", "png").stderr
    (project / "empty.py").write_text("x = 1\n")
    done = toilfn(project, "graph", "empty.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty.py has not called toilfn.compute" in done.stderr
    (project / "wrong.py").write_text("raise RuntimeError('no')\n")
    assert toilfn(project, "graph", "wrong.py").returncode == 1


def test_a_script_finds_its_parameters(project: Path) -> None:
    (project / "flow.py").write_text("""
from dataclasses import dataclass
import toilfn as toil

@dataclass
class Params:
    names: list[str]

@toil.task
def greet(name):
    return name

toil.compute(*map(greet, toil.params(Params).names))
""")
    done = toilfn(project, "graph", "flow.py", "--param", "names=a,b,c")
    assert done.stdout == "greet  3 tasks: 3 waiting\n", done.stderr
