"""The commands of Singularity and of Apptainer, its other name."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from toilfn.containers.engine import Engine, Mount, Request, images_folder
from toilfn.errors import InputError

__all__ = ["Apptainer", "Singularity"]


class Singularity(Engine):
    """Singularity: a container is a process like any other, of the same user; the cluster limits it as one."""

    name = "singularity"
    keeps_containers = False

    def check(self) -> list[str]:
        """Ask for its version."""
        return [self.program, "--version"]

    def has(self, image: str) -> list[str]:
        """Look for the image's file."""
        return ["test", "-e", self._file(image)]

    def pull(self, image: str) -> list[str]:
        """Write a file of the image; without a scheme its name is one for Docker, and without a host Docker Hub's."""
        *flags, url = _source_of(image)
        return [self.program, "pull", "--force", *flags, self._part(image), url]

    def shelf(self) -> Path:
        """Wait where the files are."""
        return images_folder()

    def pulled(self, image: str) -> None:
        """Build the whole file appear at once: a pull may be killed."""
        os.replace(self._part(image), self._file(image))

    def remove(self, image: str) -> list[str] | None:
        """Remove the image's file, if toilfn has written it and it is for this machine only."""
        if os.path.exists(image) or os.environ.get("TOILFN_IMAGES"):
            return None
        return ["rm", "-f", self._file(image)]

    def run(self, request: Request) -> list[str]:
        """Run a container."""
        if request.detach:
            raise InputError(
                f"{self.name} cannot run a detached container", hint="start it in a thread, or use another engine"
            )
        if request.user is not None:
            raise InputError(
                f"{self.name} always runs a container as the current user", hint=f"leave out user={request.user!r}"
            )
        how = "run" if request.entrypoint is None else "exec"
        program = [] if request.entrypoint is None else [request.entrypoint]
        return [self.program, "--silent", how, *_flags(request), self._file(request.image), *program, *request.command]

    def environment(self, request: Request) -> dict[str, str]:
        """Return all variables, marked as the container's, so that the shell there takes them literally."""
        prefix = self.name.upper()
        given = {f"{prefix}ENV_{name}": value for name, value in request.env.items() if name != "HOME"}
        return {**given, f"{prefix}_NO_EVAL": "1"}

    def _file(self, image: str) -> str:
        if os.path.exists(image):
            return os.path.abspath(image)
        return str(images_folder() / f"{sha256(image.encode()).hexdigest()[:32]}.sif")

    def _part(self, image: str) -> str:
        """Return a name of this machine's: not every file system that machines share knows locks."""
        return f"{self._file(image)}.{socket.gethostname()}.part"


class Apptainer(Singularity):
    """Apptainer."""

    name = "apptainer"


_MIRROR = "SINGULARITY_DOCKER_HUB_MIRROR"
"""The environment variable with the URL of a registry that is asked instead of Docker Hub; Toil reads it, too."""


def _source_of(image: str) -> list[str]:
    """Return the flags and the URL with which an image is pulled."""
    if re.match(r"\w+://", image):
        return [image]
    mirror, name = os.environ.get(_MIRROR, "").strip(), _on_docker_hub(image)
    if not mirror or name is None:
        return [f"docker://{image}"]
    scheme, _, place = mirror.rpartition("://")
    place = place.rstrip("/")
    if scheme not in ("", "http", "https") or not place:
        raise InputError(f"{_MIRROR}={mirror} is not an address", hint="write http://HOST:PORT or https://HOST")
    return [*(["--no-https"] if scheme == "http" else []), f"docker://{place}/{name}"]


def _on_docker_hub(image: str) -> str | None:
    """Return an image's name on Docker Hub; None if it names another registry."""
    host, slash, rest = image.partition("/")
    if not slash:
        return f"library/{image}"
    if host in ("docker.io", "index.docker.io"):
        return _on_docker_hub(rest)
    return None if "." in host or ":" in host or host == "localhost" else image


def _flags(request: Request) -> Iterator[str]:
    # Without these two the container has the user's home, with all their own programs, and this machine's /tmp.
    yield from ("--containall", "--workdir", request.scratch())
    yield from ("--pwd", request.working_dir)
    if "HOME" in request.env:
        yield from ("--home", f"{_source(request, request.env['HOME'])}:{request.env['HOME']}")
    for mount in request.mounts:
        yield from ("--bind", _bind(mount))
    if request.accelerators:
        yield "--nv"
    yield from request.options


def _source(request: Request, path: str) -> str:
    """Return where a path of the container is on this machine: Singularity mounts a home wherever it is."""
    for mount in request.mounts:
        if Path(path).is_relative_to(mount.target):
            return str(Path(mount.source) / Path(path).relative_to(mount.target))
    return request.scratch("home")


def _bind(mount: Mount) -> str:
    for path in (mount.source, mount.target):
        if ":" in path or "," in path:
            raise InputError(f"{path!r} cannot be mounted into a container: its name contains a colon or a comma")
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")
