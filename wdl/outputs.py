"""A workflow's outputs: its files exported, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toilfn.exchange import export
from toilfn.task import task
from toilfn.wdl.values import Entries, PathText, Stored

__all__ = ["Delivery", "as_text", "deliver"]


@dataclass(frozen=True)
class Delivery:
    """Where a run's outputs go, also if another process finishes it.

    Attributes
    ----------
    directory : str
        A path or URL.
    file : str or None
        For the JSON.
    dialect : {"cromwell", "miniwdl"}
        Whether the JSON is just the outputs, or an object with them.
    run : str
        Other for each run, since what an earlier one delivered may be gone.
    """

    directory: str
    file: str | None
    dialect: str
    run: str


@task(cores=0.1, memory="256M", local=True, version="2")
def deliver(outputs: Mapping[str, Any], name: str, delivery: Delivery) -> dict[str, Any]:
    """Export all files in outputs, each to a folder named after its output, and give the outputs as JSON has them.

    Parameters
    ----------
    outputs : mapping
        Encoded, by name.
    name : str
        The workflow's, which comes before that of each output.
    delivery : Delivery
        Where to.
    """
    full = {f"{name}.{output}": plain for output, plain in outputs.items()}
    found = {output: _json(plain, f"{delivery.directory.rstrip('/')}/{output}") for output, plain in full.items()}
    told = {"outputs": found, "dir": delivery.directory} if delivery.dialect == "miniwdl" else found
    if delivery.file is not None:
        with open(delivery.file, "w", encoding="utf-8") as stream:
            stream.write(as_text(told))
    return told


def as_text(told: Mapping[str, Any]) -> str:
    """Give outputs as a JSON text."""
    return json.dumps(told, indent=2) + "\n"


def _json(plain: Any, place: str) -> Any:
    if isinstance(plain, PathText):
        return _json(plain.file, place)
    if isinstance(plain, Stored):
        return export(plain.content, f"{place}/")
    if isinstance(plain, list):
        return [_json(item, f"{place}/{number}") for number, item in enumerate(plain)]
    if isinstance(plain, tuple):
        return {"left": _json(plain[0], f"{place}/left"), "right": _json(plain[1], f"{place}/right")}
    if isinstance(plain, Entries):
        pairs = ((_key(key), item) for key, item in plain.items)
        return {key: _json(item, f"{place}/{number}") for number, (key, item) in enumerate(pairs)}
    if isinstance(plain, dict):
        return {name: _json(item, f"{place}/{name}") for name, item in plain.items()}
    return plain


def _key(plain: Any) -> str:
    """Give a Map's key as JSON has it: its text."""
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float):
        return f"{plain:.6f}"
    if isinstance(plain, Stored):
        return f"{plain.folder}/{plain.content.name}"
    return str(plain)
