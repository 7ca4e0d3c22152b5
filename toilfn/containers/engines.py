"""The container engines: the interface that they share, and Docker, Podman, Singularity, Apptainer and udocker."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from toilfn.errors import InputError
from toilfn.files.scratch import base_dir

__all__ = [
    "Apptainer", "Docker", "Engine", "Mount", "Podman", "Request", "Singularity", "Udocker", "images_folder",
    "pulls_folder",
]  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine to mount into a container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Request:
    """The parameters of a container to start, the same for all engines."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    working_dir: str = "/"
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """The user in the container. None means the user who runs the task, who then owns the files it writes."""
    cores: float = 0.0
    memory: int = 0
    """Memory limit in bytes; 0 means no limit."""
    accelerators: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Additional options for the engine's command, from the user."""
    place: str | None = None
    """The directory in which the engine's command runs, since some engines leave files there."""
    interactive: bool = False
    detach: bool = False

    def scratch(self, name: str = "") -> str:
        """Create a directory for files that Docker would keep in the container's own layer.

        It is inside `place`, and removed with it.
        """
        folder = Path(self.place or base_dir()) / ".container" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(folder)


class Engine(ABC):
    """Builds the command lines of an engine. It does not run them.

    Parameters
    ----------
    program : str
        The path of the engine's command.
    """

    name: ClassVar[str]
    keeps_containers: ClassVar[bool] = True
    """Whether containers have names, survive the process that started them, and so must be removed."""
    protects_mounts: ClassVar[bool] = True
    """Whether the engine supports read-only mounts."""

    def __init__(self, program: str) -> None:
        self.program = program

    @abstractmethod
    def check(self) -> list[str]:
        """Return a command that succeeds if the engine can be used."""

    @abstractmethod
    def has(self, image: str) -> list[str]:
        """Return a command that succeeds if this machine has the image."""

    @abstractmethod
    def pull(self, image: str) -> list[str]:
        """Return the command that downloads the image to this machine."""

    def lock_folder(self) -> Path:
        """Return the directory for the lock that lets only one process at a time pull an image."""
        return pulls_folder()

    def pulled(self, image: str) -> None:
        """Complete a pull after the command of `pull` has succeeded."""

    def remove(self, image: str) -> list[str] | None:
        """Return the command that removes the image; None if other users or machines may use the image, too."""
        return None

    @abstractmethod
    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container."""

    @abstractmethod
    def environment(self, request: Request) -> dict[str, str]:
        """Return the environment variables that the command of `run` must have.

        `run` passes variables to the container by name, so that their values do not appear on a command line.
        """


def images_folder() -> Path:
    """Return the folder for image files: ``TOILFN_IMAGES``, which machines may share, else a folder of this machine."""
    folder = Path(os.environ.get("TOILFN_IMAGES") or base_dir() / "images").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def pulls_folder() -> Path:
    """Return the folder for the locks of the engines that keep images on this machine."""
    folder = base_dir() / "pulls"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


_OF_THE_CLIENT = re.compile(
    r"PATH$|HOME$|TMPDIR$|LD_|XDG_|DOCKER|BUILDKIT|CONTAINER|STORAGE_|REGISTRY_|PODMAN|.*_proxy$", re.I
)
"""Names of variables that would change the engine's command itself, so they are not put into its environment."""


