"""Programs in containers of the real udocker, with Debian's PRoot in place of the one that it would fetch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.core.children import check_end_of_attempt, check_end_of_stream, inline
from tests.servers.containers import Containers
from tests.servers.fixtures import containers, udocker, udocker_server
from toilfn.containers.engines import Mount, Request, Udocker
from toilfn.containers.images import VARIABLE
from toilfn.errors import InputError

__all__ = ["containers", "udocker", "udocker_server"]

IMAGE = "toilfn-tests/busybox:remote"


@pytest.fixture
def engine(udocker: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Containers:
    """What `toil.docker` uses, in this process and in workers."""
    monkeypatch.setenv(VARIABLE, "udocker")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    return udocker


def in_container(args: Any, **how: Any) -> Any:
    return inline(lambda: toil.docker(IMAGE, args, **how))


def test_words_lines_and_pipelines_mean_what_they_do_with_docker(engine: Containers) -> None:
    assert in_container(["echo", "a  b", 3, "$HOME;", "é"], text=True) == "a  b 3 $HOME; é\n"
    assert in_container("echo one two | wc -w; echo $((1 + 1))") == b"2\n2\n"
    assert in_container([["printf", "b\\na b\\n"], ["sort"], ["head", "-n", 1]]) == b"a b\n"
    assert in_container(["x"], entrypoint=["/bin/sh", "-c", "echo $0"]) == b"x\n"
    with pytest.raises(toil.FailedTasksError, match="ended with exit status 3: sorry\n"):
        in_container("echo sorry >&2; exit 3")


def test_variables_are_taken_literally_and_the_tasks_own_stay_outside(
    engine: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    env = {"GREETING": "two\nlines \n", "PATH": "/bin:/sbin", "HOME": "/data", "CODE": "$(id) `id`"}
    said = in_container('echo "$GREETING $PATH $HOME $CODE"; env', env=env, text=True)
    assert said.startswith("two\nlines \n /bin:/sbin /data $(id) `id`\n")
    assert "A_SECRET" not in said


def test_paths_volumes_and_files(engine: Containers, tmp_path: Path) -> None:
    def upper() -> Any:
        source = toil.current().temp_dir / "with space"
        source.write_text("text")
        target = toil.docker(IMAGE, ["tr", "a-z", "A-Z"], stdin=source, stdout="upper.txt")
        toil.docker(IMAGE, "cp 'with space' copy; echo e >&2", stderr="errors")
        return [path.read_text() for path in (target, source.with_name("copy"), source.with_name("errors"))]

    assert inline(upper) == ["TEXT", "text", "e\n"]
    (tmp_path / "in").write_text("input")
    in_container("cat /data/in > out", volumes={tmp_path: "/data"}, working_dir="/data")
    assert (tmp_path / "out").read_text() == "input"
    assert in_container("ls | sort", volumes={tmp_path: "/data"}, working_dir="/data") == b"in\nout\nwork\n"
    assert (tmp_path / "out").stat().st_uid == os.getuid()


def test_an_image_is_pulled_once_on_a_machine(engine: Containers, tmp_path: Path) -> None:
    image = engine.publish(tag := f"udocker-{os.getpid()}").partition("/")[2]
    hello = toil.task(lambda n: toil.docker(image, ["echo", n], text=True), retries=0)
    cluster = toil.LocalCluster(workers=4)
    assert toil.compute(hello.map(range(4)), store=tmp_path / "store", cluster=cluster) == [f"{n}\n" for n in range(4)]
    assert engine.pulls(tag) == 1
    with pytest.raises(toil.FailedTasksError, match="udocker could not pull the image no/such:image: Error: "):
        inline(lambda: toil.docker("no/such:image"))


@pytest.mark.parametrize("kill", [False, True])
def test_a_container_and_its_files_end_with_its_attempt(engine: Containers, tmp_path: Path, kill: bool) -> None:
    check_end_of_attempt(IMAGE, tmp_path, kill=kill)
    assert not list((tmp_path / "work").rglob("ROOT"))


def test_a_container_ends_with_its_stream(engine: Containers, tmp_path: Path) -> None:
    check_end_of_stream(IMAGE, tmp_path)


REQUEST = Request(
    "name", "image", ("a", "b c"), "/bin/x", "/work", (Mount("/s p", "/t"), Mount("/u", "/u")),
    {"KEY": "secret", "PATH": "/bin"}, None, 2.0, 10**9, (), ("--kernel=5.0",),
)  # fmt: skip


def test_the_command_line_and_what_is_kept_off_it(tmp_path: Path) -> None:
    request, me = replace(REQUEST, place=str(tmp_path)), os.getuid()
    as_root = ["--allow-root"] if me == 0 else []
    assert Udocker("udocker").run(request) == [
        "udocker", *as_root, "--quiet", "run", f"--user={me}", "--workdir=/work", "--volume=/s p:/t", "--volume=/u:/u",
        "--env=KEY", "--env=PATH=/bin", "--entrypoint=", "--kernel=5.0", "--rm", "image", "/bin/x", "a", "b c",
    ]  # fmt: skip
    place = f"{tmp_path}/.container/udocker"
    own = {"KEY": "secret", "UDOCKER_CONTAINERS": place, "UDOCKER_TMP": place}
    assert Udocker("udocker").environment(request) == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detach": True}, "udocker cannot run a detached container"),
        ({"command": ("a", "")}, "udocker drops empty arguments"),
        ({"mounts": (Mount("/s", "/t", read_only=True),)}, "udocker cannot mount '/s' read-only; mount it as 'rw'"),
        ({"mounts": (Mount("/s:t", "/t"),)}, "'/s:t' cannot be mounted into a container"),
    ],
)
def test_what_cannot_be_asked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Udocker("udocker").run(replace(REQUEST, **change))
