"""Run a shell step: build its script, activate its container, conda environment or modules, and collect its outputs."""

from __future__ import annotations

import fcntl
import glob
import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from toilfn.errors import CommandError, ContainerError, InputError
from toilfn.files.directory import Directory
from toilfn.files.exchange import import_directory
from toilfn.files.file import File
from toilfn.files.scratch import base_dir
from toilfn.graph.task import Task
from toilfn.steps.template import Field, Template, text_of
from toilfn.text import last_lines
from toilfn.worker.context import current

__all__ = ["OUT", "STEP", "activated", "is_file"]

OUT = "out"
"""The name of a step's output, if the step declares one output without a name."""

_SCRIPT = ".toilfn-command.sh"
_TAIL = 8192
"""Number of bytes at the end of standard error that are kept for an error message."""
_LINES = 20
_IN_CONTAINER = 'if command -v bash >/dev/null; then exec bash -euo pipefail "$1"; fi; exec sh -eu "$1"'
_MODULES = """\
if ! command -v module >/dev/null; then
  for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh "${MODULESHOME:-/}/init/bash"
  do if [ -r "$file" ]; then . "$file"; break; fi; done
fi
"""
_MEBIBYTE = 2**20


def _run(command: str, outputs: Any, surroundings: dict[str, Any], /, **values: Any) -> Any:
    """Run a step's command; return its output files, or its standard output if it declares no outputs."""
    paths = {} if outputs is None else _paths(outputs, values)
    for path in paths.values():
        if parent := os.path.dirname(path.rstrip("/")):
            os.makedirs(parent, exist_ok=True)
    given = {**_limits(), **values, **{name: path.rstrip("/") for name, path in paths.items()}}

    def words(field: Field) -> list[str]:
        return text_of(given[field.name], field, _local_path)

    template = Template(command)
    printed = _execute(template.script(words), template.shown(words), surroundings, values, capture=outputs is None)
    if outputs is None:
        return printed
    made = {name: _collected(name, path) for name, path in paths.items()}
    return made if isinstance(outputs, Mapping) else made[OUT]


STEP: Task[..., Any] = Task(_run, {"name": "shell", "version": "1"})
"""The task that runs a shell step; a call of any `ShellTask` is a call of this task."""


