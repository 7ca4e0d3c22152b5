"""The output of a task is shown while it runs, wherever it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toilfn.stores import open_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "ext_cluster"

SCRIPT = """
import sys, time
from pathlib import Path
import toilfn as toil

@toil.task(cores=0.1, memory="100M")
def chat(gate):
    print("first line", flush=True)
    while not Path(gate).exists():
        time.sleep(0.02)
    print("last line")
    return 1

if __name__ == "__main__":
    cluster, store, gate = sys.argv[1:]
    if cluster == "processes":
        from toilfn_processes import ProcessCluster
        cluster = ProcessCluster()
    toil.compute(chat(gate), cluster=cluster, store=store, progress=False, stream_logs=True)
"""


@pytest.fixture(params=["local", "processes"])
def leader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A leader whose task prints a line, and another one when there is a file ``gate``."""
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [str(tmp_path / "script.py"), request.param, str(tmp_path / "store"), str(tmp_path / "gate")]
    with started(words) as process:
        yield process


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if part in line)


def test_the_leader_and_the_follower_of_the_task_show_it(leader: subprocess.Popen[str], tmp_path: Path) -> None:
    assert line_with(leader, "first line") == "chat: first line\n"
    with started(["-m", "toilfn", "logs", str(tmp_path / "store"), "chat", "--follow"]) as follower:
        assert line_with(follower, "line") == "first line\n"
        (tmp_path / "gate").touch()
        assert line_with(follower, "line") == "last line\n"
        assert "first line" not in follower.communicate(timeout=60)[0]
    output = leader.communicate(timeout=60)[0]
    assert output == "chat: last line\n"
    store = open_store(str(tmp_path / "store"), create=False)
    assert not store.list_answers(), "what was shown is left in the store"
    assert not list((tmp_path / "store" / "flags").iterdir())
