"""Find the files that a client must upload with a workflow: those to which the document and its inputs refer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from toilfn.errors import InputError

__all__ = ["Upload", "kind_by_name", "upload_of", "version_of"]

_KINDS = {".cwl": "CWL", ".json": "CWL", ".yml": "CWL", ".yaml": "CWL", ".wdl": "WDL", ".py": "PYTHON"}
_VERSIONS = {"CWL": "v1.2", "WDL": "1.0", "PYTHON": "3"}
_IMPORT = re.compile(r"""^\s*import\s+["']([^"']+)["']""", re.MULTILINE)
_VERSION = re.compile(r"""^\s*["']?cwlVersion["']?\s*:\s*["']?(v\d\.\d)|^\s*version\s+(\S+)""", re.MULTILINE)


class Upload(NamedTuple):
    """A workflow in the form in which a client sends it."""

    kind: str
    version: str
    url: str
    params: dict[str, Any]
    files: list[tuple[str, Path]]
    """The attachments: their names on the server, and their paths on this machine."""


def upload_of(workflow: str, inputs: str | None, attached: Sequence[str], *, kind: str | None = None) -> Upload:
    """Find the files that a workflow needs.

    Parameters
    ----------
    workflow : str
        A path or a URL; a path may end with ``#`` and the name of a part.
    inputs : str, optional
        A file in JSON or YAML. Paths in it are relative to it.
    attached : sequence of str
        Additional files and folders.
    kind : str, optional
        CWL, WDL or PYTHON. Default: the kind that the suffix of the name indicates.

    Raises
    ------
    InputError
        If a file cannot be read, or the kind is unknown.
    """
    path, _, fragment = workflow.partition("#")
    path = unquote(urlsplit(path).path) if path.startswith("file://") else path
    found_kind = kind or kind_by_name(urlsplit(path).path)
    if found_kind is None:
        raise InputError(
            f"{workflow}: cannot determine whether this is CWL, WDL or Python",
            hint="the name must end with .cwl, .wdl or .py",
        )
    files: set[Path] = set()
    version = version_of("", found_kind)
    is_remote = "://" in path
    document = Path()
    if not is_remote:
        document = _existing(path)
        files |= {document, *_beside(document, found_kind)}
        version = version_of(document.read_text(errors="replace"), found_kind)
    given, base = _inputs(inputs)
    referred = [(holder, key, _local(base, holder[key])) for holder, key in _places(given)]
    files |= {file for _, _, file in referred if file is not None and file.is_file()}
    if found_kind == "CWL":
        files |= {other for _, _, file in referred if file is not None and file.is_file() for other in _secondary(file)}
    folders = [file for _, _, file in referred if file is not None and file.is_dir()]
    for name in attached:
        place = Path(os.path.abspath(name))
        (folders if place.is_dir() else []).append(place)
        files |= set() if place.is_dir() else {_existing(name)}
    files |= {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    top = Path(os.path.commonpath([*(file.parent for file in files), *folders])) if files or folders else Path("/")
    for holder, key, file in referred:
        if file is not None:
            name = file.relative_to(top).as_posix()
            holder[key] = quote(name) if key == "location" else name
    url = workflow if is_remote else quote(document.relative_to(top).as_posix()) + (f"#{fragment}" if fragment else "")
    return Upload(found_kind, version, url, given, [(f.relative_to(top).as_posix(), f) for f in sorted(files)])


def kind_by_name(name: str) -> str | None:
    """Return the kind of a document by the suffix of its name; None if the suffix is unknown."""
    return _KINDS.get(os.path.splitext(name)[1].lower())


def version_of(text: str, kind: str) -> str:
    """Return the version that a document declares, else the default version of its kind."""
    match = _VERSION.search(text) if kind != "PYTHON" else None
    return (match[1] or match[2]) if match else _VERSIONS[kind]


def _existing(name: str) -> Path:
    path = Path(os.path.abspath(unquote(name.removeprefix("file://")) if name.startswith("file://") else name))
    if not path.is_file():
        raise InputError(f"file not found: {name}")
    return path


def _inputs(name: str | None) -> tuple[dict[str, Any], Path]:
    if name is None:
        return {}, Path.cwd()
    path = _existing(name)
    text = path.read_text()
    try:
        value = json.loads(text)
    except ValueError:
        value = _yaml(text, name)
    if not isinstance(value, dict):
        raise InputError(f"{name}: the inputs must be a mapping")
    return value, path.parent


def _yaml(text: str, name: str) -> Any:
    try:
        from ruamel.yaml import YAML  # what cwltool reads YAML with
    except ImportError:
        raise InputError(
            f"{name} is not JSON, and reading YAML needs an optional package", hint="pip install ruamel.yaml"
        ) from None
    try:
        return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))
    except Exception as error:  # the errors of ruamel.yaml have no common base class
        raise InputError(f"{name} cannot be read: {error}") from None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the places in the inputs that may name a file, each as a container and a key.

    CWL names files in objects; other inputs are plain strings.
    """
    if isinstance(value, list):
        for index, each in enumerate(value):
            if isinstance(each, str):
                yield value, index
            else:
                yield from _places(each)
    elif isinstance(value, dict) and value.get("class") in ("File", "Directory"):
        yield from ((value, key) for key in ("location", "path") if isinstance(value.get(key), str))
        for key in ("secondaryFiles", "listing"):
            yield from _places(value.get(key))
    elif isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, str):
                yield value, key
            else:
                yield from _places(each)


def _local(base: Path, text: str) -> Path | None:
    """Return the local file or folder that a text names; None if it names none."""
    if "\n" in text or len(text) > 4000 or "\0" in text or not text:
        return None
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif "://" in text:
        return None
    for name in (text, unquote(text)):
        path = Path(os.path.abspath(base / name))
        if path.exists() and path != base:
            return path
    return None


def _beside(document: Path, kind: str) -> Iterable[Path]:
    """Return the files that a document refers to, directly or through other files."""
    if kind == "PYTHON":
        return set()
    found: set[Path] = set()
    left = [document]
    while left:
        path = left.pop()
        for other in _imports(path) if kind == "WDL" else _mentioned(path):
            if other not in found and other != document:
                found.add(other)
                left.append(other)
    return found


def _imports(path: Path) -> Iterator[Path]:
    for name in _IMPORT.findall(path.read_text(errors="replace")):
        if "://" not in name and (other := Path(os.path.abspath(path.parent / name))).is_file():
            yield other


_REFERENCES = ("run", "$import", "$include", "$mixin", "$schemas", "location", "path")
"""Members of CWL documents that name other files."""


def _mentioned(path: Path) -> Iterator[Path]:
    """Yield the files and folders that a CWL document names."""
    if path.suffix.lower() not in (".cwl", ".json", ".yml", ".yaml"):
        return
    for name in _names(_yaml(path.read_text(), str(path))):
        other = _local(path.parent, name.partition("#")[0])
        if other is not None and other.is_file():
            yield from (other, *_secondary(other))
        elif other is not None and not path.is_relative_to(other):
            yield from (each for each in other.rglob("*") if each.is_file())


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _names(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            named = each if isinstance(each, list) else [each]
            yield from (name for name in named if key in _REFERENCES and isinstance(name, str))
            yield from _names(each)


def _secondary(path: Path) -> Iterable[Path]:
    """Return the files that may be secondary files of a file: their names begin with its name."""
    return (each for each in path.parent.glob(f"{escape(path.name)}.*") if each.is_file())
