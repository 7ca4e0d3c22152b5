"""Programs in real containers of podman and docker, with images made here. Other engines' commands are not run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.servers.containers import IMAGE, PORT, Containers
from tests.servers.fixtures import containers, docker_engine
from tests.servers.machine import wait_for
from toilfn.containers.call import command
from toilfn.containers.engines import Docker, Mount, Podman, Request, Singularity
from toilfn.containers.images import VARIABLE, choose

__all__ = ["containers", "docker_engine"]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers) for name in ("podman", "docker")])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What `toil.docker` uses, in this process and in workers."""
    request.getfixturevalue("containers" if request.param == "podman" else "docker_engine")
    prefer(request.param, monkeypatch, tmp_path)
    return str(request.param)


@pytest.fixture
def podman(containers: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Containers:
    """Podman, and its registry."""
    prefer("podman", monkeypatch, tmp_path)
    return containers


def prefer(engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, engine)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))


def inline(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run a function as a task in this process."""
    return toil.compute(toil.task(function, retries=0, **options)(*args), cluster="inline")


def in_container(args: Any, **how: Any) -> Any:
    return inline(lambda: toil.docker(IMAGE, args, **how))


def test_output_is_returned(engine: str) -> None:
    assert in_container(["echo", "a  b", 3, "$HOME;"]) == b"a  b 3 $HOME;\n"
    assert in_container(["echo", "é"], text=True, name="test-output") == "é\n"
    assert toil.Container("test-output").is_running is None


def test_a_container_is_a_task_of_its_own(engine: str) -> None:
    ls = toil.task(toil.docker, retries=0)
    assert toil.compute(ls(IMAGE, ["ls", "/"]), cluster="inline").split()[0] == b"bin"


def test_lines_for_the_shell_and_pipelines(engine: str) -> None:
    assert in_container("echo one two | wc -w; echo $((1 + 1))") == b"2\n2\n"
    assert in_container([["printf", "b\\na b\\n"], ["sort"], ["head", "-n", 1]]) == b"a b\n"
    with pytest.raises(toil.FailedTasksError, match="ended with exit status 3"):
        in_container([["sh", "-c", "exit 3"], ["cat"]])


def test_pipelines_work_without_bash() -> None:
    _, (_, script, *rest) = command([["sh", "-c", "exit 3"], ["cat"]], None)
    for path, status in (("/bin:/usr/bin", 3), ("/nowhere", 2)):  # dash does not know pipefail and says so
        assert subprocess.run(["/bin/sh", "-c", script, *rest], env={"PATH": path}, check=False).returncode == status


def test_paths_in_the_temporary_directory_mean_the_same_inside(engine: str) -> None:
    def upper(name: str) -> Any:
        source = toil.current().temp_dir / name
        source.write_text("text")
        target = toil.docker(IMAGE, ["tr", "a-z", "A-Z"], stdin=source, stdout="upper.txt")
        toil.docker(IMAGE, ["cp", source, "copy of it"])
        copy = toil.current().temp_dir / "copy of it"
        return target.read_text(), copy.read_text(), copy.stat().st_uid

    assert inline(upper, "with space") == ("TEXT", "text", os.getuid())


def test_an_output_file_becomes_a_file_of_the_workflow(engine: str, tmp_path: Path) -> None:
    listing = toil.task(lambda: toil.docker(IMAGE, ["echo", "kept"], stdout="out.txt"))()
    toil.compute(toil.export(listing, tmp_path / "exported"), cluster="inline")
    assert (tmp_path / "exported").read_text() == "kept\n"


def test_volumes(engine: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("input")
    assert in_container(["cat", "/data/in"], volumes={tmp_path: "/data"}) == b"input"
    in_container(["touch", "new"], volumes={tmp_path: "/data"}, working_dir="/data")
    assert (tmp_path / "new").exists()
    with pytest.raises(toil.FailedTasksError, match="Read-only file system"):
        in_container(["touch", "/data/another"], volumes={tmp_path: ("/data", "ro")})


def test_environment_user_and_entrypoint(engine: str) -> None:
    env = {"GREETING": "two\nlines", "PATH": "/bin:/sbin", "HOME": "/data"}
    assert in_container('echo "$GREETING $PATH $HOME"', env=env) == b"two\nlines /bin:/sbin /data\n"
    assert in_container(["id", "-u"], user="65534:65534") == b"65534\n"
    assert in_container(["-c", "echo $0", "x"], entrypoint="/bin/sh") == b"x\n"
    assert in_container(["x"], entrypoint=["/bin/sh", "-c", "echo $0"]) == b"x\n"


def test_the_tasks_environment_stays_outside(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert b"A_SECRET" not in in_container(["env"])


def test_standard_error(engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    def both() -> Any:
        toil.docker(IMAGE, "echo to a file >&2", stderr="errors")
        return (toil.current().temp_dir / "errors").read_text()

    lines = in_container("echo out; echo err >&2", stderr=subprocess.STDOUT).splitlines()
    assert sorted(lines) == [b"err", b"out"], "in any order: Docker's daemon reads two pipes"
    assert inline(both) == "to a file\n"
    capfd.readouterr()
    assert in_container("echo to the log >&2") == b""
    assert "to the log\n" in capfd.readouterr().err


def test_a_stream_of_lines(engine: str) -> None:
    def first_of_many() -> list[str]:
        lines = toil.docker(IMAGE, "while true; do echo line; done", stream=True, text=True, name="test-stream")
        found = [next(lines), next(lines)]
        lines.close()
        return found

    assert inline(first_of_many) == ["line\n", "line\n"]
    assert toil.Container("test-stream").is_running is None
    with pytest.raises(toil.FailedTasksError, match="ended with exit status 4: sorry"):
        inline(lambda: list(toil.docker(IMAGE, "echo line; echo sorry >&2; exit 4", stream=True)))


def test_a_failure_says_what_the_program_said(engine: str) -> None:
    def caught() -> Any:
        try:
            toil.docker(IMAGE, "echo all is lost >&2; exit 7", name="test-failure")
        except toil.ContainerError as error:
            return error.exit_code, error.stderr, str(error)

    message = f"the container of image {IMAGE} ended with exit status 7: all is lost"
    assert inline(caught) == (7, "all is lost", message)
    assert toil.Container("test-failure").is_running is None


def test_memory_and_cores_are_those_of_the_task(engine: str) -> None:
    read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    limits = inline(lambda: toil.docker(IMAGE, read, text=True), memory="64Mi", cores=0.5).split()
    assert int(limits[0]) == 64 * 2**20
    assert limits[1:] in ([], ["50000", "100000"])


def test_death_by_memory_is_known_as_such(engine: str) -> None:
    def greedy() -> str:
        try:
            toil.docker(IMAGE, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")
        except toil.ContainerMemoryError as error:
            return str(error)
        return "lived"

    assert "as happens at its memory limit of" in inline(greedy, memory="32Mi")
    assert not Path("oom").exists()  # podman's monitor makes this file where it is started


def test_detached_containers(engine: str) -> None:
    def talk() -> Any:
        container = toil.docker(IMAGE, "echo started; sleep 100", detach=True, name="test-detached")
        wait_for(lambda: container.logs() == b"started\n", "the container's output")
        found = [container.is_running, toil.Container(container.name).is_running]
        container.kill()
        return [*found, container.wait(), container.is_running, toil.Container("no-such").is_running]

    assert inline(talk) == [True, True, 137, False, None]
    assert toil.Container("test-detached").is_running is None


@pytest.mark.parametrize(("on_end", "is_left"), [("kill", False), ("stop", False), ("leave", True)])
def test_on_end_decides_about_a_detached_container(engine: str, on_end: str, is_left: bool) -> None:
    script = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
    name = f"test-{os.getpid()}-{on_end}"
    inline(lambda: str(toil.docker(IMAGE, script, detach=True, on_end=on_end, name=name)))
    container = toil.Container(name)
    assert container.is_running is (True if is_left else None)
    if is_left:
        container.stop()
        assert container.is_running is False
        container.remove()
        assert container.is_running is None


def sleeper(started: str) -> Any:
    if toil.current().attempt > 1:
        return "second attempt"
    return toil.docker(
        IMAGE,
        f"touch {started}; sleep 300",
        volumes={Path(started).parent: Path(started).parent},
        name=name_of(started),
    )


def name_of(started: str) -> str:
    return f"sleeper-{Path(started).parent.name}"


def test_a_container_ends_with_the_walltime_of_its_task(engine: str, tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    slow = toil.task(sleeper, walltime=4, retries=1)(started)
    assert toil.compute(slow, store=tmp_path / "store", cluster=toil.LocalCluster(workers=1)) == "second attempt"
    assert Path(started).exists()
    assert toil.Container(name_of(started)).is_running is None


def test_a_container_ends_when_the_worker_is_killed(engine: str, tmp_path: Path) -> None:
    started = str(tmp_path / "started")

    def killed(started: str) -> Any:
        if toil.current().attempt == 1:
            parent = os.getpid()
            if os.fork() == 0:
                while not Path(started).exists():
                    time.sleep(0.05)
                os.kill(parent, signal.SIGKILL)
                os._exit(0)
        return sleeper(started)

    value = toil.compute(
        toil.task(killed, retries=1)(started), store=tmp_path / "store", cluster=toil.LocalCluster(workers=1)
    )
    assert value == "second attempt"
    assert toil.Container(name_of(started)).is_running is None


def test_an_image_is_pulled_once_on_a_machine(podman: Containers, tmp_path: Path) -> None:
    tag = f"podman-{os.getpid()}"
    image = podman.publish(tag)
    hello = toil.task(lambda n: toil.docker(image, ["echo", n], text=True), retries=0)
    assert toil.compute(hello.map(range(4)), store=tmp_path / "store") == [f"{n}\n" for n in range(4)]
    assert podman.pulls(tag) == 1


def test_the_message_of_the_engine_about_an_image_that_does_not_exist(podman: Containers) -> None:
    missing = f"127.0.0.1:{PORT}/no/such:image"
    with pytest.raises(
        toil.FailedTasksError, match=r"podman could not pull the image .*/no/such:image: .*manifest unknown"
    ):
        inline(lambda: toil.docker(missing, ["true"]))


def test_without_an_engine_the_error_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho is the daemon running? >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        toil.ContainerError, match=r"docker does not respond \(is the daemon running\?\); podman is not"
    ) as e:
        choose()
    assert e.value.exit_code == -1
    (tmp_path / "podman").write_text("#!/bin/sh\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    assert choose().name == "podman"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"engine": "lxc"},
            "unknown container engine 'lxc'; choose from docker, podman, apptainer, singularity, udocker",
        ),
        ({"on_end": "forget"}, "on_end='forget' is unknown; choose from kill, stop, leave"),
        ({"args": "echo", "entrypoint": "sh"}, "entrypoint='sh' cannot be combined"),
        ({"args": [None]}, "None cannot be an argument of a program in a container"),
        ({"volumes": {"/a,b": "/c"}}, "'/a,b' cannot be mounted into a container"),
        ({"volumes": {"/a": ("/b", "r")}}, "volume /a: unknown mode 'r'; write 'rw' or 'ro'"),
    ],
)
def test_what_cannot_be_asked(engine: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(toil.FailedTasksError) as failed:
        inline(lambda: toil.docker(IMAGE, **how))
    assert message in str(failed.value)


def test_outside_a_task(engine: str) -> None:
    with pytest.raises(toil.ToilfnError, match="no task is running here"):
        toil.docker(IMAGE, ["true"])


REQUEST = Request(
    "name", "image", ("a", "b c"), "/bin/x", "/work", (Mount("/s p", "/t", True), Mount("/u", "/u")),
    {"KEY": "value", "PATH": "/bin"}, None, 2.0, 10**9, ("0", "1"), ("--network", "none"),
)  # fmt: skip


def test_dockers_command() -> None:
    me = f"{os.getuid()}:{os.getgid()}"
    assert Docker("/bin/docker").run(REQUEST) == [
        "/bin/docker", "run", "--name", "name", "--workdir", "/work", "--user", me,
        "--mount", "type=bind,source=/s p,target=/t,readonly", "--mount", "type=bind,source=/u,target=/u",
        "--env", "KEY", "--env", "PATH=/bin", "--entrypoint", "/bin/x", "--cpus", "2", "--memory", "1000000000",
        "--gpus", '"device=0,1"', "--rm", "--network", "none", "image", "a", "b c",
    ]  # fmt: skip
    assert Docker("/bin/docker").environment(REQUEST) == {"KEY": "value"}


@pytest.mark.parametrize(
    ("user", "controllers", "limits"),
    [
        (0, "", ["--cpus", "2", "--memory", "1000000000"]),
        (1000, "memory pids ", ["--memory", "1000000000"]),
        (1000, "", []),
    ],
)
def test_podman_limits_what_the_user_may_limit(
    user: int, controllers: str, limits: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\n[ $1 = info ] && echo '{controllers}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    flags = Podman(str(program)).run(REQUEST)
    start = flags.index("/bin/x") + 1
    assert flags[start : flags.index("--device")] == limits


def test_podmans_devices() -> None:
    flags = Podman("true").run(REQUEST)
    assert flags[flags.index("--device") :][:4] == ["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1"]


def test_singularitys_mounts(tmp_path: Path) -> None:
    flags = Singularity("singularity").run(replace(REQUEST, place=str(tmp_path)))
    assert flags[:-4] == [
        "singularity", "--silent", "exec", "--containall", "--workdir", f"{tmp_path}/.container", "--pwd", "/work",
        "--bind", "/s p:/t:ro", "--bind", "/u:/u", "--nv", "--network", "none",
    ]  # fmt: skip
    assert flags[-3:] == ["/bin/x", "a", "b c"]


def test_a_shell_step_runs_in_its_container(engine: str, tmp_path: Path) -> None:
    (tmp_path / "my words.txt").write_text("b\na\n")
    sort = toil.shell(
        "test -e /run/.containerenv -o -e /.dockerenv; sort {words} > {out}",
        outputs="{words.stem}.out",
        container=IMAGE,
    )
    count = toil.shell("printf '%s %s' {note} $(wc -l < {words}) $(id -u)", container=IMAGE)
    made = sort(words=toil.input(tmp_path / "my words.txt"))
    text, path = toil.compute(
        count(note="it's $HOME;", words=made),
        toil.export(made, f"{tmp_path}/"),
        store=tmp_path / "run",
        cluster="local",
        workers=1,
    )
    assert text.startswith("it's $HOME; 2")
    assert Path(path).name == "my words.out"
    assert Path(path).read_text() == "a\nb\n"


def test_a_shell_step_that_fails_in_its_container_says_so(engine: str, tmp_path: Path) -> None:
    step = toil.shell("echo {x} >&2; false | cat; echo not here", container=IMAGE, name="fails", retries=0)
    with pytest.raises(toil.FailedTasksError) as raised:
        toil.compute(step(x="oh no"), store=tmp_path / "run", cluster="local", workers=1)
    message = str(raised.value)
    assert "the command ended with exit status 1" in message
    assert "    oh no" in message
