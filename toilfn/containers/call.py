"""Run a program in a container from inside a task, and control one that runs on this machine."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from toilfn.containers.engines import Docker, Engine, Mount, Request
from toilfn.containers.images import choose, forget, provide
from toilfn.containers.process import RunningProgram, Streams, running
from toilfn.errors import ContainerError, InputError
from toilfn.files.scratch import Deferred
from toilfn.worker.context import Context, current

__all__ = ["Arguments", "Container", "Word", "command", "docker"]

AnyPath: TypeAlias = "str | os.PathLike[str]"


def docker(
    image: str,
    args: Arguments = (),
    *,
    entrypoint: Word | Sequence[Word] | None = None,
    working_dir: AnyPath | None = None,
    volumes: Mapping[AnyPath, AnyPath | tuple[AnyPath, str]] | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: AnyPath | None = None,
    stdout: AnyPath | None = None,
    stderr: AnyPath | int | None = None,
    text: bool = False,
    stream: bool = False,
    detach: bool = False,
    on_end: str = "kill",
    name: str | None = None,
    engine: str | None = None,
    options: Sequence[str] = (),
) -> Any:
    """Run a program in a container, with the task's cores, memory and accelerators.

    The task's `temp_dir` is mounted at the same path, so paths in it are the same inside and outside the container.
    The container is removed when its program ends, when the task fails, and also when the worker is killed.

    Parameters
    ----------
    image : str
        Name of the image, or for Singularity and Apptainer also a file. An image is pulled once for each machine.
    args : list of str, list of lists, or str
        A list of strings: arguments of the entrypoint. A list of lists: several programs that form a pipeline, which
        fails if one of them fails. A string: a command line for ``sh -c`` in the container; no shell outside the
        container interprets it.
    entrypoint : str or list of str, optional
        The program to run. Default: the entrypoint of the image.
    working_dir : path, optional
        The working directory in the container. Default: `temp_dir`.
    volumes : mapping, optional
        Additional paths to mount, as a mapping of paths on this machine to paths in the container. A value may be a
        tuple ``(path, "ro")`` for a read-only mount, which udocker does not support.
    env : mapping, optional
        Environment variables of the container. It does not inherit those of the task.
    user : str, optional
        Name or ``uid:gid`` in the container. Default: the user who runs the task.
    stdin : path, optional
        A file for standard input. Like the two below, it is relative to `temp_dir`.
    stdout : path, optional
        A file for standard output, which is then not returned.
    stderr : path or subprocess.STDOUT, optional
        A file for standard error, or ``subprocess.STDOUT`` to merge it into standard output. Default: the task's log.
    text : bool
        Whether to return output as str, decoded as UTF-8, instead of bytes.
    stream : bool
        Whether to return an iterator over the lines of standard output. The container starts when the first line is
        requested. Errors are raised after the last line.
    detach : bool
        Whether to return a `Container` at once, while it runs. Only Docker and Podman support this.
    on_end : {"kill", "stop", "leave"}
        What to do with a detached container at the end of the attempt.
    name : str, optional
        The container's name.
    engine : {"docker", "podman", "apptainer", "singularity", "udocker"}, optional
        The container engine. Default: the environment variable ``TOILFN_CONTAINER_ENGINE``, else the first of these
        that works.
    options : list of str
        Additional options for the engine's command, such as ``["--network", "none"]``.

    Returns
    -------
    bytes, str, Path, iterator of these lines, or Container
        Standard output; with `stdout`, the path of that file; with `stream`, an iterator over lines; with `detach`, the
        container.

    Raises
    ------
    InputError
        If the engine does not support a parameter.
    ContainerError
        If no engine works on this machine, the image cannot be pulled, or the exit status is not 0.
    ContainerMemoryError
        If the container was killed, most likely at the task's memory limit.
    """
    if on_end not in _ENDS:
        raise InputError(f"on_end={on_end!r} is unknown", hint=f"choose from {', '.join(_ENDS)}")
    context, chosen = current(), choose(engine)
    program, words = command(args, entrypoint)
    request = Request(
        name or f"toilfn-{uuid.uuid4().hex}", image, words, program, env=dict(env or {}), user=user,
        options=tuple(options), interactive=stdin is not None, detach=detach,
    )  # fmt: skip
    request = _in_task(context, request, working_dir, volumes or {})
    provide(chosen, image)
    if detach:
        return _detached(context, chosen, request, on_end)
    streams = _streams(context.temp_dir, stdin, stdout, stderr)
    run = _foreground(context, chosen, request, streams)
    return _lines(run, text=text) if stream else _output(run, streams.stdout, text=text)


def _in_task(
    context: Context,
    request: Request,
    working_dir: AnyPath | None,
    volumes: Mapping[AnyPath, AnyPath | tuple[AnyPath, str]],
) -> Request:
    """Return the request with the task's directory and its share of the machine."""
    place = os.fspath(context.temp_dir)
    return replace(
        request,
        working_dir=os.fspath(working_dir or place),
        mounts=(Mount(place, place), *_mounts(volumes)),
        cores=context.cores,
        memory=context.memory,
        accelerators=context.accelerators,
        place=place,
    )


