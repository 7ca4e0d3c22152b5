"""Run a command, in a container or without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from toilfn.containers.call import AnyPath, docker
from toilfn.containers.images import choose
from toilfn.containers.process import REPORT, counted, end_leftovers
from toilfn.errors import ContainerError
from toilfn.worker.passed import set_by_user
from toilfn.worker.usage import add_outside

__all__ = ["Execution", "run"]

_TAIL = 4096
"""Number of bytes of standard error to show in an error."""

_PERIOD = 0.5
"""Seconds between two reads of a command's standard error."""

_WRAPPER = f"""\
export TMPDIR="${{TMPDIR:-/tmp}}"
[ -w "${{HOME:-/}}" ] || {{ mkdir -p ../home && HOME=$(cd ../home && pwd) && export HOME; }}
shell=$(command -v bash || command -v sh)
"$shell" ../command >../stdout.txt 2>../stderr.txt
echo $? >../status
[ -z "$TOILFN_AS_ROOT" ] || chown -R "$(stat -c %u:%g ../command)" .. 2>/dev/null
exec >../usage 2>/dev/null
{REPORT}"""
"""A script for the container's sh, so that an exit status of the command is never mistaken for one of the engine.

Commands written for Cromwell expect ``TMPDIR`` to be set. If the image does not know the user, HOME is not writable, so
the script creates another one. Files that root has created are given to the owner of the file with the command.
"""


@dataclass(frozen=True)
class Execution:
    """A command and its environment.

    Attributes
    ----------
    script : str
        The command, a script for bash.
    place : Path
        The directory of all its files, which has the same path in the container.
    work : Path
        The command's working directory, in `place`.
    image : str or None
        The container image of the task.
    default_image : str
        The image for tasks that name none.
    env : mapping
        Environment variables of the command.
    protected : sequence of Path
        Paths in `place` that the command must not change, if it runs in a container.
    as_root : bool
        Whether the command runs as root in its container.
    disks : mapping
        Directories in `place`, by their mount points in the container; not used without a container.
    """

    script: str
    place: Path
    work: Path
    image: str | None
    default_image: str
    env: Mapping[str, str] = field(default_factory=dict)
    protected: Sequence[Path] = ()
    as_root: bool = False
    disks: Mapping[str, Path] = field(default_factory=dict)

    @property
    def stdout(self) -> Path:
        """The file with the command's standard output."""
        return self.place / "stdout.txt"

    @property
    def stderr(self) -> Path:
        """The file with the command's standard error."""
        return self.place / "stderr.txt"

    def stderr_tail(self) -> str:
        """Return the last part of the command's standard error, for messages."""
        with self.stderr.open("rb") as stream:
            stream.seek(max(0, self.stderr.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace").strip()


def run(execution: Execution, engine: str) -> int:
    """Run a command, and return its exit status.

    Parameters
    ----------
    execution : Execution
    engine : str
        "auto" for the first engine that works on this machine, or for none if there is none and the task names no
        image; the name of an engine; or "none".

    Raises
    ------
    ContainerError
        If the engine does not work, or the image cannot be fetched.
    """
    (execution.place / "command").write_text(execution.script)
    with _shown(execution.stderr):
        if engine == "none" or (engine == "auto" and execution.image is None and not _has_engine()):
            return _run_here(execution)
        return _run_in_container(execution, None if engine == "auto" else engine)


def _has_engine() -> bool:
    try:
        choose()
    except ContainerError:
        return False
    return True


def _run_here(execution: Execution) -> int:
    shell, tmp = shutil.which("bash") or "sh", execution.place / "tmp"
    tmp.mkdir()
    try:
        with execution.stdout.open("wb") as stdout, execution.stderr.open("wb") as stderr:
            status = subprocess.run(
                [shell, str(execution.place / "command")],
                cwd=execution.work,
                env=os.environ | {"TMPDIR": str(tmp)} | dict(execution.env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                check=False,
            ).returncode
    finally:
        end_leftovers(execution.place)
    return status if status >= 0 else 128 - status  # a shell reports a signal as 128 plus its number


def _run_in_container(execution: Execution, engine: str | None) -> int:
    volumes: dict[AnyPath, AnyPath | tuple[AnyPath, str]] = {place: point for point, place in execution.disks.items()}
    if choose(engine).protects_mounts:
        volumes.update((place, (place, "ro")) for place in execution.protected)
    docker(
        execution.image or execution.default_image,
        ["-c", _WRAPPER],
        entrypoint="sh",
        working_dir=execution.work,
        volumes=volumes,
        env={**set_by_user(), **execution.env, **({"TOILFN_AS_ROOT": "1"} if execution.as_root else {})},
        user="0:0" if execution.as_root else None,
        engine=engine,
    )
    if choose(engine).keeps_containers:  # the others run it as a child process, whose usage the worker measures itself
        usage = counted((execution.place / "usage").read_text())
        if usage:
            add_outside(*usage)
    return int((execution.place / "status").read_text())


@contextmanager
def _shown(stderr: Path) -> Iterator[None]:
    """Copy standard error to the attempt's log as it is written, since the attempt may be killed at any time."""
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(stderr, ended), daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _follow(path: Path, ended: threading.Event) -> None:
    copied, is_last = 0, False
    while not is_last:
        is_last = ended.wait(_PERIOD)
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(copied)
                shutil.copyfileobj(stream, _Log())
                copied = stream.tell()


class _Log:
    def write(self, data: bytes) -> None:
        os.write(2, data)
