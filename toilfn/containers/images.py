"""Images are brought once, onto a machine or to where several machines see them, by who asks for them first."""

from __future__ import annotations

import fcntl
import logging
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from toilfn.containers.engine import Engine
from toilfn.errors import ContainerError

__all__ = ["forget", "image_lock", "provide"]

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
    if _run(engine.has(image)).returncode == 0:
        return
    with image_lock(f"{engine.name} {image}", engine.shelf()):
        if _run(engine.has(image)).returncode == 0:
            return
        _logger.info("%s pulls the image %s", engine.name, image)
        done = _run(engine.pull(image))
        if done.returncode:
            raise ContainerError(
                f"{engine.name} could not pull the image {image}: {done.stderr.strip()}", done.returncode, done.stderr
            )
        engine.pulled(image)


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