def _streams(place: Path, stdin: AnyPath | None, stdout: AnyPath | None, stderr: AnyPath | int | None) -> Streams:
    errors = stderr if stderr is None or isinstance(stderr, int) else place / stderr
    return Streams(place / stdin if stdin else None, place / stdout if stdout else None, errors)


def _mounts(volumes: Mapping[AnyPath, AnyPath | tuple[AnyPath, str]]) -> Iterator[Mount]:
    for source, there in volumes.items():
        target, mode = there if isinstance(there, tuple) else (there, "rw")
        if mode not in ("rw", "ro"):
            raise InputError(f"volume {os.fspath(source)}: unknown mode {mode!r}", hint="write 'rw' or 'ro'")
        yield Mount(os.path.abspath(source), os.fspath(target), mode == "ro")


@contextmanager
def _foreground(context: Context, engine: Engine, request: Request, streams: Streams) -> Iterator[RunningProgram]:
    removal: Deferred | None = None
    if engine.keeps_containers:
        removal = context.defer(_remove, request.name, engine.name)
    try:
        with running(engine, request, streams) as run:
            yield run
            run.finish()
    except BaseException:
        forget(engine, request.image)
        if removal is not None:
            removal.run()
        raise
    if removal is not None:
        removal.cancel()  # the engine has removed the container


def _output(run: AbstractContextManager[RunningProgram], path: Path | None, *, text: bool) -> bytes | str | Path:
    with run as process:
        output: bytes = b"" if path is not None else process.stdout.read()
    if path is not None:
        return path
    return output.decode() if text else output


def _lines(run: AbstractContextManager[RunningProgram], *, text: bool) -> Iterator[bytes] | Iterator[str]:
    with run as process:
        yield from io.TextIOWrapper(process.stdout, encoding="utf-8") if text else process.stdout


def _detached(context: Context, engine: Engine, request: Request, on_end: str) -> Container:
    argv, at_end = engine.run(request), _ENDS[on_end]
    if at_end is not None:
        context.defer(at_end, request.name, engine.name)
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        cwd=request.place,
        env=os.environ | engine.environment(request),
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        words = done.stderr.strip()
        raise ContainerError(
            f"{engine.name} could not start a container of {request.image}: {words}", done.returncode, words
        )
    return Container(request.name, engine.name)


def _remove(name: str, engine: str) -> None:
    Container(name, engine).remove()


def _stop(name: str, engine: str) -> None:
    container = Container(name, engine)
    if container.is_running:
        container.stop()
    container.remove()


_ENDS: dict[str, Callable[[str, str], None] | None] = {"kill": _remove, "stop": _stop, "leave": None}


Word: TypeAlias = "str | os.PathLike[str] | int | float"

