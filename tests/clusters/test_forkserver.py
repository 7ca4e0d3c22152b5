"""Workers that are forked: they have what was loaded, and end, die and are cleaned up as all others."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest

import toilfn as toil
from tests.waiting import wait_for
from toilfn.clusters.base import read_output
from toilfn.clusters.local.forkserver import ForkServer, _fork, _receive
from toilfn.leader.run import WorkflowRun

SCRIPT = """
import json, os, signal, sys
from contextlib import closing
from pathlib import Path

import toilfn as toil
from toilfn.clusters.local.cluster import LocalCluster
from toilfn.clusters.local.forkserver import ForkServer

os.loaded = "before the fork"  # on a module that no worker imports anew

@toil.task
def look(i):
    return getattr(os, "loaded", None), os.getpid(), os.getsid(0) == os.getpid()

@toil.task(retries={"lost": 1, "error": 1})
def dies_once(mark):
    print("about to die")
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"

@toil.task
def loaded():
    return sorted({"json", "toilfn.leader.run"} & sys.modules.keys())

@toil.task
def kills_its_parent(mark):
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return os.getppid() == int(os.environ["LEADER"])

@toil.task
def waits(mark):
    Path(mark).write_text(str(os.getpid()))
    signal.pause()

def own_interpreter(what, folder):
    settings = {"cluster": LocalCluster(2), "progress": False, "retry_backoff": 0.01}
    if what == "new":
        print(json.dumps(toil.compute([loaded(), look(0), look(1)], **settings)))
    else:
        settings["set_env"] = {"LEADER": str(os.getpid())}
        print(json.dumps(toil.compute(kills_its_parent(f"{folder}/mark"), **settings)))

def main(what, folder):
    if what in ("new", "alone"):
        return own_interpreter(what, folder)
    with closing(ForkServer.of_this_process()) as fork_server:
        cluster = LocalCluster(2, launcher=fork_server)
        settings = {"cluster": cluster, "progress": False, "retry_backoff": 0.01, "set_env": {"COLOUR": "blue"}}
        if what == "look":
            print(json.dumps(toil.compute([look(i) for i in range(4)], **settings)))
        elif what == "dies":
            print(json.dumps(toil.compute(dies_once(f"{folder}/mark"), **settings)))
        else:
            toil.compute(waits(f"{folder}/mark"), **settings)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path):
    """Starts the script in a process without threads."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started = []

    def start(what):
        command = [sys.executable, tmp_path / "script.py", what, tmp_path]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def printed(process):
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return json.loads(text)


def test_workers_have_the_modules_that_were_loaded(start):
    looks = printed(start("look"))
    assert {loaded for loaded, _, _ in looks} == {"before the fork"}
    assert all(leads_session for _, _, leads_session in looks)


def test_a_worker_that_dies_is_replaced(start):
    assert printed(start("dies")) == "survived"


def test_by_default_workers_are_forked_from_an_interpreter_without_the_scripts_modules(start):
    modules, *looks = printed(start("new"))
    assert "toilfn.leader.run" not in modules
    assert {loaded for loaded, _, _ in looks} == {None}
    assert all(leads_session for _, _, leads_session in looks)


def test_a_killed_fork_server_costs_one_attempt_and_workers_are_then_started_alone(start):
    assert printed(start("alone")) is True


def test_a_run_that_fails_before_the_cluster_is_opened_leaves_no_fork_server(monkeypatch, tmp_path):
    started, before = [], psutil.Process().children()

    def fails(self, *args):
        started.extend(process for process in psutil.Process().children() if process not in before)
        raise RuntimeError("no space")

    monkeypatch.setattr(WorkflowRun, "_record", fails)
    with pytest.raises(RuntimeError, match="no space"):
        toil.compute(toil.task(len)("abc"), store=tmp_path / "store", cluster="local", progress=False)
    assert started
    assert not {*started} & {*psutil.Process().children()}


def test_a_worker_that_cannot_be_forked_ends_with_the_systems_message(monkeypatch):
    def refuses():
        raise OSError(errno.EAGAIN, "no more processes")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(os, "fork", refuses)
    with ours, theirs, tempfile.TemporaryFile() as output:
        server = ForkServer(ours, lambda: None, {})
        worker = server((), output.fileno(), {"COLOUR": "blue"})
        _, fds = _receive(theirs)
        assert not _fork(theirs, fds)
        assert worker.wait(10) == 1
        with pytest.raises(ProcessLookupError):
            worker.pid  # noqa: B018  # it has none
        assert read_output(output.fileno(), 0) == b"cannot fork a worker: no more processes"


def test_an_environment_that_is_too_large_is_refused_before_it_is_sent():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(OSError, match="too large"):
        ForkServer(ours, lambda: None, {})((), 2, {"HUGE": "x" * 2**18})


def test_workers_die_with_the_leader(start, tmp_path):
    process = start("waits")
    mark = tmp_path / "mark"
    wait_for(lambda: mark.exists() and mark.read_text())
    worker = psutil.Process(int(mark.read_text()))
    fork_server = worker.parent()
    process.kill()
    wait_for(lambda: not is_alive(worker) and not is_alive(fork_server))


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
