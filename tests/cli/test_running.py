"""Settings of a running workflow: output, logs, environment, files, and workers killed at random."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toilfn.config.settings import Settings
from toilfn.inspect.view import State, TaskInfo, View
from toilfn.leader.callbacks import BadWorkers
from toilfn.stores import open_store
from toilfn.worker.passed import ENVIRONMENT_VARIABLE, adopt_environment, pack_environment, write_ref

SCRIPT = """
import logging, os, sys, time
from pathlib import Path
import toilfn as toil

@toil.task
def chat(gate):
    print("first line")
    toil.current().log.info("a message")
    deadline = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    print("last line", end="")
    return 1

@toil.task
def warn(gate):
    toil.current().log.info("not for the leader")
    toil.current().log.warning("the disk is\x1b[2J nearly full")
    chat.__wrapped__(gate)

@toil.task
def chatter(n):
    for k in range(50):
        logging.getLogger("library").error("%s-%s %s", n, k, "x" * (n + 1) * 2000)

@toil.task(retries=1)
def stumble(n):
    print("trying", toil.current().attempt)
    if toil.current().attempt == 1:
        raise ValueError("not yet")
    return n

@toil.task
def variables(*names):
    return [os.environ.get(name) for name in names], str(toil.current().temp_dir)

@toil.task(retries=0)
def stubborn(n):
    if toil.current().attempt == 1:
        time.sleep(600)  # until it is killed
    return n

