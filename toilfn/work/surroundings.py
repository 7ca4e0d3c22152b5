"""What an attempt changes around itself and must not leave to the next: directory and environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["Surroundings", "put_back", "replace_variables"]

_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip


class Surroundings:
    """Sets up what an attempt finds, and puts it back.

    Parameters
    ----------
    limit_threads : bool
        Whether to tell libraries with threads of their own how many cores a task has, where the user says nothing.
    """

    def __init__(self, *, limit_threads: bool) -> None:
        self._home = os.open(".", os.O_RDONLY)
        self._threads = [name for name in _THREADS if name not in os.environ] if limit_threads else []
        self._cores = 0.0
        self._replaced: dict[str, str | None] = {}

    def enter(self, cores: float, variables: Mapping[str, str]) -> None:
        """Get ready for an attempt with so many cores and these environment variables."""
        if cores != self._cores:
            self._cores = cores
            os.environ.update(dict.fromkeys(self._threads, str(max(1, int(cores)))))
        if variables:
            self._replaced = replace_variables(variables)

    def leave(self) -> None:
        """Put back what `enter` and the attempt changed."""
        os.fchdir(self._home)
        put_back(self._replaced)
        self._replaced = {}


def replace_variables(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Set environment variables, and give what they were before."""
    replaced = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    return replaced


def put_back(replaced: Mapping[str, str | None]) -> None:
    """Undo `replace_variables`."""
    for name, value in replaced.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
