"""Forms with files, written to disk as they arrive, within limits."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from toilfn import confined
from toilfn.errors import InputError
from toilfn.server.archives import Limits

__all__ = ["FIELDS", "LONE", "Form", "file_name", "read_form"]

FIELDS = (
    "workflow_params", "workflow_type", "workflow_type_version", "tags", "workflow_engine", "workflow_engine_version",
    "workflow_engine_parameters", "workflow_url",
)  # fmt: skip

LONE = "workflow-document"
"""The name of an attachment that is called ".", as `toil-wes-cwl-runner` calls a document that it sends alone."""
_ATTACHMENT = "workflow_attachment"
_IDLE = 120.0
"""Seconds that a client may be silent in the middle of a form."""
_MOST_PARTS = 50
"""How many fields there may be beside attachments."""
_LONGEST_HEADER = 16 << 10


class Form:
    """Takes a form of ``multipart/form-data`` in pieces.

    Parameters
    ----------
    content_type : str
        The request's header.
    folder : Path
        Where attachments go, under their own names.
    limits : Limits

    Attributes
    ----------
    fields : dict of str to str
    attachments : list of str
        Names of the files.

    Raises
    ------
    InputError
        In every method: if the form cannot be read, or brings more than is allowed.
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
        """Take the next piece."""
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
        """Return whether a field holds a file."""
        return field.startswith(_ATTACHMENT)

    def is_known(self, field: str) -> bool:
        """Return whether a field that is not a file is kept."""
        return field in FIELDS

    def target(self, field: str, given: bytes) -> str | None:
        """Return where a file goes, below the folder; None if it is left out.

        Parameters
        ----------
        field : str
        given : bytes
            The file's name, as the request has it.
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
    """Read the name of a file in a form.

    Raises
    ------
    InputError
        If it is empty, or leads out of its folder.
    """
    name = given.decode(errors="replace")
    if not name:
        raise InputError("workflow_attachment: a file has no name; its Content-Disposition must have a filename")
    if re.search(r"[\x00-\x1f\x7f]", name) or ".." in unquote(name).replace("\\", "/").split("/"):
        raise InputError(
            f"workflow_attachment: {name[:200]!r} cannot be the name of a file: it must stay in its folder"
        )
    return LONE if name == "." else name


async def read_form(form: Form, stream: AsyncIterator[bytes]) -> None:
    """Read a form from a request's body; the files are written by another thread.

    Raises
    ------
    InputError
        If it cannot be read, brings more than is allowed, or its client falls silent.
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
