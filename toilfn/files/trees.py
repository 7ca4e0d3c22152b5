"""List directories at URLs, and see whether they have changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files.transfer import fingerprint, local_path, modified_time, open_filesystem, set_time, shown, token
from toilfn.stores.references import Source

__all__ = [
    "Listed",
    "entries_below",
    "fetch_entries",
    "fingerprint_tree",
    "names_below",
    "sources_below",
    "state_of_target",
]


class Listed(NamedTuple):
    """An entry of a directory that is not local, as a listing describes it."""

    path: str
    """Relative to the directory."""

    place: str
    """The file system's own name for it."""

    is_directory: bool
    size: int
    modified: float | None
    state: str
    """A token for its content."""


def entries_below(url: str) -> list[Listed]:
    """List the content of a directory that is not local.

    Raises
    ------
    InputError
        If there is no directory at the URL, or an entry in it is not a valid file name.
    """
    _, place = open_filesystem(url)
    return [_listed(_relative(url, path, place), path, info) for path, info in _find(url).items()]


def _listed(path: str, place: str, info: Mapping[str, Any]) -> Listed:
    is_directory = info["type"] == "directory"
    state = "" if is_directory else token(sorted(info.items()))
    return Listed(path, place, is_directory, info.get("size") or 0, modified_time(info), state)


def fetch_entries(url: str, entries: Iterable[Listed], target: Path) -> None:
    """Download files and directories below a URL that is not local into a directory that exists.

    Raises
    ------
    InputError
        If a file is missing, or the URL cannot be reached.
    """
    system, _ = open_filesystem(url)
    local = {entry: confined.inside(target, entry.path) for entry in entries}
    for entry, path in local.items():
        (path if entry.is_directory else path.parent).mkdir(parents=True, exist_ok=True)
    files = {entry: path for entry, path in local.items() if not entry.is_directory}
    try:
        if files:
            system.get([entry.place for entry in files], [str(path) for path in files.values()])
    except FileNotFoundError as error:
        raise InputError(f"cannot import {shown(url)}: a file in it is gone: {error}") from error
    for entry, path in files.items():
        set_time(path, entry.modified)


def sources_below(url: str) -> dict[str, Source | None] | None:
    """Describe all objects below a URL by one listing, as `source_of` does, by their relative paths.

    A directory in it is None. The result is None if one of the objects must be copied.

    Raises
    ------
    InputError
        If there is no directory at the URL, or an entry in it is not a valid file name.
    """
    if shown(url) != url or "::" in url:
        return None
    system, place = open_filesystem(url)
    found: dict[str, Source | None] = {}
    for path, info in _find(url).items():
        name = _relative(url, path, place)
        found[name] = None if info["type"] == "directory" else Source.described(system.unstrip_protocol(path), info)
        if info["type"] != "directory" and found[name] is None:
            return None
    return found


def names_below(url: str) -> set[str] | None:
    """List the names, relative to a URL that is not local, of all objects below it; None if that is not possible."""
    if local_path(url) is not None:
        return None
    try:
        system, place = open_filesystem(url)
        return {path[len(place.rstrip("/")) :].strip("/") for path in system.find(place)}
    except (OSError, InputError, NotImplementedError):
        return None


def fingerprint_tree(url: str) -> str:
    """Return a token for the state of a directory, without reading the files in it.

    Raises
    ------
    InputError
        If there is no directory at the URL.
    """
    path = local_path(url)
    if path is None:
        return token(sorted((name, sorted(info.items())) for name, info in _find(url).items()))
    if not path.is_dir():
        raise InputError(f"cannot import {shown(url)}: directory not found")
    return token(list(_states(path, frozenset())))


def state_of_target(url: str) -> str | None:
    """Return the fingerprint of the file or directory at an export's target; None if there is none."""
    path = local_path(url)
    if path is not None and path.is_dir():
        return fingerprint_tree(url)
    try:
        return fingerprint(url)
    except InputError:
        return None


def _find(url: str) -> dict[str, dict[str, Any]]:
    """List the content of a remote directory, with the file system's details of each entry."""
    system, place = open_filesystem(url)
    try:
        found: dict[str, dict[str, Any]] = system.find(place, withdirs=True, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        found = {}
    below = {path: info for path, info in found.items() if path.rstrip("/") != place.rstrip("/")}
    if not below and not system.isdir(place):  # in a bucket, that lists the directory again
        raise InputError(f"cannot import {shown(url)}: directory not found")
    return below


def _relative(url: str, path: str, place: str) -> str:
    """Return a listed path relative to its directory; names in archives can lead out of it."""
    try:
        if path.startswith(place):
            return confined.relative(path[len(place.rstrip("/")) :].strip("/"))
    except InputError:
        pass
    raise InputError(f"cannot import {shown(url)}: {path!r} is not the name of a file in it")


def _states(path: Path, above: frozenset[Path]) -> Iterator[tuple[str, str | None]]:
    """Iterate over the files in a directory, through links, with the state of each."""
    above = above | {path.resolve()}
    for child in sorted(path.iterdir()):
        if not child.is_dir():
            yield str(child), fingerprint(str(child))
        elif child.resolve() not in above:
            yield str(child), "directory"
            yield from _states(child, above)
