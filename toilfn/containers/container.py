"""A container that runs, or has run, on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from toilfn.containers.docker import Docker
from toilfn.containers.images import choose
from toilfn.errors import ContainerError, InputError

__all__ = ["Container"]


class Container:
    """A container by its name. Tasks on the same machine may pass it to each other.

    Parameters
    ----------
    name : str
        The choice of `toilfn.docker`.
    engine : str, optional
        Docker or podman; the default is that of `toilfn.docker`.

    Raises
    ------
    InputError
        If the engine's containers have no names.
    ContainerError
        If no engine works here.
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
        """Whether it runs; None if the container does not exist."""
        done = _run(self._engine.inspect(self.name, ".State.Running"))
        return None if done.returncode else done.stdout.strip() == b"true"

    def wait(self) -> int:
        """Wait for its end; return the exit status.

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
        """Kill it, if it runs.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        if self.is_running is not False:
            self._do("kill", self.name)

    def stop(self, patience: int = 10) -> None:
        """Ask it to end, and kill it if it has not after so many seconds.

        Raises
        ------
        ContainerError
            If the container does not exist.
        """
        self._do("stop", "--time", str(patience), self.name)

    def remove(self) -> None:
        """Kill it if it runs, and remove it if it is there."""
        self._do("rm", *self._engine.at_once, self.name, missing_ok=True)

    def _do(self, *command: str, missing_ok: bool = False) -> bytes:
        done = _run(self._engine.do(*command))
        if done.returncode and not (missing_ok and self.is_running is None):
            words = done.stderr.decode(errors="replace").strip()
            raise ContainerError(f"{self._engine.name} {command[0]} {self.name}: {words}", done.returncode, words)
        return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
