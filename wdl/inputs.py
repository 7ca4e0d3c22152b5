"""Read a workflow's inputs from JSON and arguments, check and import them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any

import WDL
from WDL import Error, Tree, Type

from toilfn.errors import InputError, ResourceError
from toilfn.files import transfer
from toilfn.files.exchange import Link, import_directory, import_file
from toilfn.wdl.language import binding_type
from toilfn.wdl.paths import folder_of, is_url
from toilfn.wdl.problems import WDLError, where
from toilfn.wdl.runtime import check_override
from toilfn.wdl.values import Paths, Stored, encode

__all__ = ["arguments", "empty", "encode_inputs", "read_inputs", "template"]


def read_inputs(place: str) -> dict[str, Any]:
    """Read a JSON object from a path, a URL, standard input (``-``), or a text that begins with a brace.

    Raises
    ------
    InputError
        If it is not a JSON object. The message has the position.
    """
    if place.lstrip().startswith("{"):
        return _parsed(place, "the inputs")
    if place == "-":
        return _parsed(sys.stdin.read(), "standard input")
    try:
        text = (transfer.read(place) if is_url(place) else Path(place).read_bytes()).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"input file not found: {place}") from None
    except Exception as error:  # each fsspec driver raises errors of other types
        raise InputError(f"input file {place!r} cannot be read: {error}") from error
    return _parsed(text, place)


def _parsed(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"{place}:{error.lineno}:{error.colno}: invalid JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise InputError(f"{place}: not a JSON object with names like workflow.input")
    return found


def arguments(node: Any, words: Sequence[str]) -> dict[str, Any]:
    """Parse inputs of the form ``name=value``; several values for an array are collected.

    Raises
    ------
    WDLError
        If an argument has no ``=``, or a value has the wrong type.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise WDLError(f"{word!r} is not an input", hint="write name=value")
        name = _short(node, name)
        declared = _type_of(node, name)
        if isinstance(declared, Type.Array) and not text.startswith("["):
            found.setdefault(name, []).append(_value(declared.item_type, text, name))
        else:
            found[name] = _value(declared, text, name)
    return found


def empty(node: Any, name: str) -> Any:
    """Return the empty value of an input's type.

    Raises
    ------
    WDLError
        If the type has no empty value.
    """
    declared = _type_of(node, _short(node, name))
    for kind, value in ((Type.String, ""), (Type.Array, []), (Type.Map, {})):
        if isinstance(declared, kind):
            return value
    raise WDLError(f"input {name}: {declared} cannot be empty; only String, Array and Map can")


def _value(declared: Type.Base, text: str, name: str) -> Any:
    if isinstance(declared, (Type.String, Type.File, Type.Directory)):
        return text
    try:
        return json.loads(text)
    except ValueError:
        if isinstance(declared, Type.Any):
            return text
        raise WDLError(f"input {name}: {text!r} is not a valid {declared}") from None


def _short(node: Any, name: str) -> str:
    """Remove the name of the workflow or task from an input's name."""
    return name.removeprefix(f"{node.name}.")


def _type_of(node: Any, name: str) -> Type.Base:
    available = node.available_inputs
    if name in available:
        return binding_type(available[name])
    if _is_override(node, name):
        return Type.Any()
    expanded = _expanded(available, name)
    if expanded is not None:
        return binding_type(available[expanded])
    own = [binding.name for binding in available if not binding.name.rpartition(".")[2].startswith("_")]
    near = get_close_matches(name, own, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise WDLError(f"{where(node)}: {node.name} has no input {name!r}{hint}")


def _is_override(node: Any, name: str) -> bool:
    """Return whether a name is ``[call.]runtime.attribute`` of an existing call."""
    parts = name.split(".")
    is_section = len(parts) > 1 and parts[-2] in ("runtime", "requirements", "hints")
    return is_section and isinstance(_called(node, parts[:-2]), Tree.Task)


def _check_nested(node: Any, name: str) -> None:
    """Refuse an input for a call if the document forbids them (1.1, "Computing Call Inputs")."""
    allowed = (getattr(node, "meta", None) or {}).get("allowNestedInputs")
    if "." in name and not _is_override(node, name) and isinstance(allowed, WDL.Expr.Boolean) and not allowed.value:
        raise WDLError(f"{where(allowed)}: {node.name} does not allow inputs of its calls, such as {name}")


def _called(node: Any, calls: Iterable[str]) -> Any:
    """Return the callee for a path of calls, each in the workflow that the previous one runs; None if it is wrong."""
    for name in calls:
        found = {call.name: call.callee for call in _calls(node)} if isinstance(node, Tree.Workflow) else {}
        node = found.get(name)
    return node


def _calls(section: Any) -> Iterator[Tree.Call]:
    for node in section.body:
        if isinstance(node, Tree.Call):
            yield node
        elif isinstance(node, Tree.WorkflowSection):
            yield from _calls(node)


def _expanded(available: Any, name: str) -> str | None:
    """Convert ``call.workflow.input``, as in old input files, to ``call.input``."""
    parts = name.split(".")
    short = f"{parts[0]}.{parts[-1]}"
    return short if len(parts) == 3 and name not in available and short in available else None


def encode_inputs(
    node: Any, given: Mapping[str, Any], base: str = "", *, link: Link | None = None, on_workers: bool = False
) -> dict[str, Any]:
    """Check inputs against the declarations of a workflow or task, and encode them with promises of their files.

    Parameters
    ----------
    node : WDL.Tree.Workflow or WDL.Tree.Task
    given : mapping
        Values parsed from JSON, by names with or without that of the workflow.
    base : str
        The directory or URL for relative paths that do not exist in the current directory.
    link : str
        The way of linking, as for `toilfn.import_file`.
    on_workers : bool
        Whether workers import the files.

    Raises
    ------
    WDLError
        If an input is unknown, missing, or has the wrong type.
    """
    paths = _Imports(base, link=link, on_workers=on_workers)
    found: dict[str, Any] = {}
    for full, value in given.items():
        name = _short(node, full)
        if name.startswith("#") or full.startswith("#"):
            continue
        declared = _type_of(node, name)
        _check_nested(node, name)
        name = (
            name
            if name in node.available_inputs or _is_override(node, name)
            else _expanded(node.available_inputs, name) or name
        )
        found[name] = _encoded(node, name, declared, value, paths)
    missing = [binding for binding in node.required_inputs if found.get(binding.name) is None]
    if missing:
        raise WDLError(
            "\n".join(
                f"{where(each.value)}: {node.name} needs the input {node.name}.{each.name} of type {each.value.type}"
                for each in missing
            )
        )
    return found


def _encoded(node: Any, name: str, declared: Type.Base, value: Any, paths: Paths) -> Any:
    if value is None and declared.optional:
        return None
    decl = node.available_inputs.get(name) or node
    try:
        if name not in node.available_inputs:
            section, attribute = name.split(".")[-2:]
            check_override(section, attribute, value)
        read = WDL.Value.from_json(declared, _texts(declared, value)).coerce(declared)
        return encode(read, _given_type(declared), paths)
    except (Error.RuntimeError, ResourceError, ValueError) as error:
        raise WDLError(f"{where(decl)}: input {node.name}.{name} cannot be {_shown(value)}: {error}") from None
    except FileNotFoundError as error:
        raise WDLError(f"{where(decl)}: input {node.name}.{name}: {error}") from None


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 200, placeholder=" ...")


