"""Receive uploaded forms, and unpack workflows in zip archives, both within limits.

The files of a form are written to disk as they arrive. An archive, such as the Amazon Genomics CLI sends, contains a
single document; or ``main.cwl`` or ``main.wdl`` and all files that it needs; or a ``MANIFEST.json`` that names the
document, and optionally a file with inputs and a file with options.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from toilfn import confined
from toilfn.errors import InputError

__all__ = ["FIELDS", "LONE", "Form", "Limits", "Unpacked", "file_name", "read_form", "unpack"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of a request. Sizes are in bytes.

    Attributes
    ----------
    field : int
        Maximum size of each field that is not a file.
    file, total : int
        Maximum size of each attachment, and of all attachments together. They also apply to the content of an archive.
    files : int
        Maximum number of attachments, and of files in an archive.
    """

    field: int = 16 << 20
    file: int = 10 << 30
    total: int = 50 << 30
    files: int = 10_000


FIELDS = (
    "workflow_params", "workflow_type", "workflow_type_version", "tags", "workflow_engine", "workflow_engine_version",
    "workflow_engine_parameters", "workflow_url",
)  # fmt: skip

LONE = "workflow-document"
"""The name that an attachment called "." gets. toil-wes-cwl-runner uses "." for a document without other files."""
_ATTACHMENT = "workflow_attachment"
_IDLE = 120.0
"""Seconds without data from a client after which a form counts as aborted."""
_MOST_PARTS = 50
"""Maximum number of fields that are not attachments."""
_LONGEST_HEADER = 16 << 10


class Form:
    """Parses a form of the type ``multipart/form-data``, which it receives in pieces.

    Parameters
    ----------
    content_type : str
        The request's header ``Content-Type``.
    folder : Path
        The folder for attachments, which keep their names.
    limits : Limits

    Attributes
    ----------
    fields : dict of str to str
    attachments : list of str
        Names of the files.

    Raises
    ------
    InputError
        Raised by all methods, if the form is malformed or exceeds a limit.
    """

    def __init__(self, content_type: str, folder: Path, limits: Limits) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InputError("the request must be a form of the type multipart/form-data, with a boundary")
        self.fields: dict[str, str] = {}
        self.attachments: list[str] = []
        self._folder = folder
        self._limits = limits
        self._total = 0
        self._parts = 0
        self._is_over = False
        self._header: list[bytes] = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._text = bytearray()
        self._file: BinaryIO | None = None
        self._size = 0
        names = [
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
            "end",
        ]
        callbacks: dict[str, Any] = {f"on_{name}": getattr(self, f"_on_{name}") for name in names}
        self._parser: Any = MultipartParser(boundary, callbacks)  # type: ignore[arg-type, unused-ignore]

    def write(self, data: bytes) -> None:
        """Parse the next piece of the form."""
        from python_multipart.exceptions import FormParserError

        self._total += len(data)
        if self._total > self._limits.total:
            raise InputError(f"the request is larger than this server allows: {self._limits.total} bytes")
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InputError(f"the form cannot be read: {error}") from None
        except OSError as error:
            raise InputError(f"workflow_attachment: {self._name}: {error.strerror}") from None

    def finish(self) -> None:
        """Check that the form is complete."""
        if not self._is_over:
            raise InputError("the form is truncated: its last boundary is missing")

    def close(self) -> None:
        """Close the file that is being written, if there is one."""
        if self._file is not None:
            self._file.close()

    def _on_part_begin(self) -> None:
        self._headers, self._text, self._size = {}, bytearray(), 0
        self._parts += 1
        if self._parts > self._limits.files + _MOST_PARTS:
            raise InputError(f"the form has more than {self._limits.files} files")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(1, data[start:end])

    def _add_to_header(self, at: int, data: bytes) -> None:
        self._header[at] += data
        if len(self._header[at]) > _LONGEST_HEADER:
            raise InputError("the form has a part with a header that is too long")

    def _on_header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self.is_file(self._name):
            self._open(self.target(self._name, options.get(b"filename", b"")))
        elif self._name in self.fields:
            raise InputError(f"{self._name}: is given twice")

    def is_file(self, field: str) -> bool:
        """Return whether a field contains a file."""
        return field.startswith(_ATTACHMENT)

    def is_known(self, field: str) -> bool:
        """Return whether to keep a field that is not a file; other fields are ignored."""
        return field in FIELDS

    def target(self, field: str, given: bytes) -> str | None:
        """Return the path of a file relative to the folder; None to ignore the file.

        Parameters
        ----------
        field : str
            The name of the field.
        given : bytes
            The name of the file in the request.
        """
        return file_name(given)

    def _open(self, name: str | None) -> None:
        if name is None:
            return
        if len(self.attachments) >= self._limits.files:
            raise InputError(f"workflow_attachment: there are more than {self._limits.files} files")
        try:
            path = confined.inside(self._folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except InputError as error:
            raise InputError(f"workflow_attachment: {error}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"workflow_attachment: {name[:200]!r} cannot be written: {reason}") from None
        self.attachments.append(os.fspath(path.relative_to(self._folder)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._file is not None:
            if self._size > self._limits.file:
                raise InputError(
                    f"workflow_attachment: a file is larger than this server allows: {self._limits.file} bytes"
                )
            self._file.write(memoryview(data)[start:end])
        elif self._size > self._limits.field:
            raise InputError(f"{self._name}: is larger than this server allows: {self._limits.field} bytes")
        else:
            self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self.is_known(str(self._name)):
            try:
                self.fields[str(self._name)] = self._text.decode()
            except UnicodeDecodeError:
                raise InputError(f"{self._name}: is not UTF-8") from None

    def _on_end(self) -> None:
        self._is_over = True


def file_name(given: bytes) -> str:
    """Decode and check the name of a file in a form.

    Raises
    ------
    InputError
        If the name is empty, or leads out of the folder.
    """
    name = given.decode(errors="replace")
    if not name:
        raise InputError("workflow_attachment: a file has no name", hint="its Content-Disposition needs a filename")
    if re.search(r"[\x00-\x1f\x7f]", name) or ".." in unquote(name).replace("\\", "/").split("/"):
        raise InputError(
            f"workflow_attachment: {name[:200]!r} is not a valid name for a file: it must stay in its folder"
        )
    return LONE if name == "." else name


async def read_form(form: Form, stream: AsyncIterator[bytes]) -> None:
    """Read a form from a request's body. Another thread parses it and writes the files, so the event loop never waits.

    Raises
    ------
    InputError
        If the form is malformed or exceeds a limit, or the client sends no more data.
    """
    try:
        while True:
            try:
                data = await asyncio.wait_for(anext(stream), _IDLE)
            except StopAsyncIteration:
                break
            except asyncio.TimeoutError:
                raise InputError(f"nothing was received for {_IDLE:.0f} s; send the request again") from None
            if data:
                await asyncio.to_thread(form.write, data)
        form.finish()
    finally:
        with suppress(OSError):
            form.close()


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
        If the file is not a zip archive, has a name that leads out of the folder, exceeds a limit, or has no document.
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
    """Extract one file, and return the number of bytes that remain of the total limit.

    The bytes are counted here, because the sizes that an archive states may be wrong on purpose.
    """
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
