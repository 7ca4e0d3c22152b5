"""The contents of files that are arguments: a file is read once, until its size, time or inode is another one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG

from toilfn.errors import InputError
from toilfn.graph.identity.canonical import DIGEST_SIZE

__all__ = ["content_of"]

_WORTH_KEEPING = 2**20
"""Bytes: smaller files are read as quickly as they are looked up."""

_SETTLED = 2 * 10**9
"""Nanoseconds: a file that was written a shorter time ago may be written again without another time."""

_TABLE = "CREATE TABLE IF NOT EXISTS contents (path TEXT PRIMARY KEY, state TEXT, digest TEXT)"


def content_of(path: Path) -> str:
    """Identify a file by its content.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        A digest in hexadecimal; nothing for what does not exist or is not a regular file, which counts by its name.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    if not S_ISREG(status.st_mode):
        return ""
    if status.st_size < _WORTH_KEEPING:
        return _read(path)
    name = os.path.realpath(path)
    state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    known = _look_up(name, state)
    if known is None:
        known = _read(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
            _keep(name, state, known)
    return known


def _read(path: Path) -> str:
    content = blake2b(digest_size=DIGEST_SIZE)
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                content.update(block)
    except OSError as error:
        raise InputError(
            f"the content of the file {path}, an argument, cannot be read: {error.strerror}",
            hint="pass str(path) if only its name counts",
        ) from error
    return content.hexdigest()


def _look_up(name: str, state: str) -> str | None:
    with contextlib.suppress(sqlite3.Error, OSError), _cache() as cache:
        row = cache.execute("SELECT digest FROM contents WHERE path = ? AND state = ?", (name, state)).fetchone()
        return str(row[0]) if row else None
    return None


def _keep(name: str, state: str, digest: str) -> None:
    # Without a place to keep it, a file is only read again the next time.
    with contextlib.suppress(sqlite3.Error, OSError), _cache() as cache, cache:
        cache.execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", (name, state, digest))


@contextlib.contextmanager
def _cache() -> Iterator[sqlite3.Connection]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "toilfn")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "contents.sqlite", timeout=2)
    try:
        connection.execute(_TABLE)
        yield connection
    finally:
        connection.close()
