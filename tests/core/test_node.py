"""The files that runs leave on a machine, and when they are removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import toilfn as toil
from tests.waiting import wait_for
from toilfn.clusters.base import worker_command
from toilfn.files import node
from toilfn.stores import open_store

SCRIPT = """
    import sys, time
    from pathlib import Path
    import toilfn as toil

    @toil.task
    def read(file, flag):
        with file.path().open() as text:
            content = text.read()
        Path(flag + ".began").touch()
        while flag and not Path(flag).exists():
            time.sleep(0.05)
        return content

    if __name__ == "__main__":
        store, flag, source = sys.argv[1:4]
        settings = dict(arg.split("=") for arg in sys.argv[4:])
        file = toil.import_file(source)
        print(toil.compute(read(file, flag), store=store, max_cores=1, **settings))
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which processes keep what they need on this machine."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(folder))
    return folder / f"toilfn-{os.getuid()}"


@pytest.fixture
def start(tmp_path: Path, work: Path):
    """A function that starts a script which runs on a store, as long as a flag is missing."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "source").write_text("content")
    started = []

    def start_script(store: str, flag: str = "", *settings: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "script.py", store, str(tmp_path / flag) if flag else "", "source", *settings]
        started.append(subprocess.Popen(words, cwd=tmp_path))
        return started[-1]

    yield start_script
    for process in started:
        process.kill()
        process.wait()


def folders(work: Path, kind: str = "files") -> set[str]:
    """Return the keys of the runs that have something on this machine."""
    place = work / kind
    return (
        {path.name for path in place.iterdir() if path.is_dir() and path.name != "locks"} if place.is_dir() else set()
    )


def key(tmp_path: Path, name: str) -> str:
    return node.run_key(open_store(tmp_path / name, create=False).url)


def sweep() -> None:
    """Clean up as the next worker on this machine does when it starts."""
    subprocess.run([*worker_command(sys.executable), "--sweep"], check=True)


def age(work: Path, run: str, seconds: float) -> None:
    """Let the last process of a run have left some time ago."""
    long_ago = time.time() - seconds
    os.utime(work / "runs" / run / "lock", (long_ago, long_ago))


def test_the_next_run_of_a_script_finds_the_files_of_the_last_one_for_a_day(start, work, tmp_path):
    assert start("run").wait() == 0
    sweep()
    assert folders(work) == {key(tmp_path, "run")}
    age(work, key(tmp_path, "run"), 24 * 3600 + 1)
    sweep()
    assert folders(work) == folders(work, "runs") == set()


def test_files_are_kept_as_long_as_the_user_asks_for(start, work, tmp_path):
    assert start("run", "", "keep_on_nodes=1h").wait() == 0
    sweep()
    assert folders(work) == {key(tmp_path, "run")}
    age(work, key(tmp_path, "run"), 3601)
    sweep()
    assert folders(work) == folders(work, "runs") == set()


@pytest.mark.parametrize("error", [False, True])
def test_a_run_leaves_nothing_on_the_machine_if_the_user_asks_for_it(start, work, tmp_path, error):
    if error:
        (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT).replace("return content", "raise OSError(content)"))
    assert start("run", "", "keep_on_nodes=0", "retries=0").wait() == error
    assert folders(work) == folders(work, "runs") == set()
    assert [path.name for path in work.iterdir() if path.name.startswith(str(os.getpid()))] == []


def test_the_files_of_a_store_that_was_deleted_are_removed_by_the_next_worker(start, work, tmp_path):
    assert start("run").wait() == 0
    shutil.rmtree(tmp_path / "run")
    sweep()
    assert folders(work) == folders(work, "runs") == set()


def test_one_of_two_runs_ends_and_the_files_of_the_other_stay(start, work, tmp_path):
    long, short = (start(*words, "keep_on_nodes=0") for words in (("long", "end-long"), ("short", "")))
    wait_for((tmp_path / "end-long.began").exists)
    assert short.wait() == 0
    sweep()
    assert folders(work) == folders(work, "runs") == {key(tmp_path, "long")}
    (tmp_path / "end-long").touch()
    assert long.wait() == 0
    assert folders(work) == folders(work, "runs") == set()


def test_the_next_worker_removes_files_that_killed_processes_left(start, work, tmp_path):
    run = start("run", "never", "keep_on_nodes=0")
    wait_for((tmp_path / "never.began").exists)
    left = folders(work)
    assert left == folders(work, "runs") == {key(tmp_path, "run")}
    sweep()
    assert folders(work) == left
    run.kill()  # the workers of a leader die with it
    run.wait()

    def is_clean() -> bool:
        sweep()
        return folders(work) == folders(work, "runs") == set() and not list(work.glob("*/.lock"))

    wait_for(is_clean)


def test_the_files_of_a_run_elsewhere_stay_for_a_day_unless_none_of_its_jobs_is_queued(work, tmp_path):
    store = open_store("memory://some-run")
    process = os.fork()
    if not process:
        node.begin(store)
        node.code_dir(store.url).mkdir(parents=True)
        os._exit(0)
    os.waitpid(process, 0)
    sweep()
    assert folders(work, "code") == {node.run_key(store.url)}
    for queued, left in ((f"other toilfn-{store.id[:12]}-1", 1), ("other toilfn-0123456789ab-1", 0)):
        words = [*worker_command(sys.executable), "--clean"]
        subprocess.run(words, input=queued, text=True, check=True)
        assert len(folders(work, "code")) == left


def test_an_image_is_removed_with_the_run_that_pulled_it_unless_another_run_uses_it(work, tmp_path):
    image = tmp_path / "image.sif"
    image.touch()
    first, second = (open_store(f"memory://images-{name}") for name in ("first", "second"))
    for store, pulled in ((first, True), (second, False)):
        process = os.fork()
        if not process:
            node.begin(store)
            node.note_image(["rm", "-f", str(image)], pulled=pulled)
            os._exit(0)
        os.waitpid(process, 0)
    assert node.remove(first.url)
    assert image.exists()
    assert node.remove(second.url)
    assert not image.exists()


def test_an_image_stays_for_the_next_run_when_the_store_of_one_run_is_removed(work, tmp_path):
    image = tmp_path / "image.sif"
    image.touch()
    store = open_store("memory://images-of-one-run")
    node.begin(store)
    node.note_image(["rm", "-f", str(image)], pulled=True)
    assert node.remove(store.url, images=False)
    sweep()
    assert image.exists()
    age(work, node.run_key(store.url), 24 * 3600 + 1)
    sweep()
    assert not image.exists()
    assert folders(work, "runs") == set()


def test_a_wrong_time_is_refused(work, tmp_path, monkeypatch):
    monkeypatch.setenv(node.KEEP_VARIABLE, "long")
    with pytest.raises(toil.InputError, match=f"{node.KEEP_VARIABLE}.*long"):
        node.begin(open_store(tmp_path / "run"))


def test_a_damaged_record_does_not_stop_a_worker(start, work, tmp_path):
    folder = work / "runs" / "0123"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "run").write_text(json.dumps({"url": 1}))
    sweep()
    assert not folder.exists()


def test_a_start_looks_at_some_of_many_runs_and_later_starts_at_the_others(work):
    for number in range(30):
        folder = work / "runs" / f"{number:024x}"
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        run = {"url": str(work / "gone" / str(number)), "id": str(number), "base": str(work), "keep": None}
        (folder / "run").write_text(json.dumps(run))
    node.clean(most=20)
    assert len(folders(work, "runs")) == 10
    node.clean(most=20)
    assert folders(work, "runs") == set()
