"""Parameters of a script: `toilfn.params`, filled from ``--param`` and ``--params`` of `toilfn run`."""

from __future__ import annotations

import ast
import dataclasses
import enum
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from toilfn.config.sources import boolean
from toilfn.errors import InputError

__all__ = ["PARAMS_VARIABLE", "chosen", "describe", "given", "params"]

T = TypeVar("T")

PARAMS_VARIABLE = "TOILFN_PARAMS"
"""The environment variable in which `toilfn run` hands parameters to the script, as a JSON object."""

_chosen: dict[str, Any] = {}


def params(kind: type[T]) -> T:
    """Return the parameters of this run of the script.

    Parameters
    ----------
    kind : type
        A dataclass: its fields are the parameters, with their types and defaults. A text below a field is its help.

    Returns
    -------
    object
        An instance, with the values of ``toilfn run --param NAME=VALUE``, else of the files of ``--params FILE``,
        else the defaults.

    Raises
    ------
    InputError
        If a parameter is unknown, missing, or has a value of another type. The message names the parameter.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Params:
    ...     threads: int = 4
    >>> params(Params)
    Params(threads=4)
    """
    if not dataclasses.is_dataclass(kind):
        raise InputError(f"toilfn.params needs a dataclass, not {kind!r}")
    found = _handed_over()
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in found:
        if name not in fields:
            near = get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(fields) or 'none'}"
            raise InputError(f"unknown parameter {name!r}", hint=hint)
    values = {name: _read(name, value, hints[name]) for name, value in found.items()}
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"parameter {name} is required", hint=f"write --param {name}=VALUE")
    made = kind(**values)
    _chosen.clear()
    _chosen.update({name: _plain(getattr(made, name)) for name in fields})
    return made


def chosen() -> dict[str, Any]:
    """Return the values of the parameters that the script of this process has requested, as plain values."""
    return dict(_chosen)


def given(files: list[str], words: list[str]) -> dict[str, Any]:
    """Return the parameters from files and from words of the form ``NAME=VALUE``; later values take precedence.

    Raises
    ------
    InputError
        If a file cannot be read, or a word does not have that form.
    """
    values: dict[str, Any] = {}
    for path in files:
        values.update(_in_file(path))
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.replace("-", "_").isidentifier():
            raise InputError(f"--param {word}: write NAME=VALUE")
        values[name.replace("-", "_")] = text
    return values


def _in_file(path: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"parameter file not found: {path}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"parameter file {path} cannot be read: {error}") from None
    if not isinstance(content or {}, Mapping):
        raise InputError(f"parameter file {path} does not contain a mapping of names to values")
    return {str(name).replace("-", "_"): _dated(value) for name, value in (content or {}).items()}


def _dated(value: Any) -> Any:
    """Convert dates in a value, which YAML may contain, to text, since JSON has no dates."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _handed_over() -> dict[str, Any]:
    try:
        found = json.loads(os.environ.get(PARAMS_VARIABLE) or "{}")
    except ValueError as error:
        raise InputError(f"environment variable {PARAMS_VARIABLE}: invalid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"environment variable {PARAMS_VARIABLE}: not a JSON object")
    return found


def _read(name: str, value: Any, kind: Any) -> Any:
    try:
        return _as(value, kind)
    except (ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, _WrongError) else f"{value!r} is not {_named(kind)}"
        raise InputError(f"parameter {name}: {reason}") from None


class _WrongError(ValueError):
    """An error whose message explains by itself why a value is wrong."""


def _as(value: Any, kind: Any) -> Any:
    """Convert a value to a type; a text is parsed for any type, as on a command line."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(value, parts)
    if origin is typing.Literal:
        return _as_choice(value, {str(choice): choice for choice in parts})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _as_choice(value, {member.name: member for member in kind} | {str(m.value): m for m in kind})
    if origin in (list, tuple) or kind in (list, tuple):
        return _as_list(value, kind)
    if origin is dict or kind is dict:
        found = json.loads(value) if isinstance(value, str) else value
        keys, values = parts or (Any, Any)
        return {_as(key, keys): _as(item, values) for key, item in dict(found).items()}
    return _as_scalar(value, kind)


def _as_scalar(value: Any, kind: Any) -> Any:
    if kind is bool:
        return boolean(value)
    if isinstance(value, (bool, list, dict)) or value is None:
        raise ValueError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)


