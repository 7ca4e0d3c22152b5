"""Deferred calls are made however an attempt ends; also when its worker, or its leader too, is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import toilfn as toil
from tests.servers.machine import wait_for


@pytest.fixture(autouse=True)
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers of a test have nothing to do with those of others."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    return tmp_path / "work"


def note(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


@toil.task(retries=1)
def ends(notes: str, how: str) -> int:
    here = toil.current()
    for text in ("1", "2"):
        here.defer(note, notes, f"{here.attempt}{text} ")
    here.defer(note, notes, "never").cancel()
    if here.attempt == 1:
        ENDINGS[how]()
    return here.attempt


def _fail() -> None:
    raise ValueError("on purpose")


def _hang() -> None:
    signal.pause()


ENDINGS = {
    "fails": _fail,
    "exits": sys.exit,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "is stopped": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "hangs": _hang,
    "succeeds": lambda: None,
}


@pytest.mark.parametrize("how", ENDINGS)
def test_calls_are_made_in_reverse_order_however_the_attempt_ends(tmp_path: Path, how: str) -> None:
    notes = tmp_path / "notes"
    task = ends.options(walltime=10) if how == "hangs" else ends  # enough to begin on a busy machine
    cluster = toil.LocalCluster(workers=1)
    last = toil.compute(task(str(notes), how), store=tmp_path / "store", cluster=cluster)
    made = notes.read_text().split()
    assert last == (1 if how == "succeeds" else 2)
    assert [word for word in made if word[0] == "1"] == ["12", "11"]
    assert [word for word in made if word[0] == "2"] == ([] if how == "succeeds" else ["22", "21"])


@toil.task(retries=0)
def exiting(notes: str) -> str:
    toil.current().defer(note, notes, "after")
    toil.current().defer(sys.exit, 3)
    return "fine"


def test_a_deferred_call_that_exits_does_no_harm(tmp_path: Path) -> None:
    assert toil.compute(exiting(str(tmp_path / "notes")), store=tmp_path / "store") == "fine"
    assert (tmp_path / "notes").read_text() == "after"


ENDED_TWICE = """
    import os, signal, sys
    from pathlib import Path
    import toilfn as toil

    def slow(notes):
        with open(notes, "a") as file:
            file.write("begun ")
        if not Path(notes + ".second").exists():
            Path(notes + ".second").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        with open(notes, "a") as file:
            file.write("done ")

    def other(notes):
        with open(notes, "a") as file:
            file.write("other ")

    @toil.task(retries=1)
    def work(notes):
        if toil.current().attempt == 1:
            toil.current().defer(other, notes)
            toil.current().defer(slow, notes)

    if __name__ == "__main__":
        toil.compute(work(sys.argv[1]), store=sys.argv[2], cluster=toil.LocalCluster(workers=1))
"""


def test_a_worker_that_is_asked_to_end_during_a_call_makes_it_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(ENDED_TWICE))
    command = [sys.executable, "script.py", str(tmp_path / "notes"), str(tmp_path / "store")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "notes").read_text() == "begun begun done other "


EVERYBODY_DIES = """
    import os, signal, sys
    from pathlib import Path
    import toilfn as toil

    @toil.task
    def dying(notes):
        toil.current().defer(Path(notes).write_text, "cleaned up")
        Path(notes + ".ready").touch()
        signal.pause()

    @toil.task
    def next_one():
        return "next"

    if __name__ == "__main__":
        task = dying(sys.argv[1]) if sys.argv[2] == "dies" else next_one()
        toil.compute(task, cluster=toil.LocalCluster(workers=1))
"""


def test_the_next_run_on_the_machine_makes_the_calls_of_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(EVERYBODY_DIES))
    notes = tmp_path / "notes"
    command = [sys.executable, "script.py", str(notes)]
    with subprocess.Popen([*command, "dies"], cwd=tmp_path, stderr=subprocess.DEVNULL) as leader:
        wait_for(Path(f"{notes}.ready").exists, "the task to run")
        leader.kill()
    assert not notes.exists()
    subprocess.run([*command, "next"], cwd=tmp_path, check=True, timeout=60)
    assert notes.read_text() == "cleaned up"
