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
    """A directory or file of this machine that the container sees."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Request:
    """A container to be started."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    working_dir: str = "/"
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """None: the user who runs the task, so that files that the container writes belong to that user."""
    cores: float = 0.0
    memory: int = 0
    """Bytes; 0 for no limit."""
    accelerators: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Flags that the engine gets as they are."""
    place: str | None = None
    """The directory that the engine's command runs in: some leave files there."""
    interactive: bool = False
    detach: bool = False

    def scratch(self, name: str = "") -> str:
        """Build a directory for what docker would keep in a container's own layer; it goes with `place`."""
        folder = Path(self.place or base_dir()) / ".container" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(folder)


class Engine(ABC):
    """Formulates the commands of one engine; it runs no containers.

    Parameters
    ----------
    program : str
        The path of its command.
    """

    name: ClassVar[str]
    keeps_containers: ClassVar[bool] = True
    """Whether containers have names, live on without the process that started them, and must be removed."""
    protects_mounts: ClassVar[bool] = True
    """Whether it can keep a container from writing to what is mounted into it."""

    def __init__(self, program: str) -> None:
        self.program = program

    @abstractmethod
    def check(self) -> list[str]:
        """Return the command that succeeds where the engine can be used."""

    @abstractmethod
    def has(self, image: str) -> list[str]:
        """Return the command that succeeds if the image is on this machine."""

    @abstractmethod
    def pull(self, image: str) -> list[str]:
        """Return the command that brings the image onto this machine."""

    def shelf(self) -> Path:
        """Return the directory where those who bring an image wait for each other."""
        return pulls_folder()

    def pulled(self, image: str) -> None:
        """Finish after `pull` has succeeded."""

    def remove(self, image: str) -> list[str] | None:
        """Return the command that removes the image; None if others than this user's runs may use it, too."""
        return None

    @abstractmethod
    def run(self, request: Request) -> list[str]:
        """Return the command that runs a container."""

    @abstractmethod
    def environment(self, request: Request) -> dict[str, str]:
        """Return the variables that `run` hands to the container from the environment of its command."""


def images_folder() -> Path:
    """Return the folder of image files: ``TOILFN_IMAGES``, which machines may share, or one on this machine."""
    folder = Path(os.environ.get("TOILFN_IMAGES") or base_dir() / "images").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def pulls_folder() -> Path:
    """Return where the locks of this machine's engines are."""
    folder = base_dir() / "pulls"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


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
        yield from ("--bind", _bind_option(mount))
    if request.accelerators:
        yield "--nv"
    yield from request.options


def _source(request: Request, path: str) -> str:
    """Return where a path of the container is on this machine: Singularity mounts a home wherever it is."""
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
        return [*self._do("run", *_udocker_flags(request)), request.image, *words]

    def environment(self, request: Request) -> dict[str, str]:
        """Return the options that do not change the command itself, and the place of the container while it runs."""
        folder = request.scratch("udocker")
        own = {"UDOCKER_CONTAINERS": folder, "UDOCKER_TMP": folder}
        return {name: value for name, value in request.env.items() if not _OF_UDOCKER.match(name)} | own

    def _do(self, *words: str) -> list[str]:
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        return [self.program, *as_root, "--quiet", *words]


def _udocker_flags(request: Request) -> Iterator[str]:
    # A user who is not in the image gets a line in its /etc/passwd; one with a group would get a line that is wrong.
    yield f"--user={request.user or os.getuid()}"
    yield f"--workdir={request.working_dir}"
    for mount in request.mounts:
        yield f"--volume={_volume(mount)}"
    for name, value in request.env.items():  # a value on the command line is seen by every user of the machine
        yield f"--env={name}={value}" if _OF_UDOCKER.match(name) else f"--env={name}"
    if request.entrypoint is not None:
        yield "--entrypoint="  # it is split at spaces; the first of the words is not
    yield from request.options
    yield "--rm"  # last: after a flag that ends with "=" the image's name would be taken for its value


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