Arguments: TypeAlias = "str | Sequence[Word] | Sequence[Sequence[Word]]"
"""A command line for a shell, the arguments of a program, or the commands of a pipeline."""

_PIPELINE = """\
if command -v bash >/dev/null; then exec bash -c "set -eo pipefail; $1"; fi
set -eo pipefail; eval "$1"
"""
"""A shell script that runs the pipeline in its argument. Not every ``sh`` supports pipefail. bash does, and so does the
``sh`` of busybox, which images without bash usually have."""


def command(args: Arguments, entrypoint: Word | Sequence[Word] | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the entrypoint (None for that of the image) and its arguments.

    Raises
    ------
    InputError
        If a shell is needed but an entrypoint is given, or an argument is not a string, a path or a number.
    """
    if isinstance(args, str):
        return _shell(entrypoint, args)
    if args and all(isinstance(part, list | tuple) for part in args):
        line = " | ".join(shlex.join(map(_word, part)) for part in args if isinstance(part, list | tuple))
        return _shell(entrypoint, _PIPELINE, "sh", line)
    words = tuple(map(_word, args))
    if entrypoint is None:
        return None, words
    first, *rest = [entrypoint] if isinstance(entrypoint, str | os.PathLike) else _listed(entrypoint)
    return _word(first), (*map(_word, rest), *words)


def _listed(entrypoint: Word | Sequence[Word]) -> list[Word]:
    if isinstance(entrypoint, list | tuple) and entrypoint:
        return list(entrypoint)
    raise InputError(f"entrypoint={entrypoint!r} is neither a program nor a program with arguments")


def _shell(entrypoint: object, *script: str) -> tuple[str, tuple[str, ...]]:
    if entrypoint is not None:
        raise InputError(
            f"entrypoint={entrypoint!r} cannot be combined with a shell command or a pipeline, which sh runs"
        )
    return "sh", ("-c", *script)


def _word(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(
        f"{value!r} cannot be an argument of a program in a container", hint="pass a string, a path or a number"
    )


class Container:
    """A handle of a container. Tasks on the same machine may pass it to each other.

    Parameters
    ----------
    name : str
        The container's name, as in `toilfn.docker`.
    engine : str, optional
        Docker or Podman. Default: as for `toilfn.docker`.

    Raises
    ------
    InputError
        If containers of this engine have no names.
    ContainerError
        If no engine works on this machine.
    """

    def __init__(self, name: str, engine: str | None = None) -> None:
        chosen = choose(engine)
        if not isinstance(chosen, Docker):
            raise InputError(f"{chosen.name} containers have no names", hint="use docker or podman")
        self.name = name
        self._engine = chosen

    def __repr__(self) -> str:
        return f"Container({self.name!r}, {self._engine.name!r})"

    @property
    def is_running(self) -> bool | None:
        """Whether the container is running; None if it does not exist."""
        done = _run(self._engine.inspect(self.name, ".State.Running"))
        return None if done.returncode else done.stdout.strip() == b"true"

    def wait(self) -> int:
        """Wait until the container has ended, and return its exit status.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        return int(self._do("wait", self.name))

    def logs(self) -> bytes:
        """Return the standard output of a detached container so far.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        return self._do("logs", self.name)

    def kill(self) -> None:
        """Kill the container if it is running.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        if self.is_running is not False:
            self._do("kill", self.name)

    def stop(self, patience: int = 10) -> None:
        """Ask the container to end, and kill it if it is still running after `patience` seconds.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        self._do("stop", "--time", str(patience), self.name)

    def remove(self) -> None:
        """Remove the container, even if it is running; a missing container is ignored."""
        self._do("rm", *self._engine.at_once, self.name, missing_ok=True)

    def _do(self, *command: str, missing_ok: bool = False) -> bytes:
        done = _run(self._engine.do(*command))
        if done.returncode and not (missing_ok and self.is_running is None):
            words = done.stderr.decode(errors="replace").strip()
            raise ContainerError(f"{self._engine.name} {command[0]} {self.name}: {words}", done.returncode, words)
        return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
