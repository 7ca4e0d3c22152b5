"""Workflows in one zip archive, as the Amazon Genomics CLI sends them.

An archive has one of these forms: a single document; ``main.cwl`` or ``main.wdl`` with whatever it needs; or a
``MANIFEST.json`` that names the document, and maybe a file of inputs and one of options.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from toilfn import confined
from toilfn.errors import InputError

__all__ = ["Limits", "Unpacked", "unpack"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How much a request may bring. Sizes are in bytes.

    Attributes
    ----------
    field : int
        Of each field that is not a file.
    file, total : int
        The largest size of each attachment, and of all of them; also of the content of an archive.
    files : int
        How many attachments there may be, and how many files in an archive.
    """

    field: int = 16 << 20
    file: int = 10 << 30
    total: int = 50 << 30
    files: int = 10_000


class Unpacked(NamedTuple):
    """The content of an archive."""

    document: str
    params: dict[str, Any]
    options: dict[str, Any]


def unpack(archive: Path, files: Path, suffix: str, limits: Limits) -> Unpacked:
    """Unpack an archive into the folder of attachments, and find the document.

    Raises
    ------
    InputError
        If it is not an archive, holds names that lead elsewhere or more than is allowed, or has no document.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = _extract(opened, files, limits)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"workflow_url: the archive {archive.name} cannot be read: {error}") from None
    if "MANIFEST.json" in names:
        return _by_manifest(files)
    documents = [name for name in names if name.endswith(f".{suffix}")]
    main = f"main.{suffix}"
    if main not in names and len(names) > 1 and len(documents) != 1:
        raise InputError(f"workflow_url: the archive {archive.name} has no {main} and no MANIFEST.json")
    document = main if main in names else (documents or names)[0]
    given = sorted(path for path in files.glob("inputs*.json"))
    params = {name: value for path in given for name, value in _read(path).items()}
    options = _read(files / "options.json") if (files / "options.json").is_file() else {}
    return Unpacked(document, params, options)


def _extract(archive: zipfile.ZipFile, files: Path, limits: Limits) -> list[str]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if not members:
        raise InputError("workflow_url: the archive is empty")
    if len(members) > limits.files:
        raise InputError(f"workflow_url: the archive has more than {limits.files} files")
    if any(member.external_attr >> 28 == 0xA for member in members):
        raise InputError("workflow_url: the archive contains a symbolic link, which is not allowed")
    left = limits.total
    for member in members:
        target = _inside(files, member.filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        left = _copy(archive, member, target, min(left, limits.file), left)
    return [str(PurePosixPath(confined.relative(member.filename))) for member in members]


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, most: int, left: int) -> int:
    """Copy one file, and return how many bytes may follow; the sizes that an archive states are not trusted."""
    with archive.open(member) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK):
            most, left = most - len(chunk), left - len(chunk)
            if most < 0:
                raise InputError("workflow_url: the unpacked archive is larger than this server allows")
            copy.write(chunk)
    return left


def _by_manifest(files: Path) -> Unpacked:
    manifest = _read(files / "MANIFEST.json")
    document = manifest.get("mainWorkflowURL")
    if not isinstance(document, str):
        raise InputError("workflow_url: the archive's MANIFEST.json has no mainWorkflowURL")
    params: dict[str, Any] = {}
    for name in manifest.get("inputFileURLs") or []:
        params |= _read(_named(files, name))
    options = manifest.get("optionsFileURL")
    return Unpacked(_checked(files, document), params, _read(_named(files, options)) if options else {})


def _checked(files: Path, document: str) -> str:
    if "://" in document and not document.startswith("file:"):
        if document.startswith(("http://", "https://")):
            return document
        raise InputError(f"workflow_url: the archive's MANIFEST.json names {document!r}, which cannot be read")
    path = _named(files, document)
    if not path.is_file():
        raise InputError(f"workflow_url: the archive has no {document}, which its MANIFEST.json names")
    return str(path.relative_to(files))


def _named(files: Path, name: object) -> Path:
    text = unquote(name.removeprefix("file://")) if isinstance(name, str) else name
    return _inside(files, text)


def _inside(files: Path, name: object) -> Path:
    try:
        return confined.inside(files, name)
    except InputError as error:
        raise InputError(f"workflow_url: the archive names {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"workflow_url: {path.name} in the archive cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"workflow_url: {path.name} in the archive must be a JSON object")
    return value
