"""The interface that each container engine implements, and the folders that engines share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from toilfn.files.scratch import base_dir

__all__ = ["Engine", "Mount", "Request", "images_folder", "pulls_folder"]


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
