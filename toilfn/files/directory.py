"""Directories of a workflow: immutable listings of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files.file import File, new_place

__all__ = ["Directory", "arranged", "gather"]


@dataclass(frozen=True, slots=True)
class Directory:
    """An immutable tree of files in a job store.

    Tasks take and return it like any other value. Directories are created by `toilfn.import_directory`,
    and of paths of directories below the task's ``temp_dir`` that it returns. It can be iterated:
    that gives its entries, sorted by name. ``directory["sub/name"]`` is one of them, or of theirs.

    Attributes
    ----------
    name : str
        The directory's own name.
    entries : tuple of File and Directory
        Its content.
    """

    name: str
    entries: tuple[File | Directory, ...]

    def __toilfn_identity__(self) -> tuple[object, ...]:
        """The key that makes two directories the same argument: names and contents."""
        return self.name, self.entries

    def __iter__(self) -> Iterator[File | Directory]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, path: object) -> bool:
        try:
            return isinstance(path, str) and self[path] is not None
        except KeyError:
            return False

    def __getitem__(self, path: str) -> File | Directory:
        found: File | Directory = self
        for part in path.split("/"):
            entries = found.entries if isinstance(found, Directory) else ()
            match = next((entry for entry in entries if entry.name == part), None)
            if match is None:
                raise KeyError(f"{path!r} is not in the directory {self.name!r}")
            found = match
        return found

    def walk(self) -> Iterator[tuple[str, File | Directory]]:
        """Iterate over its content, at any depth, as pairs of relative path and entry; directories come first.

        Raises
        ------
        InputError
            If the name of an entry is not a valid file name, such as ``..``.
        """
        for entry in self.entries:
            confined.single(entry.name)
            yield entry.name, entry
            if isinstance(entry, Directory):
                for path, inner in entry.walk():
                    yield f"{entry.name}/{path}", inner

    def path(self, name: str | os.PathLike[str] | None = None, *, mutable: bool = False) -> Path:
        """Return a local copy of the tree.

        Parameters
        ----------
        name : path, optional
            Path of the copy; in a task, relative to its ``temp_dir``. By default a place of
            its own, which goes when the task or the script ends.
        mutable : bool
            Make private copies of the files, which may be changed; otherwise they are as `File.path` gives them.

        Returns
        -------
        Path

        Raises
        ------
        CorruptObjectError
            If a file's content is missing or is not what was written.
        FileExistsError
            If there is something at `name`.
        """
        target = new_place(self.name, name)
        target.mkdir(parents=True)
        for path, entry in self.walk():
            place = confined.inside(target, path)
            if isinstance(entry, Directory):
                place.mkdir()
            else:
                entry.path(place, mutable=mutable)
        return target

    def delete(self) -> None:
        """Delete all its files from the store, as soon as the running task is committed.

        Raises
        ------
        InputError
            If no task is running.
        """
        for _, entry in self.walk():
            if isinstance(entry, File):
                entry.delete()


def gather(path: Path, name: str, put: Callable[[Path], File], above: tuple[Path, ...] = ()) -> Directory:
    """Build a `Directory` from a local one; links in it are followed.

    Parameters
    ----------
    path : Path
        The local directory.
    name : str
        Its name.
    put : callable
        Turns a path into a `File`.
    above : tuple of Path
        The directories of the tree that contain it.

    Raises
    ------
    InputError
        If a link leads to a directory that it is in.
    """
    place = path.resolve()
    if place in above:
        raise InputError(f"{path} is a link to a directory that contains it: the tree would be infinite")
    above = (*above, place)
    entries = (
        gather(child, child.name, put, above) if child.is_dir() else put(child) for child in sorted(path.iterdir())
    )
    return Directory(name, tuple(entries))


def arranged(name: str, found: Mapping[str, File | None]) -> Directory:
    """Build a `Directory` from files by their relative paths; None stands for a directory, which may be empty."""
    folders: dict[str, dict[str, File | Directory]] = {"": {}}
    for path, file in found.items():
        if file is None:
            folders.setdefault(path, {})
        else:
            parent, _, own = path.rpartition("/")
            folders.setdefault(parent, {})[own] = file
    for path in [path for path in folders if path]:  # also directories that have no entry of their own
        while (path := path.rpartition("/")[0]) not in folders:
            folders[path] = {}
    for path in sorted(folders, key=lambda path: path.count("/"), reverse=True):
        if path:
            parent, _, own = path.rpartition("/")
            folders[parent][own] = Directory(own, _sorted(folders[path]))
    return Directory(name, _sorted(folders[""]))


def _sorted(entries: Mapping[str, File | Directory]) -> tuple[File | Directory, ...]:
    return tuple(entry for _, entry in sorted(entries.items()))
