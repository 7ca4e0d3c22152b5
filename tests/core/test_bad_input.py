"""Each kind of bad input gets one clear error, and nothing is lost."""

from __future__ import annotations

import pdb
import subprocess
import sys
import textwrap
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.stores import open_store
from toilfn.stores.lease import Lease


@toil.task
def same(value: Any) -> Any:
    return value


@toil.task(cores=1000, memory="900T", retries=0)
def huge() -> int:
    return 1


@toil.task(retries=0)
def generator() -> Any:
    return (x for x in range(3))


@toil.task(retries=0)
def open_file(path: str) -> Any:
    return open(path)


@toil.task(retries=0)
def lock_for_a_child() -> Any:
    return same(threading.Lock())


def compute(tmp_path: Path, promise: Any, **settings: Any) -> Any:
    return toil.compute(promise, store=tmp_path / "store", progress=False, **settings)


def test_a_task_larger_than_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match=r"huge.*requests 1000 cores.*more than the cluster can give"):
        compute(tmp_path, [same(1), huge()])
    assert compute(tmp_path, same(1)) == 1


@pytest.mark.parametrize("task", [generator(), open_file(__file__)])
def test_a_value_that_cannot_be_stored(tmp_path: Path, task: Any) -> None:
    with pytest.raises(toil.FailedTasksError, match=r"(generator|open_file)\(.*(generator|TextIOWrapper)"):
        compute(tmp_path, task)


@pytest.mark.parametrize("task", [generator(), lock_for_a_child()])
def test_a_value_that_cannot_be_stored_is_reported_without_frames_of_toilfn(tmp_path: Path, task: Any) -> None:
    with pytest.raises(toil.FailedTasksError, match=r"(generator|lock)") as caught:
        compute(tmp_path, task)
    assert "Traceback" not in str(caught.value)
    assert ".py" not in str(caught.value)


def test_the_traceback_of_a_failed_run_is_that_of_the_call(tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError) as caught:
        compute(tmp_path, generator())
    assert [frame.path.name for frame in caught.traceback] == ["test_bad_input.py", "test_bad_input.py", "api.py"]


class Unpicklable:
    """Has an identity, so that it is refused only when it is pickled."""

    def __toilfn_identity__(self) -> str:
        return "one"

    def __reduce__(self) -> Any:
        raise ValueError("it cannot leave its process")


@pytest.mark.parametrize(("value", "reason"), [(threading.Lock(), "lock"), (Unpicklable(), "cannot leave its process")])
def test_an_argument_that_cannot_be_stored_is_reported_with_one_traceback(
    tmp_path: Path, value: Any, reason: str
) -> None:
    with pytest.raises(toil.SerializationError, match=f"task same.*{reason}") as caught:
        compute(tmp_path, same([value]))
    assert "".join(traceback.format_exception(caught.value)).count("Traceback") == 1


@toil.task(retries=5)
def stops_to_look() -> None:
    pdb.Pdb(nosigint=True).set_trace()


def test_a_debugger_in_a_worker_says_where_to_run_instead(tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match=r"attempt 1: .*no terminal.*cluster='inline'.*toilfn debug"):
        compute(tmp_path, stops_to_look())


@pytest.mark.parametrize("memory", ["-1G", "2 Gx", "lots", "", -5])
def test_an_invalid_size(memory: Any) -> None:
    with pytest.raises(toil.ResourceError, match="memory"):
        toil.task(memory=memory)(len)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(toil.InputError, match="memory"):
        toil.task(memroy="1G")(len)


@pytest.mark.parametrize("store", ["nosuch://place/store", "s4://bucket/x"])
def test_a_store_of_an_unknown_scheme(store: str) -> None:
    with pytest.raises(toil.StoreError, match=store.partition(":")[0]):
        toil.compute(same(1), store=store)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(toil.InputError, match="retries"):
        toil.compute(same(1), retires=3)


def test_an_unknown_cluster(tmp_path: Path) -> None:
    with pytest.raises(toil.ToilfnError, match=r"unknown cluster 'slurmm'; did you mean 'slurm'\?"):
        compute(tmp_path, same(1), cluster="slurmm")
    with pytest.raises(toil.StoreNotFoundError, match="nothing to resume"):
        toil.resume(tmp_path / "store")


@pytest.mark.parametrize(
    ("value", "settings"), [(1, {"cluster": "slurmm"}), (threading.Lock(), {}), (Unpicklable(), {})]
)
def test_no_store_is_left_behind_if_nothing_could_run(
    value: Any, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(toil.ToilfnError):
        toil.compute(same(value), progress=False, **settings)
    assert not list(tmp_path.rglob("store.json"))
    assert "kept" not in capfd.readouterr().err


@pytest.mark.parametrize("clean", ["always", "onError"])
def test_the_content_of_a_store_stays_if_nothing_could_run(tmp_path: Path, clean: str) -> None:
    compute(tmp_path, same(1))
    with pytest.raises(toil.ToilfnError):
        compute(tmp_path, same(2), cluster="slurmm", clean=clean)
    with Lease.acquire(open_store(str(tmp_path / "store")), timeout=60), pytest.raises(toil.StoreLockedError):
        compute(tmp_path, same(2), clean=clean)
    assert compute(tmp_path, same(1)) == 1
    assert (tmp_path / "store" / "store.json").exists()


def test_tasks_that_wait_for_each_other_are_reported(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys, toilfn as toil

        @toil.task
        def inner(values):
            return values

        @toil.task
        def outer():
            first = inner([1])
            second = inner.options(after=[first])([2])
            first._after = (second,)  # no public way leads to a cycle
            return [first, second]

        toil.compute(outer(), store=sys.argv[1], progress=False, retries=0)
        """)
    )
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "cycle" in result.stderr
    assert "inner" in result.stderr


def test_a_command_line_user_sees_no_internals(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import toilfn as toil\ntoil.compute(3)\n")
    result = subprocess.run(
        [sys.executable, "-m", "toilfn", "run", str(script)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode in (1, 2)
    assert "contains no promise" in result.stderr
    assert "Traceback" not in result.stderr