def _as_one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None or (value in ("none", "null", "") and str not in kinds):
        if type(None) in kinds:
            return None
        raise ValueError
    for kind in kinds:
        if kind is not type(None):
            try:
                return _as(value, kind)
            except (ValueError, TypeError):
                continue
    raise ValueError


def _as_choice(value: Any, choices: Mapping[str, Any]) -> Any:
    if str(value) not in choices:
        raise _WrongError(f"{value!r} is not one of {', '.join(choices)}")
    return choices[str(value)]


def _as_list(value: Any, kind: Any) -> Any:
    """Convert a value to a list or tuple; a text is parsed as JSON, or split at commas."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)):
        raise ValueError
    parts = typing.get_args(kind)
    items = (
        parts if parts and len(parts) == len(value) and Ellipsis not in parts else [(parts or (Any,))[0]] * len(value)
    )
    made = [_as(item, part) for item, part in zip(value, items, strict=True)]
    return tuple(made) if tuple in (kind, typing.get_origin(kind)) else made


def _named(kind: Any) -> str:
    name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
    return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(name, f"of the type {name}")


def _plain(value: Any) -> Any:
    """Convert a value to plain JSON types, for the record of a run."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def describe(script: Path) -> list[tuple[str, str, str]]:
    """Return the name, the type with the default, and the help of each parameter of a script, without running it.

    The dataclass must be in the script itself, or in a module beside it from which the script imports it.
    """
    tree = _parsed(script)
    wanted = {
        _dotted(call.args[0])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and call.args
        and (getattr(call.func, "attr", None) == "params" or getattr(call.func, "id", None) == "params")
    }
    return [entry for name in sorted(wanted - {""}) for entry in _described(name, tree, script.parent, 0)]


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _dotted(node: ast.expr) -> str:
    """Return ``name`` or ``module.name``; an empty text for other expressions."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _described(name: str, tree: ast.Module, folder: Path, depth: int) -> list[tuple[str, str, str]]:
    """Describe the fields of the class that a module calls `name`, which may be imported; those of bases come first."""
    if depth > _MOST_STEPS:
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [entry for base in node.bases for entry in _described(_dotted(base), tree, folder, depth + 1)]
            return [*bases, *_entries(node)]
    source = _source(name, tree, folder)
    return _described(source[0], _parsed(source[1]), folder, depth + 1) if source else []


def _source(name: str, tree: ast.Module, folder: Path) -> tuple[str, Path] | None:
    """Return the original name of an imported name, and the file of its module; None if the file is not in `folder`."""
    first, _, rest = name.partition(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not rest and not node.level:
            for alias in node.names:
                if first == (alias.asname or alias.name) and (path := _module(folder, node.module or "")):
                    return alias.name, path
        elif isinstance(node, ast.Import) and rest:
            for alias in node.names:
                used = alias.asname or alias.name
                if name.startswith(f"{used}.") and (path := _module(folder, alias.name)):
                    return name.removeprefix(f"{used}."), path
    return None


def _module(folder: Path, name: str) -> Path | None:
    place = folder.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if name and path.is_file()), None)


_MOST_STEPS = 10
"""Maximum length of a chain of imports and base classes to follow."""


def _entries(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)):
            continue
        help = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            help = " ".join(after.value.value.split())
        default = "required" if entry.value is None else f"default: {ast.unparse(entry.value)}"
        yield entry.target.id, f"{ast.unparse(entry.annotation)}, {default}", help
