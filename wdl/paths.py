"""The paths of Files and Directories while expressions are evaluated.

In a workflow's own expressions, a path is only a name, and files are fetched only when they are read. In a task, inputs
are links in a directory of the attempt, which has the same path in the command's container.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from toilfn import current, import_directory, import_file
from toilfn.errors import InputError
from toilfn.files.directory import Directory, gather
from toilfn.files.file import File, needed_task_files, write_file
from toilfn.files.transfer import local_path
from toilfn.wdl.values import Entries, Paths, PathText, Stored

__all__ = [
    "TaskPaths", "WorkflowPaths", "all_stored", "folder_of", "is_url", "made_in", "numbered", "work_folder",
]  # fmt: skip

_MADE = "/toilfn"
"""The prefix of the folders of files created by tasks, in a workflow's expressions."""


_MOST_MOUNTS = 500
"""Maximum number of inputs that each get a read-only mount. An engine needs about two milliseconds for each mount."""


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def folder_of(path: str) -> str:
    """Return the normalized folder of a path or URL. Files with the same folder are siblings; it contains no ``..``."""
    folder = path.rstrip("/").rpartition("/")[0]
    return folder if is_url(path) or not folder else os.path.normpath(folder)


def made_in(place: str) -> str:
    """Return the folder name for files that the running task creates in a relative directory."""
    return os.path.normpath(os.path.join(_MADE, current().id, place))


def work_folder(folder: str) -> str:
    """Return the directory, relative to the command's working directory, in a folder name of `made_in`; else empty."""
    parts = folder.removeprefix(f"{_MADE}/").split("/")
    return "/".join(parts[2:]) if folder.startswith(f"{_MADE}/") and parts[1:2] == ["work"] else ""


def all_stored(plain: Any) -> Iterable[Stored]:
    """Iterate over the files and directories in an encoded value."""
    if isinstance(plain, Stored):
        yield plain
    elif isinstance(plain, PathText):
        yield plain.file
    elif isinstance(plain, Entries):
        yield from all_stored(plain.items)
    elif isinstance(plain, (list, tuple)):
        for item in plain:
            yield from all_stored(item)
    elif isinstance(plain, dict):
        yield from all_stored(list(plain.values()))


class WorkflowPaths(Paths):
    """Paths in a workflow's expressions: the original folder of a file, and its name.

    Parameters
    ----------
    source_dir : str
        The base of relative paths: the directory or URL of the document.
    """

    def __init__(self, source_dir: str = "") -> None:
        self._source_dir = source_dir
        self._known: dict[str, Stored] = {}
        self._written = 0

    def path(self, stored: Stored) -> str:
        """Return a unique path for a stored file or directory."""
        folder = stored.folder.rstrip("/")
        path, number = f"{folder}/{stored.content.name}", 1
        while self._known.setdefault(path, stored) != stored:
            number += 1
            path = f"{folder}/{number}/{stored.content.name}"
        return path

    def known(self, path: str) -> Stored | None:
        """Look up a path, which may also be inside a known directory."""
        path = path if path == "/" else path.rstrip("/")
        return self._known.get(path) or _inside(self._known, path)

    def stored(self, path: str, *, directory: bool) -> Stored:
        """Look up a path, or import it from the leader's machine if it is unknown."""
        found = self.known(path)
        if found is None:
            found = self._import(path, directory=directory)
            self._known[path.rstrip("/")] = found
        return found

    def _import(self, path: str, *, directory: bool) -> Stored:
        if not is_url(path):
            path = os.path.join(self._source_dir or os.getcwd(), path)
        if path.startswith(f"{_MADE}/"):
            raise FileNotFoundError(path)
        return _imported(path, directory=directory)

    def local(self, path: str) -> Path:
        """Return a local copy of the file or directory at a path."""
        return self.stored(path, directory=path.endswith("/")).content.path()

    def size(self, path: str) -> int:
        """Return the size in bytes of a file, or of all files in a directory, without reading them."""
        return _bytes(self.stored(path, directory=path.endswith("/")).content)

    def draft(self, name: str) -> Path:
        """Return a local path for a new file; call `written` after writing it."""
        self._written += 1
        folder = current().temp_dir / "written" / str(self._written)
        folder.mkdir(parents=True)
        return folder / name

    def written(self, draft: Path) -> str:
        """Store a new file, and return its path in expressions."""
        return self.path(Stored(write_file(draft), made_in(f"written/{draft.parent.name}")))