def _texts(declared: Type.Base, value: Any) -> Any:
    """Convert numbers and booleans to text for Strings (1.1, "Type Coercion")."""
    if isinstance(declared, Type.String) and isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(declared, Type.Array) and isinstance(value, list):
        return [_texts(declared.item_type, item) for item in value]
    if isinstance(value, dict):
        return {name: _texts(_member_type(declared, name), item) for name, item in value.items()}
    return value


def _member_type(declared: Type.Base, name: str) -> Type.Base:
    if isinstance(declared, Type.Map):
        return declared.item_type[1]
    if isinstance(declared, Type.Pair):
        return {"left": declared.left_type, "right": declared.right_type}.get(name.lower(), Type.Any())
    members = getattr(declared, "members", None) or {}
    found: Type.Base = members.get(name, Type.Any())
    return found


def _given_type(declared: Type.Base) -> Type.Base:
    """Return the type of a given input, without ``?``: a named file must exist, even if the input is optional."""
    return declared.copy(optional=False)


class _Imports(Paths):
    """Paths in input files; each becomes an import."""

    def __init__(self, base: str, *, link: Link | None, on_workers: bool) -> None:
        self._base = base
        self._how: dict[str, Any] = {"link": link, "local": not on_workers}
        self._stored: dict[tuple[str, bool], Stored] = {}

    def path(self, stored: Stored) -> str:
        """Raise an error, since inputs are never decoded here."""
        raise NotImplementedError

    def known(self, path: str) -> Stored | None:
        """Return None: a String among the inputs is never a file."""
        return None

    def stored(self, path: str, *, directory: bool) -> Stored:
        """Return the promise of an import."""
        if not path:
            raise FileNotFoundError("an empty string is not a path")
        place = self._absolute(path.rstrip("/"))
        if (place, directory) not in self._stored:
            content = self._import(place, directory=directory)
            self._stored[place, directory] = Stored(content, folder_of(place))
        return self._stored[place, directory]

    def _absolute(self, path: str) -> str:
        local = transfer.local_path(path)
        if local is None or local.is_absolute():
            return path if local is None else str(local)
        if os.path.exists(path) or not self._base:
            return os.path.abspath(path)
        return f"{self._base.rstrip('/')}/{path}"

    def _import(self, place: str, *, directory: bool) -> Any:
        if not is_url(place) and not (os.path.isdir(place) if directory else os.path.exists(place)):
            raise FileNotFoundError(f"{'directory' if directory else 'file'} not found: {place}")
        if not directory and os.path.isdir(place):
            raise FileNotFoundError(f"{place} is a directory, not a File")
        name = place.rpartition("/")[2]
        try:
            if directory:
                return import_directory(place, name, **self._how)
            return import_file(place, name, **self._how)
        except InputError as error:
            raise FileNotFoundError(str(error)) from None
        except OSError as error:
            raise FileNotFoundError(f"cannot import {place}: {error}") from None


def template(node: Any, *, only_required: bool = False) -> dict[str, str]:
    """Return a template of a workflow's inputs, with types and defaults instead of values."""
    wanted = node.required_inputs if only_required else node.available_inputs
    return {
        f"{node.name}.{each.name}": _described(each.value)
        for each in wanted
        if not each.name.rpartition(".")[2].startswith("_")  # miniwdl adds such names, as ``_runtime`` for each call
    }


def _described(decl: Tree.Decl) -> str:
    return f"{decl.type}" + (f" (optional, default = {decl.expr})" if decl.expr else " (optional)" * decl.type.optional)
