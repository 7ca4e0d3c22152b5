"""CWL values in the store, and as cwltool wants them.

Between tasks, the ``location`` of a File or Directory object is a `toilfn.File` or a `toilfn.Directory`; only what
is in no store is a URL. cwltool wants text there: a path of this machine for what a tool is to use (`Places.local`), or
a name for what is only looked at (`Places.named`), such as the objects that an expression rearranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from cwltool.stdfsaccess import StdFsAccess
from cwltool.utils import normalizeFilesDirs
from schema_salad.ref_resolver import file_uri, uri_file_path

from toilfn.directory import Directory
from toilfn.files import File

__all__ = ["Places", "local_path", "map_objects", "objects"]

_SCHEME = "toilfn:"
_DERIVED = ("path", "dirname", "nameroot", "nameext", "http://commonwl.org/cwltool#generation")
"""Fields that cwltool fills in where it uses an object."""


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Iterate over all File and Directory objects in a value, the outer ones first."""
    if isinstance(value, Mapping):
        if value.get("class") in ("File", "Directory"):
            yield value  # type: ignore[misc]  # the mappings of documents can be changed
        for item in value.values():
            yield from objects(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from objects(item)


def map_objects(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Copy a value into plain dicts and lists, with every File and Directory object changed, the inner ones first."""
    if isinstance(value, Mapping):
        plain = {str(key): map_objects(item, change) for key, item in value.items()}
        return change(plain) if plain.get("class") in ("File", "Directory") else plain
    if isinstance(value, (list, tuple)):
        return [map_objects(item, change) for item in value]
    return value


class Places:
    """The files of some values: gives text for them, and the files for the text.

    Parameters
    ----------
    known : mapping
        Files and directories of the store, by locations in documents that stand for them.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known = dict(known or {})
        self._named: list[File | Directory] = []
        self._copies = 0

    def named(self, value: Any) -> Any:
        """Give a value with a name for each location; cwltool reads by these through `access`."""
        return _whole(map_objects(value, self._name))

    def local(self, value: Any) -> Any:
        """Give a value with a copy for each location, below the running task's temporary directory."""
        return _whole(map_objects(value, self._place))

    def stored(self, value: Any) -> Any:
        """Give a value that cwltool has made of such ones, as it is between tasks."""
        return map_objects(value, self._restore)

    def access(self, basedir: str) -> StdFsAccess:
        """Make what cwltool reads files with."""
        return _Access(basedir, self)

    def find(self, location: str) -> File | Directory | None:
        """Give what a name stands for."""
        if location in self._known:
            return self._known[location]  # type: ignore[no-any-return]
        if not location.startswith(_SCHEME):
            return None
        number, _, rest = location.removeprefix(_SCHEME).lstrip("/").partition("/")
        found = self._named[int(number)]
        _, _, inner = rest.partition("/")
        return found[unquote(inner)] if inner and isinstance(found, Directory) else found

    def _name(self, found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if isinstance(location, (File, Directory)):
            name = quote(found.get("basename") or location.name)
            found["location"] = f"{_SCHEME}///{len(self._named)}/{name}"
            self._named.append(location)
        return found

    def _place(self, found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if isinstance(location, str):
            location = self.find(location)
        if isinstance(location, (File, Directory)):
            # By number, not at random: cwltool's cache of calls knows files by their paths below the directory.
            path = location.path(f"inputs/{self._copies}/{location.name}")
            self._copies += 1
            found["location"] = file_uri(str(path))
        return found

    def _restore(self, found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if not isinstance(location, str) or location.startswith("_:"):
            found.pop("location", None)
        elif (known := self.find(location)) is not None:
            found["location"] = known
        elif location.startswith("/"):
            found["location"] = file_uri(location)
        if "location" in found and found["class"] == "Directory":
            found.pop("listing", None)
        for name in _DERIVED:
            found.pop(name, None)
        return found


class _Access(StdFsAccess):
    """Reads what names of `Places` stand for, and local files."""

    def __init__(self, basedir: str, places: Places) -> None:
        super().__init__(basedir)
        self._places = places

    def open(self, fn: str, mode: str) -> IO[Any]:
        found = self._places.find(fn)
        if not isinstance(found, File):
            return super().open(fn, mode)
        return found.open("rb") if "b" in mode else found.open("r")

    def exists(self, fn: str) -> bool:
        return self._places.find(fn) is not None or super().exists(fn)

    def size(self, fn: str) -> int:
        found = self._places.find(fn)
        return found.size if isinstance(found, File) else super().size(fn)

    def isfile(self, fn: str) -> bool:
        found = self._places.find(fn)
        return super().isfile(fn) if found is None else isinstance(found, File)

    def isdir(self, fn: str) -> bool:
        found = self._places.find(fn)
        return super().isdir(fn) if found is None else isinstance(found, Directory)

    def listdir(self, fn: str) -> list[str]:
        found = self._places.find(fn)
        if not isinstance(found, Directory):
            return super().listdir(fn)
        return [f"{fn}/{quote(entry.name)}" for entry in found]


def _whole(value: Any) -> Any:
    """Fill in what cwltool and expressions expect in objects: names and their parts, and names of literals."""
    normalizeFilesDirs(value)
    return value


def local_path(location: object) -> Path | None:
    """Give the path behind a location of this machine; None for anything else."""
    if isinstance(location, str) and location.startswith("file://"):
        return Path(uri_file_path(location))
    return None