class TaskPaths(Paths):
    """Paths in a task: local paths.

    Parameters
    ----------
    place : Path
        An empty directory of the attempt.
    inputs : iterable of Stored
        All inputs of the task, which are linked into the directory immediately.
    copy : bool
        Whether to make copies instead, which the command may change.
    mount_points : iterable of str
        Mount points of disks in the command's container.
    source_dir : str
        The directory or URL of the document.

    Attributes
    ----------
    inputs, work : Path
        The directory of the inputs, and the working directory of the command.
    beside : str
        The base of relative paths that do not exist in the working directory: `source_dir` until the command has run.
    has_run : bool
        Whether the command has run: then files no longer change, and are linked into the store.
    disks : dict
        The local directory for each mount point.
    """

    def __init__(
        self,
        place: Path,
        inputs: Iterable[Stored],
        *,
        copy: bool = False,
        mount_points: Iterable[str] = (),
        source_dir: str = "",
    ) -> None:
        self.place = place
        self.beside = source_dir
        self.has_run = False
        self.inputs, self.work = place / "inputs", place / "work"
        self.inputs.mkdir()
        self.work.mkdir()
        self.disks = {os.path.normpath(point): place / "disks" / str(i) for i, point in enumerate(mount_points)}
        for folder in self.disks.values():
            folder.mkdir(parents=True)
        self._copy = copy
        self._known: dict[str, Stored] = {}
        self._places: dict[Stored, str] = {}
        self._remote: dict[str, Stored] = {}
        self._written = 0
        found = list(dict.fromkeys(inputs))
        self._folders = numbered(item.folder for item in found)
        for item in sorted(found, key=lambda item: (item.folder, item.content.name)):
            self.path(item)

    def path(self, stored: Stored) -> str:
        """Return the path of an input, and link it into the directory if it is not there yet."""
        if stored not in self._places:
            self._places[stored] = self._put(stored)
            self._known[self._places[stored]] = stored
        return self._places[stored]

    def _put(self, stored: Stored) -> str:
        folder = self.inputs / self._folders.setdefault(stored.folder, str(len(self._folders)))
        target = folder / stored.content.name
        taken = _inside(self._known, str(target)) or self._known.get(str(target))
        if taken is not None and _same(taken.content) == _same(stored.content):
            return str(target)
        if target.exists():  # same folder and name, created by different attempts
            target = self.inputs / f"other-{len(self._places)}" / stored.content.name
        target.parent.mkdir(parents=True, exist_ok=True)
        stored.content.path(target, mutable=self._copy)
        return str(target)

    def end_command(self) -> None:
        """Record that the command has run: its files are final, and relative paths refer to its working directory."""
        self.beside, self.has_run = "", True

    def protected(self) -> list[Path]:
        """Return the paths that a command in a container must not change: its inputs, but not their folders.

        If there are more than `_MOST_MOUNTS` inputs, or an engine cannot mount one because of its name, the result is
        the whole directory of inputs.
        """
        places = sorted(Path(place) for place in self._places.values() if Path(place).is_relative_to(self.inputs))
        if len(places) > _MOST_MOUNTS or any(character in str(place) for place in places for character in ',":'):
            return [self.inputs]
        return places

    def known(self, path: str) -> Stored | None:
        """Look up an input."""
        path = os.path.normpath(path)
        return self._known.get(path) or _inside(self._known, path)

    def stored(self, path: str, *, directory: bool) -> Stored:
        """Look up an input, or store a file created by the command; paths are relative to the working directory."""
        found = self.known(self._absolute(path))
        if found is None:
            place = self.local(path, directory=directory)
            found = self.known(str(place))
        if found is None:
            found = self._linked(place) or self._store(place, directory=directory)
            self._places[found] = str(place)
            self._known[str(place)] = found
        return found

    def _linked(self, place: Path) -> Stored | None:
        """Return the input that a link points to, under the link's name, since its content is already in the store."""
        source = self.known(str(place.resolve())) if place.is_symlink() else None
        return source and Stored(replace(source.content, name=place.name), self._made_in(place))

    def _made_in(self, place: Path) -> str:
        """Return the folder name of a created file; a file created next to an input, such as its index, stays there."""
        beside = os.path.relpath(place.parent, self.inputs)
        folders = (folder for folder, short in self._folders.items() if short == beside)
        return next(folders, None) or made_in(os.path.relpath(place.parent, self.place))

    def _absolute(self, path: str) -> str:
        path = os.path.normpath(self.work / path)
        for point, folder in self.disks.items():
            if Path(path).is_relative_to(point):
                return str(folder / Path(path).relative_to(point))
        return path

    def _store(self, place: Path, *, directory: bool) -> Stored:
        if place.is_dir() is not directory:
            wanted = "a directory" if directory else "a file"
            raise NotADirectoryError(f"{place.relative_to(self.work)} is not {wanted}")
        if directory:
            self._check_link(place)
        content = gather(place, place.name, self._write) if directory else self._write(place)
        return Stored(content, self._made_in(place))

    def _write(self, place: Path) -> File:
        self._check_link(place)
        return needed_task_files("an output").put(place, share=self.has_run)

    def _check_link(self, place: Path) -> None:
        """Refuse a link that is broken or leads out of the attempt's directory: in a container, it may differ."""
        target = place.resolve()
        if not target.exists() or not target.is_relative_to(self.place.resolve()):
            name = os.path.relpath(place, self.work)
            raise InputError(f"output {name} is a symlink to {target}, which the command did not create")

    def local(self, path: str, *, directory: bool = False) -> Path:
        """Return the local path of an existing file or directory.

        Raises
        ------
        FileNotFoundError
            If it does not exist, or is outside the attempt's directory.
        """
        if is_url(path) and self.beside and local_path(path) is None:
            return self._downloaded(path, directory=directory)
        place = Path(self._absolute(path))
        if place.is_relative_to(self.place) and place.exists():
            return place
        if not place.is_relative_to(self.place):
            raise FileNotFoundError(f"{path} in the task's working directory")
        if not self.beside or not place.is_relative_to(self.work):
            raise FileNotFoundError(path)
        source = os.path.join(self.beside, place.relative_to(self.work))
        return Path(self.path(_imported(source, directory=directory)))

    def _downloaded(self, url: str, *, directory: bool) -> Path:
        """Return the local path of a file or directory whose URL is in the document's own expressions."""
        if url not in self._remote:
            self._remote[url] = _imported(url, directory=directory)
        return Path(self.path(self._remote[url]))

    def resolved(self, path: str) -> str:
        """Return the local path for a relative path, or the path unchanged if nothing exists there."""
        try:
            return str(self.local(path, directory=path.endswith("/")))
        except FileNotFoundError:
            return path

    def size(self, path: str) -> int:
        """Return the size in bytes of a file, or of all files in a directory."""
        place = self.local(path)
        if place.is_dir():
            return sum(child.stat().st_size for child in place.rglob("*") if child.is_file())
        return place.stat().st_size

    def draft(self, name: str) -> Path:
        """Return the path for a new file."""
        self._written += 1
        folder = self.place / "written" / str(self._written)
        folder.mkdir(parents=True)
        return folder / name

    def written(self, draft: Path) -> str:
        """Return the path of a new file."""
        return str(draft)