@toil.task
def recall(gate):
    return chat(gate)

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["recall", gate]: print(toil.compute(recall(gate)))
        case ["warn", gate]: print(toil.compute(warn(gate)))
        case ["chatter"]: print(len(toil.compute(chatter.map(range(3)))))
        case ["chat", gate]: print(toil.compute(chat(gate)))
        case ["stumble"]: print(toil.compute(stumble(7)))
        case ["stubborn"]: print(sum(toil.compute(*stubborn.map(range(4)))))
        case names: print(toil.compute(variables(*names)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(SCRIPT)
    return tmp_path


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOILFN_")}
    return subprocess.Popen(
        [sys.executable, "-m", "toilfn", "run", "flow.py", *arguments], cwd=folder, env={**environment, **variables},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ran(folder: Path, *arguments: str, **variables: str) -> tuple[str, str]:
    with start(folder, *arguments, **variables) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out, err


def test_lines_are_streamed_while_the_task_runs(folder: Path) -> None:
    gate = folder / "gate"
    with start(folder, "--stream-logs", "--no-progress", "--", "chat", str(gate)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "chat: first line\n"
        assert process.stderr.readline().endswith("INFO chat: a message\n")
        gate.touch()
        assert process.stderr.readline() == "chat: last line\n"
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


def test_a_warning_of_a_task_is_shown_while_the_task_runs(folder: Path) -> None:
    gate = folder / "gate"
    flags = ("--no-progress", "--log-file", "leader.log")
    with start(folder, *flags, "--", "warn", str(gate)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "warn: WARNING: the disk is\\x1b[2J nearly full\n"
        gate.touch()
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert "warn: WARNING: the disk is" in (folder / "leader.log").read_text()


def test_warnings_of_tasks_are_bounded(folder: Path) -> None:
    _, err = ran(folder, "--no-progress", "--", "chatter")
    lines = err.splitlines()
    assert all(line.startswith("chatter: ERROR: ") and line.endswith("x ...") for line in lines[:-1])
    assert (len(lines), max(map(len, lines)) < 1100) == (11, True)
    assert lines[-1] == "further warnings of chatter are not shown here; `toilfn logs` shows the log of each task"


def test_a_task_that_runs_as_a_tail_call_is_known_to_run(folder: Path) -> None:
    gate = folder / "gate"
    with start(folder, "--progress", "--store", "store", "--", "recall", str(gate)) as process:
        deadline = time.monotonic() + 60
        while not any(task.name == "chat" and task.state is State.RUNNING for task in tasks(folder / "store")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gate.touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def tasks(store: Path) -> list[TaskInfo]:
    return list(View(open_store(store)).tasks.values()) if (store / "store.json").exists() else []


def test_short_attempts_are_streamed_when_they_end(folder: Path) -> None:
    _, err = ran(folder, "--stream-logs", "--", "stumble")
    assert [line for line in err.splitlines() if "trying" in line] == ["stumble: trying 1", "stumble: trying 2"]


def test_logs_of_failures_are_written_to_a_directory(folder: Path) -> None:
    ran(folder, "--write-logs", "logs/new", "--", "stumble")
    (file,) = (folder / "logs" / "new").iterdir()
    assert file.name.startswith("stumble-")
    assert file.name.endswith("-1-failed.log")
    assert file.read_text().startswith("trying 1\n")
    assert file.read_text().endswith("ValueError: not yet\n")


def test_logs_of_a_second_run_are_written_beside_those_of_the_first(folder: Path) -> None:
    for compress in ((), ("--write-logs-gzip",)):
        ran(folder, "--write-logs", "logs", *compress, "--", "stumble")
    ends = sorted(file.name.partition("-")[2].partition("-")[2] for file in (folder / "logs").iterdir())
    assert ends == ["1-failed.log", "2-failed.log.gz"]


def test_logs_of_successes_too_and_compressed(folder: Path) -> None:
    ran(folder, "--write-logs", "logs", "--write-logs-success", "--write-logs-gzip", "--", "stumble")
    texts = {file.name.rpartition("-")[2]: gzip.decompress(file.read_bytes()) for file in (folder / "logs").iterdir()}
    assert set(texts) == {"failed.log.gz", "done.log.gz"}
    assert texts["done.log.gz"] == b"trying 2\n"


def test_the_leader_writes_a_log_file_that_rotates(folder: Path) -> None:
    ran(folder, "--log-file", "leader.log", "--", "stumble")
    lines = (folder / "leader.log").read_text().splitlines()
    assert "attempt 1 failed (error): ValueError: not yet" in lines[0]
    assert "attempt 2 is done" in lines[1]
    ran(folder, "--log-file", "leader.log", "--log-file-size", "100", "--log-level", "warning", "--", "stumble")
    assert (folder / "leader.log.1").exists()
    assert len((folder / "leader.log").read_text().splitlines()) == 1


def test_tasks_get_the_leaders_environment_and_what_is_set(folder: Path) -> None:
    arguments = ["--set-env", "SET_A=a=1", "--set-env", "SET_B", "--work-dir", str(folder / "work")]
    out, _ = ran(folder, *arguments, "--", "SET_A", "SET_B", "OURS", "OMP_NUM_THREADS", SET_B="b", OURS="ours")
    values, _, place = out.strip().strip("()").rpartition(", ")
    assert values == "['a=1', 'b', 'ours', '1']"
    assert place.strip("'").startswith(str(folder / "work"))


def test_a_variable_that_is_not_set_cannot_be_passed_on(folder: Path) -> None:
    with start(folder, "--set-env", "NOT_SET_ANYWHERE") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "NAME=VALUE" in err


def test_values_of_variables_are_not_recorded() -> None:
    settings = Settings.resolve(set_env=["TOKEN=secret"])
    assert settings.set_env == {"TOKEN": "secret"}
    assert settings.as_dict()["set_env"] == ["TOKEN"]


def test_workers_elsewhere_take_over_what_is_not_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    leader = {"OURS": "leader", "TESTED_BOTH": "leader", "TMPDIR": "/leader", "SLURM_JOB_ID": "1", "SET": "no"}
    blob = store.put_blob(pack_environment(leader, {"SET": "set"}))
    monkeypatch.setattr(os, "environ", {"TESTED_BOTH": "worker", "SET": "worker"})
    os.environ[ENVIRONMENT_VARIABLE] = write_ref(blob)
    adopt_environment(store.get_blob)
    assert os.environ == {"TESTED_BOTH": "worker", "SET": "set", "OURS": "leader"}


def test_a_workflow_survives_workers_that_are_killed(folder: Path) -> None:
    # An interval that is much longer than a second attempt takes, also on a busy machine.
    arguments = ["--bad-worker", "0.5", "--bad-worker-interval", "1s", "--lost-retries", "100", "--retry-backoff"]
    out, _ = ran(folder, *arguments, "0.01s", "--store", "store", "--", "stubborn")
    assert out == "6\n"


def test_jobs_are_chosen_with_the_probability_once_in_an_interval() -> None:
    assert BadWorkers(1.0, 0.0).choose(["a", "b"]) == ["a", "b"]
    assert BadWorkers(1.0, 60.0).choose(["a", "b"]) == ()
    assert BadWorkers(0.0, 0.0).choose(["a", "b"]) == ()
    assert 300 < len(BadWorkers(0.5, 0.0).choose(range(1000))) < 700