class Docker(Engine):
    """Docker, and the base of Podman, whose command has nearly the same options."""

    name = "docker"
    at_once: ClassVar[tuple[str, ...]] = ("--force",)
    """Options of ``rm`` with which it removes a container even if it is running."""

    def check(self) -> list[str]:
        """Return a query for the version of the daemon."""
        return [self.program, "version", "--format", "{{.Server.Version}}"]

    def has(self, image: str) -> list[str]:
        """Return a query for the image. See `Engine.has`."""
        return [self.program, "image", "inspect", "--format", "{{.Id}}", image]

    def pull(self, image: str) -> list[str]:
        """Return the command that pulls the image from its registry."""
        return [self.program, "pull", "--quiet", image]

    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container. A detached container stays until it is removed."""
        return [self.program, "run", *self._flags(request), request.image, *request.command]

    def environment(self, request: Request) -> dict[str, str]:
        """Return the variables of the container, except those that would change the engine's command itself."""
        return {name: value for name, value in request.env.items() if not _OF_THE_CLIENT.match(name)}

    def _flags(self, request: Request) -> Iterator[str]:
        yield from ("--name", request.name, "--workdir", request.working_dir)
        yield from self._user(request)
        for mount in request.mounts:
            yield from ("--mount", _bind(mount))
        handed = self.environment(request)
        for (
            name,
            value,
        ) in request.env.items():  # by name if possible, since all users can see a command line
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
        """Return the command that prints a field of a container's description, such as ``.State.Running``."""
        return [self.program, "container", "inspect", "--format", f"{{{{{what}}}}}", name]

    def do(self, what: str, *flags: str) -> list[str]:
        """Return the command for an action on a container, such as ``kill``."""
        return [self.program, what, *flags]


def _bind(mount: Mount) -> str:
    for path in (mount.source, mount.target):
        if "," in path or '"' in path:
            raise InputError(f"{path!r} cannot be mounted into a container: its name contains a comma or a quote")
    return f"type=bind,source={mount.source},target={mount.target}" + (",readonly" if mount.read_only else "")


class Podman(Docker):
    """Podman, with or without root."""

    name = "podman"
    at_once = ("--force", "--time", "0")

    def check(self) -> list[str]:
        """Return a query for Podman's version, since there is no daemon."""
        return [self.program, "version", "--format", "{{.Client.Version}}"]

    def has(self, image: str) -> list[str]:
        """Return a query for the image. See `Engine.has`."""
        return [self.program, "image", "exists", image]

    def remove(self, image: str) -> list[str] | None:
        """Return the command that removes the image; None for root, whose images are for all users of the machine."""
        return [self.program, "image", "rm", image] if os.getuid() else None

    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container. Unless it is detached, Podman keeps no copy of its output."""
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
    """Return the cgroup controllers that this user's containers can use, such as ``memory``; there may be none.

    If a limit needs any other controller, Podman refuses to run the container, or prints a warning into its output.
    """
    if not os.geteuid():
        return frozenset(("cpu", "memory"))
    command = [program, "info", "--format", "{{range .Host.CgroupControllers}}{{.}} {{end}}"]
    return frozenset(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())


class Singularity(Engine):
    """Singularity. A container is an ordinary process of the same user, so the cluster's limits apply to it."""

    name = "singularity"
    keeps_containers = False

    def check(self) -> list[str]:
        """Return a query for the version of the command."""
        return [self.program, "--version"]

    def has(self, image: str) -> list[str]:
        """Return a command that checks whether the image's file exists."""
        return ["test", "-e", self._file(image)]

    def pull(self, image: str) -> list[str]:
        """Return the command that downloads the image into a file.

        A name without a scheme is a Docker image, and a name without a host is on Docker Hub.
        """
        *flags, url = _source_of(image)
        return [self.program, "pull", "--force", *flags, self._part(image), url]

    def lock_folder(self) -> Path:
        """Return the folder of the image files, which machines may share."""
        return images_folder()

    def pulled(self, image: str) -> None:
        """Rename the complete file to its final name. A pull that was killed leaves no incomplete file there."""
        os.replace(self._part(image), self._file(image))

    def remove(self, image: str) -> list[str] | None:
        """Return the command that removes the image's file; None if the user provided it, or machines share it."""
        if os.path.exists(image) or os.environ.get("TOILFN_IMAGES"):
            return None
        return ["rm", "-f", self._file(image)]

    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container. See `Engine.run`."""
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
        """Return the container's variables with the prefix that Singularity requires.

        Variables with that prefix are not expanded by the shell in the container.
        """
        prefix = self.name.upper()
        given = {f"{prefix}ENV_{name}": value for name, value in request.env.items() if name != "HOME"}
        return {**given, f"{prefix}_NO_EVAL": "1"}

    def _file(self, image: str) -> str:
        if os.path.exists(image):
            return os.path.abspath(image)
        return str(images_folder() / f"{sha256(image.encode()).hexdigest()[:32]}.sif")

    def _part(self, image: str) -> str:
        """Return the name of the file during the download. It is unique to this machine.

        If machines share the folder but its file system does not support locks, two of them may download at once.
        """
        return f"{self._file(image)}.{socket.gethostname()}.part"


class Apptainer(Singularity):
    """Apptainer, the successor of Singularity; only names differ."""

    name = "apptainer"


_MIRROR = "SINGULARITY_DOCKER_HUB_MIRROR"
"""The environment variable with the URL of a registry to use instead of Docker Hub. Toil reads it, too."""


def _source_of(image: str) -> list[str]:
    """Return the options and the URL for pulling an image."""
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
    # Without these options, the container has the user's home directory with its programs, and this machine's /tmp.
    yield from ("--containall", "--workdir", request.scratch())
    yield from ("--pwd", request.working_dir)
    if "HOME" in request.env:
        yield from ("--home", f"{_source(request, request.env['HOME'])}:{request.env['HOME']}")
    for mount in request.mounts:
        yield from ("--bind", _bind_option(mount))
    if request.accelerators:
        yield "--nv"
    yield from request.options


def _source(request: Request, path: str) -> str:
    """Return the path on this machine that is mounted at a path of the container.

    Without such a mount, return a temporary directory. Singularity needs it as the source of the home directory.
    """
    for mount in request.mounts:
        if Path(path).is_relative_to(mount.target):
            return str(Path(mount.source) / Path(path).relative_to(mount.target))
    return request.scratch("home")


def _bind_option(mount: Mount) -> str:
    for path in (mount.source, mount.target):
        if ":" in path or "," in path:
            raise InputError(f"{path!r} cannot be mounted into a container: its name contains a colon or a comma")
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")


_OF_UDOCKER = re.compile(r"PATH$|HOME$|TMPDIR$|LD_|PYTHON|UDOCKER|PROOT|FAKECHROOT|.*_proxy$", re.I)
"""Names of variables that would change udocker's command itself, so they are not put into its environment."""