def _imported(path: str, *, directory: bool) -> Stored:
    name = path.rstrip("/").rpartition("/")[2]
    try:
        content = import_directory(path, name) if directory else import_file(path, name)
    except (InputError, OSError) as error:
        is_there = is_url(path) or os.path.exists(path)
        raise FileNotFoundError(f"{path}: {error}" if is_there else path) from error
    return Stored(content, folder_of(path))


def _inside(known: dict[str, Stored], path: str) -> Stored | None:
    """Find an entry of a known directory."""
    above, _, rest = path.rpartition("/")
    while above:
        holder = known.get(above)
        if holder is not None:
            return _entry(holder, above, rest)
        above, _, name = above.rpartition("/")
        rest = f"{name}/{rest}"
    return None


def _entry(holder: Stored, above: str, rest: str) -> Stored | None:
    if not isinstance(holder.content, Directory) or rest not in holder.content:
        return None
    folder = os.path.dirname(f"{holder.folder}/{holder.content.name}/{rest}")
    return Stored(holder.content[rest], folder)


def _same(content: File | Directory) -> object:
    """Return a key that is equal for files or directories with the same name and content."""
    if isinstance(content, File):
        return content.name, content.size, content.checksum
    return content.name, [_same(entry) for entry in content.entries]


def _bytes(content: File | Directory) -> int:
    if isinstance(content, File):
        return content.size
    return sum(entry.size for _, entry in content.walk() if isinstance(entry, File))


def numbered(folders: Iterable[str]) -> dict[str, str]:
    """Return a short path for each folder: a number, or for a folder inside another one, a path below its number."""
    short: dict[str, str] = {}
    for folder in sorted(set(folders)):
        above = next((known for known in sorted(short, key=len, reverse=True) if folder.startswith(f"{known}/")), None)
        short[folder] = str(len(short)) if above is None else f"{short[above]}/{folder[len(above) + 1 :]}"
    return short
