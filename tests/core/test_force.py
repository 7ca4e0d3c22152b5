"""Finished tasks run again when the user asks for it: `compute(force=...)` and `toilfn rerun`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.errors import GraphError
from toilfn.model.index import Index
from toilfn.stores import open_store

SCRIPT = """
import os
from pathlib import Path

import toilfn as toil


def note(name):
    with open(os.environ["NOTES"], "a") as stream:
        print(name, file=stream)


@toil.task
def load(x):
    note("load")
    return x


@toil.task
def double(x):
    note("double")
    return 2 * x


@toil.task
def write(x):
    note("write")
    path = Path("out.txt")
    path.write_text(f"{x}\\n")
    return path


@toil.task
def passed(path):
    note("passed")
    return path


@toil.task
def length(path):
    note("length")
    return len(path.read_text())


if __name__ == "__main__":
    print(toil.compute(length(passed(write(double(load(5))))), store="run1", cluster="inline"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(SCRIPT)
    python(tmp_path, "flow.py")
    assert ran(tmp_path) == ["load", "double", "write", "passed", "length"]
    return tmp_path


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOILFN_", "DASK_"))}
    environment["NOTES"] = str(folder / "ran")
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def toilfn(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "toilfn", *words)


def ran(folder: Path) -> list[str]:
    """Return the tasks that have run since the last call, in order."""
    file = folder / "ran"
    names = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return names


def test_rerun_runs_the_task_alone(project: Path) -> None:
    done = toilfn(project, "rerun", "run1", "double")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert ran(project) == ["double"]
    assert "it ran again: the user requested it" in toilfn(project, "explain", "run1", "double").stdout


def test_rerun_downstream_runs_what_depends_on_it(project: Path) -> None:
    done = toilfn(project, "rerun", "run1", "write", "--downstream", "--json")
    assert json.loads(done.stdout) == 3, done.stderr
    assert ran(project) == ["write", "passed", "length"]
    python(project, "flow.py")
    assert ran(project) == []


def test_rerun_takes_the_start_of_an_id(project: Path) -> None:
    id_ = Index.load(open_store(str(project / "run1"), create=False).log).runs[-1].roots[0].hex()
    assert toilfn(project, "rerun", "run1", id_[:12]).returncode == 0
    assert ran(project) == ["length"]


def test_values_that_hold_files_of_the_task_are_made_again(project: Path) -> None:
    assert toilfn(project, "rerun", "run1", "write").returncode == 0
    assert ran(project) == ["write", "passed"]
    toilfn(project, "clean", "run1", "--garbage", "--yes")
    toilfn(project, "rerun", "run1", "length")
    assert toilfn(project, "status", "run1").stdout.count("done") == 2
    assert ran(project) == ["length"]


def test_a_rerun_that_was_killed_is_finished_by_resume(project: Path) -> None:
    (project / "ran").mkdir()  # the task cannot write its note
    assert toilfn(project, "rerun", "run1", "double", "--retries", "0").returncode == 1
    (project / "ran").rmdir()
    assert toilfn(project, "resume", "run1").stdout == "3\n"
    assert ran(project) == ["double"]
    toilfn(project, "resume", "run1")
    assert ran(project) == []


def test_a_dry_run_says_what_would_run_and_why(project: Path) -> None:
    done = toilfn(project, "rerun", "run1", "write", "--downstream", "--dry-run", "--json")
    assert done.returncode == 3
    plan = json.loads(done.stdout)
    assert sorted(task["name"] for task in plan["tasks"]) == ["length", "passed", "write"]
    assert {tuple(task["reasons"]) for task in plan["tasks"]} == {("the user requested it",)}
    assert ran(project) == []


def test_unknown_tasks_are_named(project: Path) -> None:
    done = toilfn(project, "rerun", "run1", "duble")
    assert done.returncode == 2
    assert "no task has the name or id 'duble'" in done.stderr
    assert "the tasks are double, length, load, passed, write" in done.stderr


def note(name: str) -> None:
    with open(os.environ["NOTES"], "a") as stream:
        print(name, file=stream)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTES", str(tmp_path / "ran"))
    return tmp_path


@toil.task
def first(x: int) -> int:
    note("first")
    return x


@toil.task
def second(x: int) -> int:
    note("second")
    return 2 * x


@toil.task
def third(x: int) -> int:
    note("third")
    return x + 1


@toil.task
def maker(x: int) -> int:
    note("maker")
    return second(x)


@pytest.mark.parametrize("what", ["promise", "task", "name", "variant"])
def test_forced_tasks_run_again_with_what_depends_on_them(notes: Path, what: str) -> None:
    middle = second(first(3))
    result = third(middle)
    toil.compute(result, store=notes / "s", cluster="inline")
    ran(notes)
    force = {"promise": [middle], "task": second, "name": "second", "variant": [second.options(memory="1G")]}[what]
    plan = toil.compute(result, store=notes / "s", dry_run=True, force=force)
    assert [task.name for task in plan.tasks] == ["second", "third"]
    assert toil.compute(result, store=notes / "s", cluster="inline", force=force) == 7
    assert ran(notes) == ["second", "third"]
    toil.compute(result, store=notes / "s", cluster="inline")
    assert ran(notes) == []


def test_a_task_that_another_one_has_created_can_be_forced(notes: Path) -> None:
    result = third(maker(4))
    toil.compute(result, store=notes / "s", cluster="inline")
    ran(notes)
    assert toil.compute(result, store=notes / "s", cluster="inline", force=["second"]) == 9
    assert ran(notes) == ["second", "third"]
    assert toil.compute(result, store=notes / "s", cluster="inline", force=maker) == 9
    assert ran(notes) == ["maker", "second", "third"]


def test_shell_steps_can_be_forced(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    step = toil.shell("echo again >> {notes}; echo done", name="step")
    other = toil.shell("echo other >> {notes}; echo done", name="other")
    both = [step(notes=str(notes)), other(notes=str(notes))]
    toil.compute(both, store=tmp_path / "s", cluster="inline")
    toil.compute(both, store=tmp_path / "s", cluster="inline", force=[step])
    assert sorted(notes.read_text().split()) == ["again", "again", "other"]


def test_a_forced_task_that_is_not_part_of_the_graph_is_refused(notes: Path) -> None:
    result = second(first(3))
    with pytest.raises(GraphError, match="not part of what is computed"):
        toil.compute(result, store=notes / "s", cluster="inline", force=[third(1)])
    toil.compute(result, store=notes / "s", cluster="inline", force=["created-later"])
    with pytest.raises(GraphError, match="no task is named 'scond'"):
        toil.compute(result, store=notes / "s", cluster="inline", force=["scond"])
    with pytest.raises(GraphError, match="force was given 3"):
        toil.compute(result, store=notes / "s", cluster="inline", force=[3])