class Udocker(Engine):
    """udocker. A container is an unpacked copy of its image, whose program runs as a child of udocker's command."""

    name = "udocker"
    keeps_containers = False
    protects_mounts = False

    def check(self) -> list[str]:
        """Return a query for the version of the command."""
        return self._do("version")

    def has(self, image: str) -> list[str]:
        """Return a command that checks whether the image and all its layers are on this machine."""
        return self._do("inspect", image)

    def pull(self, image: str) -> list[str]:
        """Return the command that pulls the image from its registry."""
        return self._do("pull", image)

    def lock_folder(self) -> Path:
        """Return the folder of udocker's images, since machines may share the home directory with it."""
        return Path(os.environ.get("UDOCKER_DIR") or Path.home() / ".udocker")

    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container. See `Engine.run`."""
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
        return [*self._do("run", *_udocker_flags(request)), request.image, *words]

    def environment(self, request: Request) -> dict[str, str]:
        """Return the variables of the container, and the folder in which udocker unpacks it.

        Variables that would change udocker's command itself are left out.
        """
        folder = request.scratch("udocker")
        own = {"UDOCKER_CONTAINERS": folder, "UDOCKER_TMP": folder}
        return {name: value for name, value in request.env.items() if not _OF_UDOCKER.match(name)} | own

    def _do(self, *words: str) -> list[str]:
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        return [self.program, *as_root, "--quiet", *words]


def _udocker_flags(request: Request) -> Iterator[str]:
    # udocker adds a user id that the image does not have to its /etc/passwd. With a group, it would add a wrong line.
    yield f"--user={request.user or os.getuid()}"
    yield f"--workdir={request.working_dir}"
    for mount in request.mounts:
        yield f"--volume={_volume(mount)}"
    for (
        name,
        value,
    ) in request.env.items():  # by name if possible, since all users can see a command line
        yield f"--env={name}={value}" if _OF_UDOCKER.match(name) else f"--env={name}"
    if request.entrypoint is not None:
        yield "--entrypoint="  # udocker splits its value at spaces, so the entrypoint is the first word instead
    yield from request.options
    yield "--rm"  # comes last, since after an option that ends with "=", udocker takes the image's name for its value


def _volume(mount: Mount) -> str:
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
