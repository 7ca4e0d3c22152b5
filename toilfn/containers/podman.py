"""Podman's commands, where they are not Docker's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import cache

from toilfn.containers.docker import Docker
from toilfn.containers.engine import Request

__all__ = ["Podman"]


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
