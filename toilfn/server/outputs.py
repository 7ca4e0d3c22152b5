"""The outputs of a run: found when it ends, and shown with URLs by which clients fetch files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from toilfn import confined
from toilfn.errors import InputError
from toilfn.server.records import Run

__all__ = ["collected", "shown"]

_LONGEST = 64 << 20
"""Bytes of JSON that a command may print as its outputs."""


def collected(run: Run, code: int) -> tuple[dict[str, Any] | None, str]:
    """Return the outputs of a finished command, or None; and the error in them, or an empty string."""
    kind = run.request["kind"]
    if code == 0 and kind == "PYTHON":
        return dict(_files(run)), ""
    path = run.folder / "stdout"
    if not path.exists() or (size := path.stat().st_size) == 0:
        return None, ""
    if size > _LONGEST:
        return None, f"the outputs are not shown: they are {size} bytes of JSON; read standard output"
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None, "standard output is not the JSON of outputs" if code == 0 else ""
    return (value, "") if isinstance(value, dict) else (None, "")


def _files(run: Run) -> Iterator[tuple[str, Any]]:
    top = run.outputs_folder
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = os.fspath(path.relative_to(top))
            yield name, {"class": "File", "location": path.as_uri(), "basename": path.name, "size": path.stat().st_size}


def shown(value: Any, top: Path, url: str) -> Any:
    """Return outputs with URLs of this server in the place of paths below a folder; the paths stay beside them.

    Parameters
    ----------
    value : any JSON value
    top : Path
        The folder of the run's outputs.
    url : str
        The folder's URL, with a slash at its end.
    """
    return _replaced(value, lambda text: _url(text, top, url))


def _replaced(value: Any, url_of: Callable[[str], tuple[str, str] | None]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, url_of) for each in value]
    if isinstance(value, str):
        found = url_of(value)
        return found[0] if found else value
    if not isinstance(value, dict):
        return value
    new = {key: _replaced(each, url_of) for key, each in value.items()}
    location = value.get("location")
    if value.get("class") in ("File", "Directory") and isinstance(location, str) and (found := url_of(location)):
        new["path"] = found[1]
    return new


def _url(text: str, top: Path, url: str) -> tuple[str, str] | None:
    """Return the URL and the path of a file below the folder; None for any other text."""
    path = unquote(urlsplit(text).path) if text.startswith("file://") else text
    if not path.startswith(f"{top}/"):
        return None
    try:
        name = confined.relative(path[len(str(top)) + 1 :])
    except InputError:
        return None
    return url + quote(name), path
