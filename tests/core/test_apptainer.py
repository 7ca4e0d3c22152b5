"""Programs in containers of the real Apptainer, also under its old name Singularity."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import toilfn as toil
from tests.servers.containers import PORT, REMOTE_IMAGE, Containers
from tests.servers.fixtures import apptainer, apptainer_server, containers
from tests.servers.machine import wait_for
from toilfn.containers.choose import VARIABLE

__all__ = ["apptainer", "apptainer_server", "containers"]


@pytest.fixture(params=["apptainer", "singularity"], autouse=True)
def engine(
    request: pytest.FixtureRequest, apptainer: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """What `toil.docker` uses, in this process and in workers; it has no images yet."""
    monkeypatch.setenv(VARIABLE, request.param)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    return str(request.param)


def inline(function: Any, *args: Any, **options: Any) -> Any:
    return toil.compute(toil.task(function, retries=0, **options)(*args), cluster="inline")


def in_container(args: Any, **how: Any) -> Any:
    return inline(lambda: toil.docker(REMOTE_IMAGE, args, **how))


def test_words_lines_and_pipelines_mean_what_they_do_with_docker() -> None:
    assert in_container(["echo", "a  b", 3, "$HOME;", "é"], text=True) == "a  b 3 $HOME; é\n"
    assert in_container("echo one two | wc -w; echo $((1 + 1))") == b"2\n2\n"
    assert in_container([["printf", "b\\na b\\n"], ["sort"], ["head", "-n", 1]]) == b"a b\n"
    assert in_container(["-c", "echo $0", "x"], entrypoint="/bin/sh") == b"x\n"
    with pytest.raises(toil.FailedTasksError, match="ended with exit status 3: sorry\n"):
        in_container([["sh", "-c", "echo sorry >&2; exit 3"], ["cat"]])


def test_variables_are_taken_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    code = f"$(touch {tmp_path}/evil) `id` $HOME"
    env = {"GREETING": "two\nlines", "PATH": "/bin:/sbin", "HOME": "/data", "CODE": code}
    said = in_container('echo "$GREETING $PATH $HOME $CODE"; env', env=env, volumes={tmp_path: tmp_path}, text=True)
    assert said.startswith(f"two\nlines /bin:/sbin /data {code}\n")
    assert "A_SECRET" not in said
    assert not (tmp_path / "evil").exists()


def test_the_container_has_a_home_and_a_tmp_of_its_own(tmp_path: Path) -> None:
    script = 'ls -A "$HOME" /tmp | grep -v work; touch "$HOME/new" /tmp/new && ls /tmp/new'
    assert in_container(script).splitlines()[-1] == b"/tmp/new"
    assert not Path.home().joinpath("new").exists()
    assert not Path("/tmp/new").exists()
    home = in_container("touch $HOME/in-a-volume", env={"HOME": "/mine/deep"}, volumes={tmp_path: "/mine"})
    assert home == b""


def test_paths_volumes_and_files(tmp_path: Path) -> None:
    def upper() -> Any:
        source = toil.current().temp_dir / "with space"
        source.write_text("text")
        target = toil.docker(REMOTE_IMAGE, ["tr", "a-z", "A-Z"], stdin=source, stdout="upper.txt")
        toil.docker(REMOTE_IMAGE, "cp 'with space' copy; echo e >&2", stderr="errors")
        return [path.read_text() for path in (target, source.with_name("copy"), source.with_name("errors"))]

    assert inline(upper) == ["TEXT", "text", "e\n"]
    (tmp_path / "in").write_text("input")
    in_container("cat /data/in > out", volumes={tmp_path: "/data"}, working_dir="/data")
    assert (tmp_path / "out").read_text() == "input"
    with pytest.raises(toil.FailedTasksError, match="Read-only file system"):
        in_container(["touch", "/data/another"], volumes={tmp_path: ("/data", "ro")})


def test_what_cannot_be_asked(engine: str) -> None:
    missing = f"127.0.0.1:{PORT}/no/such:image"
    with pytest.raises(
        toil.FailedTasksError, match=f"{engine} cannot pull the image {missing}: (.*\n)*.*manifest unknown"
    ):
        inline(lambda: toil.docker(missing))
    for how, message in (({"detach": True}, "cannot run a detached container"), ({"user": "0"}, "leave out user='0'")):
        with pytest.raises(toil.FailedTasksError, match=message):
            in_container([], **how)


def test_an_image_is_pulled_once_on_a_machine(engine: str, apptainer: Containers, tmp_path: Path) -> None:
    tag = f"{engine}-{os.getpid()}"
    image = apptainer.publish(tag)
    hello = toil.task(lambda n: toil.docker(image, ["echo", n], text=True), retries=0)
    cluster = toil.LocalCluster(workers=4)
    assert toil.compute(hello.map(range(4)), store=tmp_path / "store", cluster=cluster) == [f"{n}\n" for n in range(4)]
    assert apptainer.pulls(tag) == 1


def beat(folder: str, *, kill: bool) -> str:
    """Let a container write for ever; kills the worker if asked to."""
    if toil.current().attempt > 1:
        return "second attempt"
    if kill and os.fork() == 0:
        while not Path(folder, "beat").exists():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    script = f"trap '' TERM; while true; do date > {folder}/beat; sleep 0.1; done"
    return str(toil.docker(REMOTE_IMAGE, script, volumes={folder: folder}))


@pytest.mark.parametrize("kill", [False, True])
def test_a_container_ends_with_its_attempt(tmp_path: Path, kill: bool) -> None:
    task = toil.task(beat, retries=1, **({} if kill else {"walltime": 4}))(str(tmp_path), kill=kill)
    assert toil.compute(task, store=tmp_path / "store", cluster=toil.LocalCluster(workers=1)) == "second attempt"
    wait_for(lambda: not _processes(str(tmp_path)), "the container's processes to end")


def test_a_container_ends_with_its_stream(tmp_path: Path) -> None:
    def first_of_many() -> list[str]:
        lines = toil.docker(REMOTE_IMAGE, f"while true; do echo {tmp_path}; done", stream=True, text=True)
        found = [next(lines), next(lines)]
        lines.close()
        return found

    assert inline(first_of_many) == [f"{tmp_path}\n"] * 2
    wait_for(lambda: not _processes(str(tmp_path)), "the container's processes to end")


def _processes(words: str) -> list[psutil.Process]:
    """Processes of containers that have this on their command line."""
    found = psutil.process_iter(["cmdline", "name"])
    programs = [process for process in found if process.info["name"] in ("sh", "busybox", "sleep")]
    return [process for process in programs if words in " ".join(process.info["cmdline"] or ())]
