"""Deliver a workflow's outputs: export its files, and write the outputs as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toilfn.files.directory import Directory
from toilfn.files.exchange import Exports, left
from toilfn.files.transfer import absolute
from toilfn.graph.task import task
from toilfn.moved import relocated
from toilfn.wdl.paths import work_folder
from toilfn.wdl.problems import WDLError
from toilfn.wdl.values import Entries, PathText, Stored

__all__ = ["Delivery", "as_text", "deliver"]


@dataclass(frozen=True)
class Delivery:
    """The destination of a run's outputs, which is the same if another process finishes the run.

    Attributes
    ----------
    directory : str
        The path or URL for files.
    file : str or None
        The file for the JSON.
    dialect : {"cromwell", "miniwdl"}
        Whether the JSON is just the outputs (cromwell), or an object that contains them (miniwdl).
    is_relative : bool
        Whether files keep their paths relative to the working directory of their command; otherwise each is written to
        a folder named after its output.
    run : str
        A text unique to the run, since files that an earlier run delivered may be gone.
    how : {"copy", "move", "leave"}
        Whether files are copied, moved (leaving links in the store), or left in the store.
    """

    directory: str
    file: str | None
    dialect: str
    is_relative: bool
    run: str
    how: str = "copy"


@task(cores=0.1, memory="256M", local=True, version="2", delivers=True)
def deliver(outputs: Mapping[str, Any], name: str, delivery: Delivery) -> dict[str, Any]:
    """Export all files in outputs, and return the outputs as JSON values.

    Parameters
    ----------
    outputs : mapping
        The encoded outputs by name.
    name : str
        The name of the workflow, which is the prefix of the names of outputs.
    delivery : Delivery
        The destination.
    """
    full = {f"{name}.{output}": plain for output, plain in outputs.items()}
    delivery = replace(
        delivery, directory=absolute(delivery.directory), file=delivery.file and relocated(delivery.file)
    )
    directory = delivery.directory.rstrip("/")
    with Exports(move=delivery.how == "move") as exports:
        put = _put(directory, delivery, exports)
        found = {output: _json(plain, f"{directory}/{output}", put) for output, plain in full.items()}
    result = {"outputs": found, "dir": delivery.directory} if delivery.dialect == "miniwdl" else found
    if delivery.file is not None:
        with open(delivery.file, "w", encoding="utf-8") as stream:
            stream.write(as_text(result))
    return result


def as_text(result: Mapping[str, Any]) -> str:
    """Return outputs as a JSON text."""
    return json.dumps(result, indent=2) + "\n"


Put = Callable[[Stored, str], str]
"""Exports a file or directory for a position in the outputs; returns its path or URL."""


def _put(directory: str, delivery: Delivery, exports: Exports) -> Put:
    if delivery.how == "leave":
        return _leave
    return _where_made(directory, exports) if delivery.is_relative else _in_own_folder(exports)


def _leave(stored: Stored, place: str) -> str:
    if isinstance(stored.content, Directory):
        raise WDLError(
            f"output {stored.content.name} is a directory, which has no single location in the store",
            hint="leave out --leave-outputs",
        )
    return left(stored.content)


def _in_own_folder(exports: Exports) -> Put:
    return lambda stored, place: exports.add(stored.content, f"{place}/")


def _where_made(directory: str, exports: Exports) -> Put:
    """Return a function that keeps the paths of files relative to the working directory of their command."""
    taken: dict[str, tuple[Stored, str]] = {}

    def put(stored: Stored, place: str) -> str:
        folder = os.path.join(directory, work_folder(stored.folder))
        other, output = taken.setdefault(f"{folder}/{stored.content.name}", (stored, place))
        if other.content != stored.content:
            names = " and ".join(each.removeprefix(f"{directory}/") for each in (output, place))
            raise WDLError(f"{names} are both {stored.content.name}", hint="leave out --use-relative-output-paths")
        return exports.add(stored.content, f"{folder}/")

    return put


_PLAIN = re.compile(r"\w+")
"""Names of members that are safe as folder names; those of an Object may come from a file and be any text."""


def _json(plain: Any, place: str, put: Put) -> Any:
    if isinstance(plain, PathText):
        return put(plain.file, place)
    if isinstance(plain, Stored):
        return put(plain, place)
    if isinstance(plain, list):
        return [_json(item, f"{place}/{number}", put) for number, item in enumerate(plain)]
    if isinstance(plain, tuple):
        return {"left": _json(plain[0], f"{place}/left", put), "right": _json(plain[1], f"{place}/right", put)}
    if isinstance(plain, Entries):
        pairs = ((_key(key), item) for key, item in plain.items)
        return {key: _json(item, f"{place}/{number}", put) for number, (key, item) in enumerate(pairs)}
    if isinstance(plain, dict):
        return {
            name: _json(item, f"{place}/{name if _PLAIN.fullmatch(name) else number}", put)
            for number, (name, item) in enumerate(plain.items())
        }
    return plain


def _key(plain: Any) -> str:
    """Return a key of a Map as text, for JSON."""
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float):
        return f"{plain:.6f}"
    if isinstance(plain, Stored):
        return f"{plain.folder}/{plain.content.name}"
    return str(plain)
