"""Encode WDL values as plain Python values for passing them between tasks, with files in the store instead of paths.

==========================  ===================================================
WDL                         Python
==========================  ===================================================
None                        None
Boolean, Int, Float         bool, int, float
String                      str, or `PathText` if it is the path of a known file
File, Directory             `Stored`, or `Absent` if it does not exist
Array                       list
Pair                        tuple of two
Map                         `Entries`
Struct, Object              dict
==========================  ===================================================

The WDL type of a value is not stored: the reader knows its declaration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from WDL import Type, Value

from toilfn.files.directory import Directory
from toilfn.files.file import File

__all__ = ["Absent", "Entries", "PathText", "Paths", "Stored", "decode", "encode"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A file or a directory, and its original folder.

    Files from one folder are siblings: a task that gets several of them finds them in one directory.
    """

    content: File | Directory
    folder: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A path at which nothing exists. A workflow may have such a value as long as nothing reads the file."""

    path: str
    is_directory: bool


@dataclass(frozen=True, slots=True)
class PathText:
    """The value of a String that is the path of a known file, so that the file goes where the text goes."""

    file: Stored


@dataclass(frozen=True, slots=True)
class Entries:
    """A Map: keys and values in order."""

    items: tuple[tuple[Any, Any], ...]


class Paths(ABC):
    """Maps between paths and stored files. A path means something else in a workflow than in a task."""

    @abstractmethod
    def path(self, stored: Stored) -> str:
        """Return the path for a stored file or directory."""

    @abstractmethod
    def stored(self, path: str, *, directory: bool) -> Stored:
        """Return the file or directory at a path, after storing it if necessary.

        Raises
        ------
        FileNotFoundError
            If nothing exists at the path.
        """

    @abstractmethod
    def known(self, path: str) -> Stored | None:
        """Return the file or directory for a path, if it is already in the store."""


def encode(value: Value.Base, declared: Type.Base, paths: Paths, *, strict: bool = True) -> Any:
    """Encode a WDL value; a missing file becomes None if its type allows that.

    Parameters
    ----------
    value : WDL.Value.Base
    declared : WDL.Type.Base
        The declared type.
    paths : Paths
        The meaning of paths in this evaluation.
    strict : bool
        Whether all other files must exist.

    Raises
    ------
    FileNotFoundError
        If a required file does not exist.
    """

    def inner(item: Value.Base, kind: Type.Base) -> Any:
        return encode(item, kind, paths, strict=strict)

    if isinstance(value, Value.Null):
        return None
    if isinstance(value, (Value.File, Value.Directory)):
        return _encoded_path(value, declared, paths, strict=strict)
    if isinstance(value, Value.String):
        known = paths.known(value.value)
        return value.value if known is None else PathText(known)
    if isinstance(value, Value.Array):
        item = declared.item_type if isinstance(declared, Type.Array) else Type.Any()
        return [inner(each, item) for each in value.value]
    if isinstance(value, Value.Pair):
        kinds = (declared.left_type, declared.right_type) if isinstance(declared, Type.Pair) else (Type.Any(),) * 2
        return tuple(map(inner, value.value, kinds))
    if isinstance(value, Value.Map):
        kinds = declared.item_type if isinstance(declared, Type.Map) else (Type.Any(), Type.Any())
        return Entries(tuple((inner(key, kinds[0]), inner(each, kinds[1])) for key, each in value.value))
    if isinstance(value, Value.Struct):
        members = getattr(declared, "members", None) or {}
        return {name: inner(each, members.get(name, Type.Any())) for name, each in value.value.items()}
    return value.value


def _encoded_path(value: Value.Base, declared: Type.Base, paths: Paths, *, strict: bool) -> Any:
    directory = isinstance(value, Value.Directory)
    try:
        return paths.stored(value.value, directory=directory)
    except FileNotFoundError:
        if declared.optional:
            return None
        if strict:
            raise
        return Absent(value.value, directory)


def decode(plain: Any, declared: Type.Base, paths: Paths) -> Value.Base:
    """Decode a value to a WDL value.

    Parameters
    ----------
    plain : object
        The result of `encode`.
    declared : WDL.Type.Base
        The declared type; for `WDL.Type.Any` and `WDL.Type.Object`, the type follows from the value.
    paths : Paths
        The meaning of paths in this evaluation.
    """
    if plain is None:
        return Value.Null()
    if isinstance(plain, Absent):
        return Value.Directory(plain.path) if plain.is_directory else Value.File(plain.path)
    if isinstance(plain, (Stored, PathText)):
        return _path_value(plain, paths)
    if isinstance(plain, list):
        item = declared.item_type if isinstance(declared, Type.Array) else Type.Any()
        return Value.Array(item, [decode(each, item, paths) for each in plain])
    if isinstance(plain, (tuple, Entries, dict)):
        return _compound(plain, declared, paths)
    if isinstance(plain, bool):
        return Value.Boolean(plain)
    if isinstance(plain, str):
        return Value.String(plain)
    return Value.Float(float(plain)) if isinstance(plain, float) or _is_float(declared) else Value.Int(plain)


def _is_float(declared: Type.Base) -> bool:
    return isinstance(declared, Type.Float)


def _path_value(plain: Stored | PathText, paths: Paths) -> Value.Base:
    if isinstance(plain, PathText):
        return Value.String(paths.path(plain.file))
    path = paths.path(plain)
    return Value.Directory(path) if isinstance(plain.content, Directory) else Value.File(path)


def _compound(plain: Any, declared: Type.Base, paths: Paths) -> Value.Base:
    if isinstance(plain, tuple):
        left, right = (declared.left_type, declared.right_type) if isinstance(declared, Type.Pair) else (None, None)
        pair = (decode(plain[0], left or Type.Any(), paths), decode(plain[1], right or Type.Any(), paths))
        return Value.Pair(left or pair[0].type, right or pair[1].type, pair)
    if isinstance(plain, Entries):
        key, item = declared.item_type if isinstance(declared, Type.Map) else (Type.Any(), Type.Any())
        return Value.Map((key, item), [(decode(k, key, paths), decode(v, item, paths)) for k, v in plain.items])
    members = getattr(declared, "members", None) or {}
    values = {name: decode(each, members.get(name, Type.Any()), paths) for name, each in plain.items()}
    if isinstance(declared, Type.StructInstance):
        return Value.Struct(declared, values)
    return Value.Struct(Type.Object({name: value.type for name, value in values.items()}), values)