def _limits() -> dict[str, Any]:
    context = current()
    return {"cores": math.ceil(context.cores), "memory_mb": context.memory // _MEBIBYTE}


def _paths(outputs: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the path of each output, relative to the task's directory."""
    named = outputs if isinstance(outputs, Mapping) else {OUT: outputs}

    def words(field: Field) -> list[str]:
        return text_of(values[field.name], field, lambda _: None)

    paths = {name: Template(text, is_shell=False).filled(words) for name, text in named.items()}
    for name, path in paths.items():
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise InputError(f"output {name}: {path!r} is not a path below the task's own directory")
    return paths


def _local_path(value: Any) -> str | None:
    return str(value.path()) if isinstance(value, (File, Directory)) else None


def _collected(name: str, path: str) -> Any:
    """Return the files or the directory that a command has created for an output."""
    if glob.has_magic(path):
        return [Path(found) for found in sorted(glob.glob(path, recursive=True))]
    if path.endswith("/"):
        if not os.path.isdir(path):
            raise CommandError(f"output {name}: the command did not create the directory {path}")
        return import_directory(path.rstrip("/"))
    if not os.path.isfile(path):
        raise CommandError(f"output {name}: the command did not create the file {path}")
    return Path(path)


def _execute(script: str, shown: str, surroundings: dict[str, Any], values: Mapping[str, Any], *, capture: bool) -> str:
    """Run a script in the step's container or environment; return its standard output, or "" if it is not captured."""
    image = surroundings.get("container")
    if image:
        Path(_SCRIPT).write_text(script)
        return _in_container(image, shown, values, surroundings, capture=capture)
    loads = "".join(f"module load {shlex.quote(name)} || exit 1\n" for name in surroundings.get("modules", ()))
    Path(_SCRIPT).write_text(f"{_MODULES if loads else ''}{loads}set -euo pipefail\n{script}")
    bash = shutil.which("bash")
    if bash is None:
        raise CommandError("shell steps need bash, which was not found on this machine")
    argv = [*activated(surroundings["conda"]), bash, _SCRIPT] if surroundings.get("conda") else [bash, _SCRIPT]
    sys.stdout.flush()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else None, stderr=subprocess.PIPE
    )
    tail = _Tail(process)
    with process:
        output = process.stdout.read() if process.stdout is not None else b""
        words = tail.end()
        status = process.wait()
    os.unlink(_SCRIPT)
    if status:
        raise _failed(shown, status, words)
    return output.decode()


class _Tail:
    """Copies the standard error of a process to the task's log in a thread, and keeps the end of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._kept = b""
        self._thread = threading.Thread(target=self._pass_on, name="toilfn-shell", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._kept = (self._kept + chunk)[-_TAIL:]
                os.write(2, chunk)

    def end(self) -> str:
        """Wait until the process has closed its standard error, and return the last part of it."""
        self._thread.join()
        return self._kept.decode(errors="replace")


def _failed(shown: str, status: int, words: str) -> CommandError:
    said = last_lines(words, _LINES)
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return CommandError(f"the command {how}: {shown}{said and f'{os.linesep}{said}'}", status, said)


def _in_container(
    image: str, shown: str, values: Mapping[str, Any], surroundings: dict[str, Any], *, capture: bool
) -> str:
    from toilfn.containers.call import docker
    from toilfn.containers.images import choose

    engine = surroundings.get("engine")
    mode = "rw" if choose(engine).name == "udocker" else "ro"  # udocker has no read-only volumes
    try:
        printed = docker(
            image, ["sh", "-c", _IN_CONTAINER, "sh", _SCRIPT], entrypoint=None, engine=engine, text=True,
            volumes={path: (path, mode) for path in _outside(values)},
        )  # fmt: skip
    except ContainerError as error:
        if error.exit_code < 0 or isinstance(error, MemoryError):
            raise
        raise _failed(shown, error.exit_code, error.stderr) from None
    if not capture:
        print(printed, end="", flush=True)
    return str(printed)


def _outside(value: Any) -> list[str]:
    """List the absolute paths among values, to mount them; the task's own directory is always mounted."""
    if isinstance(value, Mapping):
        return list(dict.fromkeys(path for item in value.values() for path in _outside(item)))
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in _outside(item)]
    return [str(value)] if isinstance(value, Path) and value.is_absolute() else []


_PROGRAMS = ("micromamba", "mamba", "conda")
_DONE = ".toilfn-complete"


def is_file(environment: str) -> bool:
    """Return whether an environment is given as a description file, not as a name or a directory."""
    return environment.endswith((".yml", ".yaml"))


def activated(environment: Any) -> list[str]:
    """Return the words to put before a command, so that it runs in a conda environment.

    Parameters
    ----------
    environment : str or Path
        A file that describes the environment, which is created unless this machine has already done so, or the name or
        the directory of an existing environment.

    Raises
    ------
    CommandError
        If conda is not installed, or if it cannot create the environment.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise CommandError(f"a step needs conda, but none of {', '.join(_PROGRAMS)} was found on this machine")
    name = os.fspath(environment)
    place = str(_environment_of(program, Path(name))) if is_file(name) else name
    live = ["--no-capture-output"] if Path(program).name == "conda" else []
    return [program, "run", *live, "-p" if os.sep in place else "-n", place]


def _environment_of(program: str, file: Path) -> Path:
    """Return the directory of the environment that a file describes, and create the environment if necessary."""
    content = file.read_bytes()
    base = Path(os.environ.get("TOILFN_CONDA") or base_dir() / "conda")
    base.mkdir(parents=True, exist_ok=True)
    place = base / blake2b(content, digest_size=16).hexdigest()
    with open(f"{place}.lock", "w") as lock:  # only one task creates the environment; others wait for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / _DONE).exists():
            shutil.rmtree(place, ignore_errors=True)
            command = [program, "create" if "micromamba" in program else "env"]
            command += ["-y"] if "micromamba" in program else ["create"]
            done = subprocess.run(
                [*command, "-p", str(place), "-f", str(file)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                said = last_lines(done.stderr or done.stdout, 20)
                raise CommandError(
                    f"conda could not create the environment of {file.name}:\n{said}", done.returncode, said
                )
            (place / _DONE).touch()
    return place
