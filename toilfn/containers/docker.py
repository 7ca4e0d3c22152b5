"""Docker and Podman."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

from toilfn.containers.engine import Engine, Mount, Request
from toilfn.errors import InputError

__all__ = ["Docker", "Podman"]

_OF_THE_CLIENT = re.compile(
    r"PATH$|HOME$|TMPDIR$|LD_|XDG_|DOCKER|BUILDKIT|CONTAINER|STORAGE_|REGISTRY_|PODMAN|.*_proxy$", re.I
)
"""Variables that the engine's own command would understand too."""


class Docker(Engine):
    """Docker; podman understands nearly the same."""

    name = "docker"
    at_once: ClassVar[tuple[str, ...]] = ("--force",)
    """Flags of ``rm`` for containers that may be running."""

    def check(self) -> list[str]:
        """Ask for the daemon's version."""
        return [self.program, "version", "--format", "{{.Server.Version}}"]

    def has(self, image: str) -> list[str]:
        """Look at the image."""
        return [self.program, "image", "inspect", "--format", "{{.Id}}", image]

    def pull(self, image: str) -> list[str]:
        """Pull it from its registry."""
        return [self.program, "pull", "--quiet", image]

    def run(self, request: Request) -> list[str]:
        """Run a container; one that is detached stays until it is removed."""
        return [self.program, "run", *self._flags(request), request.image, *request.command]

    def environment(self, request: Request) -> dict[str, str]:
        """Return all options that do not change the command itself."""
        return {name: value for name, value in request.env.items() if not _OF_THE_CLIENT.match(name)}

    def _flags(self, request: Request) -> Iterator[str]:
        yield from ("--name", request.name, "--workdir", request.working_dir)
        yield from self._user(request)
        for mount in request.mounts:
            yield from ("--mount", _bind(mount))
        handed = self.environment(request)
        for name, value in request.env.items():  # a value on the command line is seen by every user of the machine
            yield from ("--env", name if name in handed else f"{name}={value}")
        if request.entrypoint is not None:
            yield from ("--entrypoint", request.entrypoint)
        yield from self._limits(request)
        if request.interactive:
            yield "--interactive"
        yield "--detach" if request.detach else "--rm"
        yield from request.options

    def _user(self, request: Request) -> Iterator[str]:
        yield from ("--user", request.user or f"{os.getuid()}:{os.getgid()}")

    def _limits(self, request: Request) -> Iterator[str]:
        if request.cores:
            yield from ("--cpus", f"{request.cores:g}")
        if request.memory:
            yield from ("--memory", str(request.memory))
        if request.accelerators:
            yield from ("--gpus", f'"device={",".join(request.accelerators)}"')

    def inspect(self, name: str, what: str) -> list[str]:
        """Return the command that prints something of a container, such as ``.State.Running``."""
        return [self.program, "container", "inspect", "--format", f"{{{{{what}}}}}", name]

    def do(self, what: str, *flags: str) -> list[str]:
        """Return a command about containers."""
        return [self.program, what, *flags]


def _bind(mount: Mount) -> str:
    for path in (mount.source, mount.target):
        if "," in path or '"' in path:
            raise InputError(f"{path!r} cannot be mounted into a container: its name contains a comma or a quote")
    return f"type=bind,source={mount.source},target={mount.target}" + (",readonly" if mount.read_only else "")


class Podman(Docker):
    """Podman, as root or without."""

    name = "podman"
    at_once = ("--force", "--time", "0")

    def check(self) -> list[str]:
        """Ask for its version; there is no daemon."""
        return [self.program, "version", "--format", "{{.Client.Version}}"]

    def has(self, image: str) -> list[str]:
        """Look for the image."""
        return [self.program, "image", "exists", image]

    def remove(self, image: str) -> list[str] | None:
        """Remove the image; those of root are for all users of the machine."""
        return [self.program, "image", "rm", image] if os.getuid() else None

    def run(self, request: Request) -> list[str]:
        """Run a container whose output goes nowhere else, unless it is detached."""
        flags = [*([] if request.detach else ["--log-driver", "none"]), *self._flags(request)]
        return [self.program, "run", *flags, request.image, *request.command]

    def _user(self, request: Request) -> Iterator[str]:
        if request.user is None and os.getuid():
            yield "--userns=keep-id"
        yield from super()._user(request)

    def _limits(self, request: Request) -> Iterator[str]:
        limitable = _limitable(self.program)
        if request.cores and "cpu" in limitable:
            yield from ("--cpus", f"{request.cores:g}")
        if request.memory and "memory" in limitable:
            yield from ("--memory", str(request.memory))
        for device in request.accelerators:
            yield from ("--device", f"nvidia.com/gpu={device}")


@cache
def _limitable(program: str) -> frozenset[str]:
    """Return what this user's containers can be limited in: by cgroups that the machine leaves to users, if any.

    Asked for another limit, podman refuses to run the container, or says so in the middle of what that prints.
    """
    if not os.geteuid():
        return frozenset(("cpu", "memory"))
    command = [program, "info", "--format", "{{range .Host.CgroupControllers}}{{.}} {{end}}"]
    return frozenset(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())
