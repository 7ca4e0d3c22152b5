"""Files as answers: whole or by ranges, in constant memory, also while they grow."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

from toilfn import confined
from toilfn.errors import InputError

__all__ = ["file_answer", "open_inside"]

_CHUNK = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def open_inside(folder: Path, name: str) -> BinaryIO | None:
    """Open a file below a folder; None if there is none, or if the name or a link leads out of the folder."""
    try:
        path = confined.inside(folder, name)
        file = path.open("rb", buffering=0)
    except (InputError, OSError, ValueError):
        return None
    # A workflow that still runs may have put a link there in the meantime.
    reached, root = os.path.realpath(f"/proc/self/fd/{file.fileno()}"), os.path.realpath(folder)
    if os.path.exists("/proc/self/fd") and not reached.startswith(f"{root}/"):
        file.close()
        return None
    return file


def file_answer(file: BinaryIO, name: str, headers: Any, *, as_text: bool = False) -> Any:
    """Return a response with a file, or with the part of it that a request's headers ask for.

    Parameters
    ----------
    file : binary file
        Is closed in the end.
    name : str
        Its name.
    headers : mapping
        Of the request.
    as_text : bool
        Whether it is a log, which a browser may show; what else there is, it only saves.
    """
    from starlette.responses import Response, StreamingResponse

    size = os.fstat(file.fileno()).st_size
    more = {"accept-ranges": "bytes", "x-content-type-options": "nosniff"}
    if not as_text:
        more["content-disposition"] = "attachment"
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
                return  # it was made shorter: the connection ends, and the client sees that
            start += len(data)
            yield data
    finally:
        file.close()
