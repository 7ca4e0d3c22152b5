"""Which container engine this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from toilfn.containers.docker import Docker
from toilfn.containers.engine import Engine
from toilfn.containers.podman import Podman
from toilfn.containers.singularity import Apptainer, Singularity
from toilfn.containers.udocker import Udocker
from toilfn.errors import ContainerError, InputError

__all__ = ["VARIABLE", "choose"]

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
        If there is no such engine.
    ContainerError
        If it does not work here; says what it answered.
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
        answers.append(f"{name} does not answer ({done.stderr.strip() or f'exit status {done.returncode}'})")
    raise ContainerError(
        f"no usable container engine found: {'; '.join(answers)}", hint="install one, or start its service"
    )
