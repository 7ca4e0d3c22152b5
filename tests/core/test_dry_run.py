"""A dry run lists the tasks that would run and why, and writes nothing."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

import toilfn as toil
from tests.commands import toilfn
from toilfn.errors import StoreNotFoundError

SCRIPT = """
import sys
import toilfn as toil

@toil.task(cores=2, memory="300M")
def square(x):
    return x * x

@toil.task
def spread(x):
    return [square(x + i) for i in range(3)]

@toil.task
def total(values):
    return sum(values)

if __name__ == "__main__":
    first = toil.compute(total(square.map(range(4))), store="run1")
    print("first", first)
    print("second", toil.compute(total(spread(first)), store="run1"))
"""


@toil.task
def double(x: int) -> int:
    return 2 * x


@toil.task(memory=lambda x: 10 * 2**20 + x)
def sized(x: int) -> int:
    return x


@toil.task(retries=0)
def broken(x: int) -> int:
    raise ValueError("no good")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(SCRIPT)
    return tmp_path


def test_nothing_is_written_and_no_store_is_created(tmp_path: Path) -> None:
    plan = toil.compute(double(double(1)), store=tmp_path / "run", dry_run=True)
    assert [task.name for task in plan.tasks] == ["double", "double"]
    assert plan
    assert list(tmp_path.iterdir()) == []


def test_without_a_store_everything_would_run() -> None:
    plan = toil.compute(double(1), dry_run=True)
    assert (len(plan.tasks), plan.reused, plan.store) == (1, {}, None)
    assert plan.tasks[0].reasons == ("no earlier task of double is in the store",)


def test_finished_work_is_reused_and_the_rest_is_explained(tmp_path: Path) -> None:
    store = tmp_path / "run"
    toil.compute(double(1), double(2), store=store, cluster="inline")
    before = contents(tmp_path)
    done = toil.compute(double(1), store=store, dry_run=True)
    plan = toil.compute(double(1), double(3), store=store, dry_run=True)
    assert contents(tmp_path) == before
    assert (bool(done), done.reused, plan.reused) == (False, {"double": 1}, {"double": 1})
    assert [reason for reason in plan.tasks[0].reasons if "compared" not in reason] == ["argument x of double: 2 -> 3"]


@toil.task
def total(folder: Path) -> int:
    return sum(len(path.read_text()) for path in folder.rglob("*") if path.is_file())


def test_a_file_that_changed_in_a_folder_is_named(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    for name in ("kept", "changed", "removed"):
        (folder / name).write_text(name)
    store = tmp_path / "run"
    toil.compute(total(folder), store=store, cluster="inline")
    assert not toil.compute(total(folder), store=store, dry_run=True)
    (folder / "changed").write_text("now")
    (folder / "removed").unlink()
    (folder / "new").write_text("new")
    plan = toil.compute(total(folder), store=store, dry_run=True)
    (task,) = plan.tasks
    assert f"changed in {folder} changed" in task.reasons
    assert f"removed in {folder} was removed" in task.reasons
    assert f"new in {folder} is new" in task.reasons
    assert not any("kept" in reason for reason in task.reasons)


def test_time_is_expected_from_earlier_tasks(tmp_path: Path) -> None:
    store = tmp_path / "run"
    assert toil.compute(double(1), store=store, dry_run=True).work is None
    toil.compute(double(1), store=store, cluster="inline")
    plan = toil.compute(*[double(double(n)) for n in (5, 6)], store=store, workers=1, dry_run=True)
    (seconds,) = {task.seconds for task in plan.tasks}
    assert seconds is not None
    assert plan.work == pytest.approx(4 * seconds)
    assert plan.longest == pytest.approx(2 * seconds)
    assert plan.elapsed == pytest.approx(4 * seconds)
    assert toil.compute(double(9), store=store, cluster="slurm", dry_run=True).elapsed is None


def test_requirements_that_depend_on_values_are_not_known(tmp_path: Path) -> None:
    plan = toil.compute(sized(5), store=tmp_path / "run", dry_run=True)
    (task,) = (task for task in plan.tasks if task.name == "sized")
    assert task.resources is None
    assert any("the resources of sized" in reason for reason in plan.unknown)


def test_a_task_that_failed_would_run_again(tmp_path: Path) -> None:
    store = tmp_path / "run"
    with pytest.raises(toil.FailedTasksError):
        toil.compute(double(broken(1)), store=store, cluster="inline")
    before = contents(tmp_path)
    for plan in (toil.compute(double(broken(1)), store=store, dry_run=True), toil.resume(store, dry_run=True)):
        reasons = {task.name: task.reasons for task in plan.tasks}
        assert "it failed before: ValueError: no good" in reasons["broken"][0]
        assert reasons["double"] == ("no earlier run has finished it",)
    assert contents(tmp_path) == before


def test_a_resume_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        toil.resume(tmp_path / "none", dry_run=True)


def test_deleted_files_that_are_needed_would_be_made_again(tmp_path: Path) -> None:
    store = tmp_path / "run"
    (tmp_path / "flow.py").write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        import toilfn as toil

        @toil.task
        def make():
            Path("x.txt").write_text("x")
            return Path("x.txt")

        @toil.task
        def use(file, word):
            assert file.path().read_text() == "x"
            if word == "first":
                file.delete()
            return word

        if __name__ == "__main__":
            print(toil.compute(use(make(), sys.argv[1]), store="run"))
        """)
    )
    assert toilfn(tmp_path, "run", "flow.py", "--", "first").returncode == 0
    assert store.is_dir()
    dry = toilfn(tmp_path, "run", "flow.py", "--dry-run", "--json", "--", "second")
    tasks = {task["name"]: task["reasons"] for task in json.loads(dry.stdout)["tasks"]}
    assert tasks.keys() == {"make", "use"}
    assert "a file that it created was deleted" in tasks["make"][0]


def test_the_command_ends_the_script_where_something_would_run(project: Path) -> None:
    dry = toilfn(project, "run", "flow.py", "--dry-run")
    assert dry.returncode == 3, dry.stderr
    assert "first" not in dry.stdout
    assert "would run: 5\n" in dry.stdout
    assert "4 square: 2 cores, 286.1 MiB memory" in dry.stdout
    assert not (project / "run1").exists()

    assert toilfn(project, "run", "flow.py").returncode == 0
    dry = toilfn(project, "run", "flow.py", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    plan = json.loads(dry.stdout)  # what the script prints is on standard error
    assert (plan["would_run"], plan["reused"]) == (0, {"square": 7, "total": 2, "spread": 1})
    assert "second" in dry.stderr

    (project / "flow.py").write_text(SCRIPT.replace("range(3)", "range(2)"))
    dry = toilfn(project, "run", "flow.py", "--dry-run")
    assert dry.returncode == 3
    assert "would run: 2\n" in dry.stdout
    assert "the body of spread changed" in dry.stdout
    assert "the tasks that spread creates: it has created 3" in dry.stdout


def test_the_scripts_own_exit_status_is_kept(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("raise SystemExit(7)\n")
    assert toilfn(tmp_path, "run", "flow.py", "--dry-run").returncode == 7


def test_many_tasks_are_planned_without_comparing_each_pair(tmp_path: Path) -> None:
    store = tmp_path / "run"
    toil.compute(double.map(range(600)), store=store, cluster="inline", progress=False)
    plan = toil.compute(double.map(range(1000, 1600)), store=store, dry_run=True)
    explained = [task for task in plan.tasks if task.reasons]
    assert len(plan.tasks) == 600
    assert 20 <= len(explained) < 600
