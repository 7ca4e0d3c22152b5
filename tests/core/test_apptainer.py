"""Programs in containers of the real Apptainer, also under its old name Singularity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import toilfn as toil
from tests.core.children import check_end_of_attempt, check_end_of_stream, inline
from tests.servers.containers import PORT, REMOTE_IMAGE, Containers
from tests.servers.fixtures import apptainer, apptainer_server, containers
from toilfn.cli import main
from toilfn.containers.images import VARIABLE

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
    name = f"toilfn-test-{uuid4().hex}"  # which no other program uses
    script = f'ls -A "$HOME" /tmp | grep -v work; touch "$HOME/{name}" /tmp/{name} && ls /tmp/{name}'
    assert in_container(script).splitlines()[-1] == f"/tmp/{name}".encode()
    assert not Path.home().joinpath(name).exists()
    assert not Path("/tmp", name).exists()
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
        toil.FailedTasksError, match=f"{engine} could not pull the image {missing}: (.*\n)*.*manifest unknown"
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


def test_machines_may_share_images(
    engine: str,
    apptainer: Containers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOILFN_IMAGES", str(tmp_path / "images"))
    image = apptainer.publish(f"shared-{engine}-{os.getpid()}")
    assert main(["pull", image, "--engine", engine]) == 0
    assert capsys.readouterr().out == f"{engine} has {image}\n"
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "another machine's"))
    (tmp_path / "another machine's").mkdir()
    assert inline(lambda: toil.docker(image, ["echo", "hi"], text=True)) == "hi\n"
    assert apptainer.pulls(f"shared-{engine}-{os.getpid()}") == 1
    assert main(["pull", image.replace("shared", "missing"), "--engine", engine]) == 1
    assert "could not pull the image" in capsys.readouterr().err


@pytest.mark.parametrize("kill", [False, True])
def test_a_container_ends_with_its_attempt(tmp_path: Path, kill: bool) -> None:
    check_end_of_attempt(REMOTE_IMAGE, tmp_path, kill=kill)


def test_a_container_ends_with_its_stream(tmp_path: Path) -> None:
    check_end_of_stream(REMOTE_IMAGE, tmp_path)


def test_images_of_docker_hub_come_from_a_mirror(
    engine: str, apptainer: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = f"mirror-{engine}-{os.getpid()}"
    apptainer.publish(tag)
    monkeypatch.delenv("APPTAINER_NOHTTPS", raising=False)
    monkeypatch.setenv("SINGULARITY_DOCKER_HUB_MIRROR", f"http://127.0.0.1:{PORT}/")
    for name in ("toilfn-tests/busybox", "docker.io/toilfn-tests/busybox"):
        assert inline(lambda name=name: toil.docker(f"{name}:{tag}", ["echo", "hi"], text=True)) == "hi\n"
    assert apptainer.pulls(tag) >= 1
    with pytest.raises(toil.FailedTasksError, match=f"127.0.0.1:{PORT}/library/there-is-none"):
        inline(lambda: toil.docker("there-is-none:1"))


def test_a_mirror_that_is_not_an_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGULARITY_DOCKER_HUB_MIRROR", "ftp://mirror")
    with pytest.raises(toil.FailedTasksError, match="SINGULARITY_DOCKER_HUB_MIRROR=ftp://mirror is not an address"):
        inline(lambda: toil.docker("ubuntu:24.04"))
