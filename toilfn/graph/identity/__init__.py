"""The identity of functions, values, calls and tasks, across processes, machines and runs.

A task is what it computes: the digest of its function (with all of the user's own code that the
function leads to), the digest of its arguments (with the ids of the promises among them), the
call that made it, and its ordinal among identical calls.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.errors import SerializationError
from toilfn.graph.identity.canonical import Encoder, digest
from toilfn.graph.identity.contents import Tree, TreeTooLargeError, content_of, tree_of
from toilfn.graph.identity.functions import NOT_COMPARED, Reach, part_text
from toilfn.graph.identity.modules import is_own
from toilfn.graph.structure import ATOMS
from toilfn.ids import TaskId

__all__ = [
    "FOLDER",
    "NOT_COMPARED",
    "Codes",
    "Identity",
    "arguments_digest",
    "arguments_identity",
    "function_identity",
    "lineage",
    "task_id",
    "value_identity",
]

FOLDER = "files in "
"""How the names of the parts begin that stand for the contents of a folder among a task's arguments."""

_ALL_ATOMS = ATOMS.issuperset
_SHORT = 40
"""Characters: shorter arguments are their own parts."""
_POSITIONS = tuple(map(str, range(_SHORT)))


class Identity(NamedTuple):
    """A digest, and the parts that went into it."""

    digest: bytes
    """Sixteen bytes."""
    parts: dict[str, str]
    """For `toilfn explain`: digests in hexadecimal, and short values as Python writes them."""


class Codes:
    """The identities of functions, and of code and files among arguments; each is computed once for one graph.

    Parameters
    ----------
    fixed : mapping of str to str
        Parts of the identity of the task that makes the graph: values of modules count as they were when it was
        identified, since the tasks that have run in this process may have changed them.
    """

    def __init__(self, fixed: Mapping[str, str] | None = None) -> None:
        self._fixed = fixed or {}
        self._values: dict[int, tuple[Any, bytes]] = {}
        self._functions: dict[tuple[int, str | None], tuple[Any, Identity]] = {}
        self._found: dict[int, tuple[Any, bytes]] = {}
        self._files: dict[Path, str] = {}
        self._trees: dict[Path, Tree] = {}
        self.not_compared: dict[str, str] = {}
        """Names of opaque objects, each with its type."""

    def of_function(self, function: Callable[..., Any], version: str | None = None) -> Identity:
        """Identify a function as `function_identity` does."""
        key = id(function), version
        if key not in self._functions:
            if len(self._functions) > _MOST_KEPT:
                self._functions.clear()
            # Holds the function too: an id is unique only as long as its object lives.
            self._functions[key] = function, self._identify(function, version)
        return self._functions[key][1]

    def set_function(self, function: Callable[..., Any], version: str | None, identity: Identity) -> None:
        """Set an identity that is known already."""
        self._functions[id(function), version] = function, identity

    def of_code(self, value: Any) -> bytes:
        """Identify a function, class, module or task that is part of a value."""
        if isinstance(value, type) and not is_own(value.__module__):
            return _installed(value)
        if id(value) not in self._found:
            if len(self._found) > _MOST_KEPT:
                self._found.clear()
            reach = self._reach()
            parts = {"value": reach.follow(value).hex(), **reach.parts}
            self._note(parts)
            self._found[id(value)] = value, _digest_parts(parts)
        return self._found[id(value)][1]

    def of_file(self, path: Path) -> str:
        """Identify the content of a file, or of everything in a folder; other paths count by their names."""
        content = self._files.get(path)
        if content is None:
            content = self._files[path] = self._of_folder(path) if os.path.isdir(path) else content_of(path)
        return content

    def _of_folder(self, path: Path) -> str:
        try:
            tree = self._trees[path] = tree_of(path)
        except TreeTooLargeError as error:
            self.not_compared[str(path)] = f"{error}: import_directory makes its files count"
            return ""
        return tree.digest

    def folders_in(self, value: Any) -> dict[Path, Tree]:
        """Return the folders among a call's arguments that count by their contents."""
        if not self._trees:
            return {}
        found: dict[Path, Tree] = {}
        Encoder(lambda _: b"", lambda _: b"", lambda path: self._see(path, found)).encode(value)
        return found

    def _see(self, path: Path, found: dict[Path, Tree]) -> str:
        if path in self._trees:
            found[path] = self._trees[path]
        return ""

    def tree(self, folder: Path) -> Tree:
        """Return the contents of a folder that counts by them."""
        return self._trees[folder]

    def forget_files(self) -> None:
        """Forget files that have changed, so that they are read again: tasks write files while a worker lives."""
        self._files.clear()
        self._trees.clear()

    def _reach(self) -> Reach:
        return Reach(fixed=self._fixed, values=self._values)

    def _note(self, parts: Mapping[str, str]) -> None:
        found = {key.removeprefix(NOT_COMPARED): what for key, what in parts.items() if key.startswith(NOT_COMPARED)}
        self.not_compared.update(found)

    def _identify(self, function: Callable[..., Any], version: str | None) -> Identity:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        if version is not None:
            parts = {"name": f"{getattr(function, '__module__', '')}.{name}", "version": version}
            # The names of the parameters are for `toilfn explain` alone.
            return Identity(_digest_parts(parts), {**parts, "parameters": _parameters(function)})
        reach = self._reach()
        if isinstance(function, types.FunctionType):
            reach.add_function(function, name)
        else:
            reach.parts["body"] = digest(reach.follow(function)).hex()
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        parts = {"name": name, "python": python, "parameters": _parameters(function), **reach.parts}
        self._note(parts)
        return Identity(_digest_parts(parts), parts)


