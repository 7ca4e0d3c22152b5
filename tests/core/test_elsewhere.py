"""Runs on a system that lacks what only Linux has, as macOS does: a Python from which these parts are taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ELSEWHERE = '''
"""Takes away from Python what systems other than Linux do not have; psutil alone keeps it."""

import builtins
import errno
import fcntl
import io
import os
import resource
import select
import signal
import socket
import sys
import sysconfig

import psutil

sysconfig.get_config_vars()  # reads a file whose name has the platform
sys.platform = "elsewhere"

for module, names in {
    os: "copy_file_range eventfd memfd_create pidfd_open pipe2 posix_fadvise sched_getaffinity splice unshare",
    fcntl: "F_GETSIG F_SETSIG F_SETPIPE_SZ",
    resource: "prlimit",
    select: "epoll",
    signal: "sigtimedwait sigwaitinfo",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


class Socket(socket.socket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if type == socket.SOCK_SEQPACKET:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
        super().__init__(family, type, proto, fileno)


def socketpair(family=socket.AF_UNIX, type=socket.SOCK_STREAM, proto=0, real=socket.socketpair):
    if type == socket.SOCK_SEQPACKET:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
    return real(family, type, proto)


def without_proc(real):
    def call(path, *arguments, **keywords):
        is_proc = isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc")
        if is_proc and not sys._getframe(1).f_globals["__name__"].startswith("psutil"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", os.fspath(path))
        return real(path, *arguments, **keywords)

    return call


socket.socket, socket.socketpair = Socket, socketpair
builtins.open = io.open = without_proc(builtins.open)
for name in ("open", "readlink", "listdir", "scandir"):
    setattr(os, name, without_proc(getattr(os, name)))
'''

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import toilfn as toil

@toil.task(memory="100M")
def count(text: Path) -> int:
    assert sys.platform == "elsewhere"
    return len(text.read_text().split())

@toil.task
def table(counts: list) -> Path:
    result = Path("table.txt")
    result.write_text(f"{sum(counts)}\\n")
    return result

@toil.task
def held(result: Path) -> Path:
    if not os.path.exists("let-go"):
        leader = int(Path("leader").read_text())
        os.kill(leader, signal.SIGKILL)
        time.sleep(1000)
    return result

if __name__ == "__main__":
    Path("leader").write_text(str(os.getpid()))
    counts = count.map([toil.input(name) for name in ("a.txt", "b.txt")])
    toil.compute(toil.export(held(table(counts)), "words.txt"), store="run1", work_dir=os.getcwd(), progress=False)
"""

TOOL = {
    "cwlVersion": "v1.2",
    "class": "CommandLineTool",
    "baseCommand": ["echo", "hello"],
    "inputs": {},
    "outputs": {"said": {"type": "stdout"}},
    "stdout": "said.txt",
}

WDL = """
version 1.1
task say { command <<< echo hello >>> output { String said = read_string(stdout()) } }
workflow hello { scatter (i in range(3)) { call say } output { Array[String] all = say.said } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(ELSEWHERE)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_a_killed_script_leaves_no_worker_and_resumes(folder: Path) -> None:
    (folder / "words.py").write_text(
        SCRIPT.replace('"leader"', f'"{folder}/leader"').replace('"let-go"', f'"{folder}/go"')
    )
    for name, text in (("a.txt", "one two"), ("b.txt", "three")):
        (folder / name).write_text(text)
    killed = run(folder, "words.py")  # returns when the worker has closed its output, too
    assert killed.returncode == -9, killed.stderr
    (folder / "go").touch()
    resumed = run(folder, "-m", "toilfn", "resume", "run1")
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / "words.txt").read_text() == "3\n"
    stats = run(folder, "-m", "toilfn", "stats", "run1", "--json")
    assert stats.returncode == 0, stats.stderr


@pytest.mark.slow
def test_documents_run_without_forked_workers(folder: Path) -> None:
    pytest.importorskip("cwltool")
    (folder / "hello.cwl").write_text(json.dumps(TOOL))
    done = run(folder, "-m", "toilfn", "cwl", "--no-progress", "hello.cwl")
    assert done.returncode == 0, done.stderr
    assert (folder / "said.txt").read_text() == "hello\n"
    pytest.importorskip("WDL")
    (folder / "hello.wdl").write_text(WDL)
    done = run(folder, "-m", "toilfn", "wdl", "--no-progress", "--container", "none", "hello.wdl")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"hello.all": ["hello"] * 3}), done.stderr
