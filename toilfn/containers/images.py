"""Choose the container engine, and pull images: once for each machine, or for all machines that share a folder."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from toilfn.containers.engines import Apptainer, Docker, Engine, Podman, Singularity, Udocker
from toilfn.errors import ContainerError, InputError
from toilfn.files.node import note_image

__all__ = ["VARIABLE", "choose", "forget", "image_lock", "provide"]

VARIABLE = "TOILFN_CONTAINER_ENGINE"
"""The environment variable with the name of the engine, for calls that name none."""

_ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Docker, Podman, Apptainer, Singularity, Udocker)
}
"""The engines by name, in the order in which they are tried."""


def choose(name: str | None = None) -> Engine:
    """Return the engine with a name, or the first one that works on this machine.

    Raises
    ------
    InputError
        If there is no engine with this name.
    ContainerError
        If the engine, or every engine, does not work. The message quotes the output of each.
    """
    name = name or os.environ.get(VARIABLE) or None
    if name is not None and name not in _ENGINES:
        raise InputError(f"unknown container engine {name!r}", hint=f"choose from {', '.join(_ENGINES)}")
    return _first_that_works((name,) if name else tuple(_ENGINES), os.environ.get("PATH"))


@cache
def _first_that_works(names: tuple[str, ...], path: str | None) -> Engine:
    answers = []
    for name in names:
        program = shutil.which(name, path=path)
        if program is None:
            answers.append(f"{name} is not installed")
            continue
        engine = _ENGINES[name](program)
        done = subprocess.run(engine.check(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if not done.returncode:
            return engine
        answers.append(f"{name} does not respond ({done.stderr.strip() or f'exit status {done.returncode}'})")
    raise ContainerError(
        f"no usable container engine found: {'; '.join(answers)}", hint="install one, or start its service"
    )


_logger = logging.getLogger(__name__)
_here: set[tuple[str, ...]] = set()
"""Commands of `Engine.has` that have succeeded in this process. They are not repeated, since each takes as long as a
small task."""


def provide(engine: Engine, image: str) -> None:
    """Pull an image unless this machine has it.

    Raises
    ------
    ContainerError
        If the pull fails. The error quotes the engine's message.
    """
    question = tuple(engine.has(image))
    if question not in _here:
        _fetch(engine, image)
        _here.add(question)


def forget(engine: Engine, image: str) -> None:
    """Check again whether this machine has an image when it is used next. Call this if a container of it has failed."""
    _here.discard(tuple(engine.has(image)))


def _fetch(engine: Engine, image: str) -> None:
    """Pull an image if necessary. If possible, it is removed after the last run on this machine that uses it."""
    pulled = _pull(engine, image)
    command = engine.remove(image)
    if command is not None:
        note_image(command, pulled=pulled)


def _pull(engine: Engine, image: str) -> bool:
    """Pull an image unless this machine has it, and return whether it was pulled."""
    if _run(engine.has(image)).returncode == 0:
        return False
    with image_lock(f"{engine.name} {image}", engine.lock_folder()):
        if _run(engine.has(image)).returncode == 0:
            return False
        _logger.info("%s pulls the image %s", engine.name, image)
        done = _run(engine.pull(image))
        if done.returncode:
            raise ContainerError(
                f"{engine.name} could not pull the image {image}: {done.stderr.strip()}", done.returncode, done.stderr
            )
        engine.pulled(image)
        return True


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )


@contextmanager
def image_lock(what: str, folder: Path) -> Iterator[None]:
    """Lock an image while it is pulled: other processes that use the same folder wait, and then find the image."""
    with (folder / f".{sha256(what.encode()).hexdigest()[:32]}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
