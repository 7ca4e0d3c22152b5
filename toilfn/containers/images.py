"""The engine of this machine, and its images: each is pulled once, for a machine or for several that share a folder."""

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
"""The environment variable that names the engine where a call does not."""

_ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Docker, Podman, Apptainer, Singularity, Udocker)
}
"""In the order in which they are tried."""


def choose(name: str | None = None) -> Engine:
    """Return the engine of this name, or the first that works here.

    Raises
    ------
    InputError
        If the engine does not exist.
    ContainerError
        If it does not work here. The message has its answer.
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
"""Commands that have found their images in this process: to ask an engine takes as long as a small task."""


def provide(engine: Engine, image: str) -> None:
    """Pull an image unless this machine has it.

    Raises
    ------
    ContainerError
        If that fails; has the engine's own words.
    """
    question = tuple(engine.has(image))
    if question not in _here:
        _fetch(engine, image)
        _here.add(question)


def forget(engine: Engine, image: str) -> None:
    """Look for an image anew the next time: a container of it has failed, perhaps since the image is gone."""
    _here.discard(tuple(engine.has(image)))


def _fetch(engine: Engine, image: str) -> None:
    """Pull an image if need be; it goes with the last run on this machine that has used it, where that is possible."""
    pulled = _pull(engine, image)
    command = engine.remove(image)
    if command is not None:
        note_image(command, pulled=pulled)


def _pull(engine: Engine, image: str) -> bool:
    """Return whether the image had to be pulled."""
    if _run(engine.has(image)).returncode == 0:
        return False
    with image_lock(f"{engine.name} {image}", engine.shelf()):
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
    """Keep other processes that use the same folder from bringing the same image meanwhile."""
    with (folder / f".{sha256(what.encode()).hexdigest()[:32]}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
