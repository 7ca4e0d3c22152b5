"""HTTP responses with files and logs, whole or in ranges, and the search in logs.

They use constant memory, and work while a file grows.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

__all__ = ["FoundLines", "file_answer", "search", "tail"]

_CHUNK = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_LONGEST_LINE = 2000
_MOST_LINES = 200
"""Maximum number of lines that a search returns."""
_MOST_SEARCHED = 256 << 20
"""Maximum number of bytes at the end of a log that are searched."""


class FoundLines(NamedTuple):
    """The lines of a log that a search has found."""

    lines: list[tuple[int, str]]
    """Each line with its number, from 1."""
    is_cut: bool
    """Whether there are more."""


def file_answer(file: BinaryIO, name: str, headers: Any, *, as_text: bool = False, download: str = "") -> Any:
    """Return a response with a file, or with the range of it that a request's headers ask for.

    Parameters
    ----------
    file : binary file
        The file, which the response closes at its end.
    name : str
        The name of the file.
    headers : mapping
        The headers of the request.
    as_text : bool
        Whether the file is a log, which a browser may show. Browsers only save other files.
    download : str
        The name under which a browser saves the file, in characters that need no quoting. With an empty name, the
        browser chooses one.
    """
    from starlette.responses import Response, StreamingResponse

    size = file.seek(0, os.SEEK_END)
    more = {"accept-ranges": "bytes", "x-content-type-options": "nosniff"}
    if download or not as_text:
        more["content-disposition"] = f'attachment; filename="{download}"' if download else "attachment"
    kind = "text/plain; charset=utf-8" if as_text else mimetypes.guess_type(name)[0] or "application/octet-stream"
    start, end, status = 0, size, 200
    wanted = _RANGE.fullmatch(headers.get("range", "").strip())
    if wanted and (wanted[1] or wanted[2]):
        found = _bounds(wanted[1], wanted[2], size)
        if found is None:
            file.close()
            return Response(status_code=416, headers={**more, "content-range": f"bytes */{size}"})
        (start, end), status = found, 206
        more["content-range"] = f"bytes {start}-{end - 1}/{size}"
    more["content-length"] = str(end - start)
    return StreamingResponse(_pieces(file, start, end), status, more, kind)


def _bounds(first: str, last: str, size: int) -> tuple[int, int] | None:
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
    return (start, end) if start < end else None


async def _pieces(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    try:
        file.seek(start)
        while start < end:
            data = await asyncio.to_thread(file.read, min(_CHUNK, end - start))
            if not data:
                return  # the file has been truncated; the connection ends early, which the client notices
            start += len(data)
            yield data
    finally:
        file.close()


def tail(file: BinaryIO, size: int) -> tuple[str, bool]:
    """Return the end of a file as text, from the start of a line, and whether the file is longer than that.

    Parameters
    ----------
    file : binary file
    size : int
        Maximum number of bytes to return.
    """
    whole = file.seek(0, os.SEEK_END)
    file.seek(max(0, whole - size))
    data = file.read(size)
    if whole > size:
        data = data.partition(b"\n")[2] or data
    return data.decode(errors="replace"), whole > size


def search(file: BinaryIO, text: str) -> FoundLines:
    """Find the lines that contain a text, ignoring case. Only the end of a very large file is searched."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_SEARCHED))
    wanted, found = text.lower(), list[tuple[int, str]]()
    for number, line in enumerate(_lines(file), 1):
        if wanted in line.lower():
            if len(found) == _MOST_LINES:
                return FoundLines(found, True)
            found.append((number, line))
    return FoundLines(found, False)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Iterate over lines. A very long line is split, so that it does not fill the memory."""
    pieces: Iterable[bytes] = iter(lambda: file.readline(_LONGEST_LINE), b"")
    begun = False
    for piece in pieces:
        if not begun:
            yield piece.decode(errors="replace").rstrip("\r\n")
        begun = not piece.endswith(b"\n")
