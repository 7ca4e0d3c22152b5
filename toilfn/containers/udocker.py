"""The commands of udocker, which needs neither root nor a daemon: https://indigo-dc.github.io/udocker."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from toilfn.containers.engine import Engine, Mount, Request
from toilfn.errors import InputError

__all__ = ["Udocker"]

_OF_THE_CLIENT = re.compile(r"PATH$|HOME$|TMPDIR$|LD_|PYTHON|UDOCKER|PROOT|FAKECHROOT|.*_proxy$", re.I)
"""Variables that udocker's own command would understand too."""


class Udocker(Engine):
    """Udocker: a container is an unpacked copy of its image, and a child of the command that runs it there."""

    name = "udocker"
    keeps_containers = False
    protects_mounts = False

    def check(self) -> list[str]:
        """Ask for its version."""
        return self._do("version")

    def has(self, image: str) -> list[str]:
        """Look for the image, with all its layers."""
        return self._do("inspect", image)

    def pull(self, image: str) -> list[str]:
        """Pull it from its registry."""
        return self._do("pull", image)

    def shelf(self) -> Path:
        """Wait where its images are: several machines may have the same home."""
        return Path(os.environ.get("UDOCKER_DIR") or Path.home() / ".udocker")

    def run(self, request: Request) -> list[str]:
        """Run a container."""
        if request.detach:
            raise InputError(
                "udocker cannot run a detached container", hint="start it in a thread, or use another engine"
            )
        program = [] if request.entrypoint is None else [request.entrypoint]
        words = [*program, *request.command]
        if "" in words:
            raise InputError(
                f"udocker drops empty arguments, as in {words}", hint="pass the command as one string for the shell"
            )
        return [*self._do("run", *_flags(request)), request.image, *words]

    def environment(self, request: Request) -> dict[str, str]:
        """Return the options that do not change the command itself, and the place of the container while it runs."""
        folder = request.scratch("udocker")
        own = {"UDOCKER_CONTAINERS": folder, "UDOCKER_TMP": folder}
        return {name: value for name, value in request.env.items() if not _OF_THE_CLIENT.match(name)} | own

    def _do(self, *words: str) -> list[str]:
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        return [self.program, *as_root, "--quiet", *words]


def _flags(request: Request) -> Iterator[str]:
    # A user who is not in the image gets a line in its /etc/passwd; one with a group would get a line that is wrong.
    yield f"--user={request.user or os.getuid()}"
    yield f"--workdir={request.working_dir}"
    for mount in request.mounts:
        yield f"--volume={_bind(mount)}"
    for name, value in request.env.items():  # a value on the command line is seen by every user of the machine
        yield f"--env={name}={value}" if _OF_THE_CLIENT.match(name) else f"--env={name}"
    if request.entrypoint is not None:
        yield "--entrypoint="  # it is split at spaces; the first of the words is not
    yield from request.options
    yield "--rm"  # last: after a flag that ends with "=" the image's name would be taken for its value


def _bind(mount: Mount) -> str:
    if mount.read_only:
        raise InputError(
            f"udocker cannot mount {mount.source!r} read-only", hint="mount it as 'rw', or use another engine"
        )
    for path in (mount.source, mount.target):
        if ":" in path or path != path.strip():
            raise InputError(
                f"{path!r} cannot be mounted into a container: its name contains a colon or ends with a space"
            )
    return f"{mount.source}:{mount.target}"
