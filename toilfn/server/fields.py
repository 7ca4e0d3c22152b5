"""Fields of a form for the inputs of a document: a CWL or WDL engine lists the inputs, and texts become values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from toilfn.errors import InputError
from toilfn.server.lead import environment

__all__ = ["Described", "Field", "describe", "pairs_of", "script_params", "text_of", "text_of_pairs",
           "text_of_script_params", "value_of"]  # fmt: skip

_PATIENCE = 60
"""Maximum number of seconds for an engine to read a document."""
_MODULES = {"CWL": "toilfn.cwl.describe", "WDL": "toilfn.wdl.describe"}
_LONGEST_PROBLEM = 2000
_READING = threading.BoundedSemaphore(2)
"""Maximum number of documents to read at the same time, since each is read by a process of its own."""


class Field(NamedTuple):
    """An input of a document."""

    name: str
    type: str
    """The input's type as the document writes it, to be shown to users."""
    base: str
    """``string``, ``int``, ``float``, ``boolean``, ``enum``, ``File``, ``Directory`` or ``other``."""
    array: bool
    optional: bool
    default: str | None
    choices: Sequence[str]
    doc: str

    @property
    def is_needed(self) -> bool:
        """Whether a value must be given."""
        return not self.optional and self.default is None

    @property
    def widget(self) -> str:
        """The kind of field: ``text``, ``choice``, ``lines``, ``json`` or ``file``."""
        if self.base == "other":
            return "json"
        if self.base == "File":
            return "file"
        if self.array:
            return "lines"
        return "choice" if self.base in ("enum", "boolean") else "text"


class Described(NamedTuple):
    """A document as its engine has read it."""

    name: str
    doc: str
    fields: list[Field]
    problem: str
    """Why the document could not be read; empty if it could."""


def describe(document: str, kind: str, folder: Path) -> Described:
    """Read a document with its engine, in a separate process with a time limit.

    Parameters
    ----------
    document : str
        A path or a URL.
    kind : str
        CWL, WDL or PYTHON. The inputs of scripts are unknown, since a script declares none.
    folder : Path
        The directory in which the process runs.
    """
    name = document.rpartition("/")[2]
    if kind not in _MODULES:
        return Described(name, "", [], "")
    command = [sys.executable, "-m", _MODULES[kind], document]
    try:
        with _READING:
            done = subprocess.run(
                command, cwd=folder, env=environment(os.environ), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=_PATIENCE, check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Described(name, "", [], f"the document could not be read within {_PATIENCE} s")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return Described(name, "", [], done.stderr.decode(errors="replace").strip()[-_LONGEST_PROBLEM:])
    return Described(found["name"], found["doc"], [Field(**each) for each in found["inputs"]], "")


def value_of(field: Field, text: str, kind: str) -> Any:
    """Convert the text of a form to the value of an input.

    Parameters
    ----------
    field : Field
    text : str
        The text; empty if the user entered none.
    kind : str

    Raises
    ------
    InputError
        If the text is not a value of the input's type.
    """
    if field.base == "other" or (field.base in ("File", "Directory") and text.lstrip()[:1] in "{["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise InputError(f"{field.name}: is not JSON: {error}") from None
    if field.array:
        return [_single(field, line, kind) for line in text.splitlines() if line.strip()]
    return _single(field, text, kind)


def _single(field: Field, text: str, kind: str) -> Any:
    if field.base in ("File", "Directory"):
        place = text.strip()
        if kind == "CWL":
            return {"class": field.base, "location" if "://" in place else "path": place}
        return place
    try:
        return _READERS.get(field.base, str)(text.strip() if field.base != "string" else text)
    except (ValueError, KeyError):
        raise InputError(f"{field.name}: {text[:60]!r} is not a value of the type {field.type}") from None


_READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int, "float": float, "boolean": {"true": True, "false": False}.__getitem__,
}  # fmt: skip


def text_of(field: Field, value: Any) -> str:
    """Convert the value of an input to a text of the form; the inverse of `value_of`."""
    if value is None:
        return ""
    values = value if isinstance(value, list) else [value]
    if field.base != "other" and isinstance(value, list) == field.array and all(map(_is_plain, values)):
        return "\n".join(map(_text, values))
    return json.dumps(value, ensure_ascii=False, indent=1)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() <= {"class", "location", "path"} and bool({"location", "path"} & value.keys())
    return value is not None and not isinstance(value, list) and "\n" not in str(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        location = value.get("location")
        if "path" in value or location is None:
            return str(value["path"])
        return str(location) if "://" in location else unquote(location)
    return value if isinstance(value, str) else json.dumps(value)


def pairs_of(text: str, what: str) -> dict[str, str]:
    """Parse lines of ``NAME=VALUE`` or ``NAME``; `what` names the field in errors.

    Raises
    ------
    InputError
        If a line has no name.
    """
    pairs = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, value = (part.strip() for part in line.partition("="))
        if not name:
            raise InputError(f"{what}: {line!r} has no name", hint="write NAME or NAME=VALUE")
        pairs[name] = value
    return pairs


def text_of_pairs(pairs: Mapping[str, Any]) -> str:
    """Convert pairs to a text of the form; the inverse of `pairs_of`."""
    return "\n".join(name if value in ("", None) else f"{name}={_text(value)}" for name, value in pairs.items())


def script_params(lines: Iterable[str]) -> dict[str, Any]:
    """Parse the options of a script, one in each line: ``NAME=VALUE``, or ``NAME`` for a flag.

    The values of a repeated option form a list.

    Raises
    ------
    InputError
        If a line has no name.
    """
    params: dict[str, Any] = {}
    for line in lines:
        for name, value in pairs_of(line, "options of the script").items():
            given = value if "=" in line else None
            before = params.get(name, [])
            many = [*(before if isinstance(before, list) else [before]), given]
            params[name] = many if len(many) > 1 or name == "args" else given
    return params


def text_of_script_params(params: Mapping[str, Any]) -> str:
    """Convert the options of a script to a text of the form; the inverse of `script_params`."""
    pairs = [(name, each) for name, value in params.items() for each in (value if isinstance(value, list) else [value])]
    return "\n".join(text_of_pairs({name: None if each is True else each}) for name, each in pairs if each is not False)
