"""A workflow's outputs: its files exported, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toilfn.exchange import export
from toilfn.task import task
from toilfn.wdl.values import Entries, PathText, Stored

__all__ = ["deliver"]


@task(cores=0.1, memory="256M", local=True, version="1")
def deliver(outputs: Mapping[str, Any], name: str, directory: str, run: str) -> dict[str, Any]:
    """Export all files in outputs, each to a folder named after its output, and give the outputs as JSON has them.

    Parameters
    ----------
    outputs : mapping
        Encoded, by name.
    name : str
        The workflow's, which comes before that of each output.
    directory : str
        A path or URL.
    run : str
        Other for each run, since what an earlier one delivered may be gone.
    """
    full = {f"{name}.{output}": plain for output, plain in outputs.items()}
    return {output: _json(plain, f"{directory.rstrip('/')}/{output}") for output, plain in full.items()}


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