_MOST_KEPT = 10_000


@functools.lru_cache(4096)
def _installed(cls: type) -> bytes:
    return _digest_parts({"value": Reach().follow(cls).hex()})


def function_identity(function: Callable[..., Any], version: str | None = None) -> Identity:
    """Identify a function by what it does.

    Parameters
    ----------
    function : callable
        A function, method, partial, class or an object that can be called.
    version : str, optional
        Stands for all of the function's code: only this and its name count.

    Returns
    -------
    Identity
        Over the bytecode, defaults, closure, and all functions, classes, modules and values of the user's own that
        these lead to. Code that is installed counts by its name only. An opaque object, such as a lock, is
        named among the parts.

    Raises
    ------
    SerializationError
        If it is an object, or the method of one, that has no identity that outlives the process.
    """
    return Codes().of_function(function, version)


def value_identity(value: Any) -> bytes:
    """Identify a value: sixteen bytes, equal in all processes for values that are the same.

    Types count (``1``, ``1.0`` and ``True`` differ); the order of sets and dicts, and the layout of arrays in memory,
    do not.

    Raises
    ------
    SerializationError
        If something in it has no identity that outlives the process, such as a lock or a promise.
    """
    return digest(Encoder(_refuse_promise, Codes().of_code).encode(value))


def arguments_digest(
    args: Sequence[Any], kwargs: Mapping[str, Any], promise_id: Callable[[Any], bytes], codes: Codes | None = None
) -> bytes:
    """Return the digest that `arguments_identity` returns, without computing the parts."""
    if not kwargs and _ALL_ATOMS(map(type, args)):
        text = _text(args)
        if len(text) <= _SHORT:
            return digest(text.encode())
    return arguments_identity(args, kwargs, promise_id, codes)[0]


def arguments_identity(
    args: Sequence[Any], kwargs: Mapping[str, Any], promise_id: Callable[[Any], bytes], codes: Codes | None = None
) -> tuple[bytes, dict[str, str]]:
    """Identify the arguments of a call.

    Parameters
    ----------
    args, kwargs : tuple, dict
    promise_id : callable
        Returns the bytes that stand for a promise: its task's id and its selection.
    codes : Codes, optional
        The known digests of code and files. A `pathlib.Path` of a file counts by the file's content, too.

    Returns
    -------
    bytes
        Sixteen bytes.
    dict of str to str
        One part for each argument, by position (``"0"``) or name.

    Raises
    ------
    SerializationError
        If an argument has no identity that outlives the process; names its type and place.
    """
    if not kwargs and _ALL_ATOMS(map(type, args)):
        text = _text(args)
        if len(text) <= _SHORT:
            return digest(text.encode()), {_POSITIONS[i]: repr(value) for i, value in enumerate(args)}
    codes = codes or Codes()
    encoder = Encoder(promise_id, codes.of_code, codes.of_file)
    parts, encoded = {}, []
    for key, place, value in _named(args, kwargs):
        data = encoder.encode(value, place)
        parts[key] = part_text(value, data)
        encoded.append(b"%d:%s=%d:%s" % (len(key), key.encode(), len(data), data))
    return digest(b"\0arguments" + b"".join(encoded)), parts


def _text(args: Sequence[Any]) -> str:
    try:
        return repr(args)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return " " * (_SHORT + 1)


def task_id(function_digest: bytes, arguments_digest: bytes, lineage: bytes, ordinal: int) -> TaskId:
    """Identify one call; `lineage` is that of the task that makes the call, and empty in a script."""
    return digest(b"task" + function_digest + arguments_digest + lineage + b"%d" % ordinal)


def lineage(parent_lineage: bytes, function_name: str, arguments_digest: bytes, ordinal: int) -> bytes:
    """Return the bytes that stand for a call in its children's ids.

    The function's body is left out, so that editing a function does not run unchanged children of it again. So are
    positional arguments of types that have ``__toilfn_lineage__ = False``: children that these do not reach stay the
    same. The user of such a type makes sure that no two calls of one parent differ by such an argument only.
    """
    return digest(b"call" + parent_lineage + arguments_digest + b"%d " % ordinal + function_name.encode())


def _named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    positional = [(str(i), f"args[{i}]", value) for i, value in enumerate(args)]
    return positional + [(key, f"argument {key}", kwargs[key]) for key in sorted(kwargs)]


def _digest_parts(parts: Mapping[str, str]) -> bytes:
    counted = (item for item in parts.items() if not item[0].startswith(NOT_COMPARED))
    return digest(repr(sorted(counted)).encode())


def _parameters(function: Callable[..., Any]) -> str:
    try:
        return ", ".join(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ""


def _refuse_promise(promise: Any) -> bytes:
    raise SerializationError(
        f"{promise!r} cannot be hashed before its task is recorded", hint="pass it as an argument of a task"
    )
