"""Identify files and folders by their contents; a file is read again only if its size, time or inode has changed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from toilfn.errors import InputError
from toilfn.graph.identity.canonical import DIGEST_SIZE

__all__ = ["Tree", "TreeTooLargeError", "content_of", "tree_of"]

_WORTH_KEEPING = 2**20
"""Bytes: reading a smaller file takes no longer than looking it up."""

_SETTLED = 2 * 10**9
"""Nanoseconds: a file that was written more recently may be written again without a change of its time."""

_MOST_FILES = 10_000
_MOST_BYTES = 8 << 30
"""Bytes: a larger folder is not compared, since reading it could take minutes."""

_TABLE = "CREATE TABLE IF NOT EXISTS contents (path TEXT PRIMARY KEY, state TEXT, digest TEXT)"


def content_of(path: Path) -> str:
    """Identify a file by its content.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        A digest in hexadecimal; nothing for what does not exist or is not a regular file: `tree_of` is for folders.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(status.st_mode):
        return ""
    return _content(path, status)


def _content(path: Path, status: os.stat_result) -> str:
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


class Tree(NamedTuple):
    """The names in a folder, in order, each with a text that stands for its content."""

    entries: dict[str, str]

    @property
    def digest(self) -> str:
        """A digest of the whole folder, in hexadecimal."""
        return blake2b(self.listing(), digest_size=DIGEST_SIZE).hexdigest()

    def listing(self) -> bytes:
        """Return the tree as bytes that `read` understands."""
        return b"\0".join(os.fsencode(part) for entry in self.entries.items() for part in entry)

    @classmethod
    def read(cls, listing: bytes) -> Tree:
        """Return the tree that a listing was made of."""
        parts = [os.fsdecode(part) for part in listing.split(b"\0")] if listing else []
        return cls(dict(zip(parts[::2], parts[1::2], strict=True)))


class TreeTooLargeError(Exception):
    """A folder is too large to be compared; the message says how large it is."""


def tree_of(folder: Path) -> Tree:
    """Identify a folder by the names and contents of all that is in it.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Tree
        A symbolic link to a file counts by that file's content, one to a folder by its target: nothing is visited
        twice, and links that lead round in circles do no harm.

    Raises
    ------
    TreeTooLargeError
        If there are too many files, or they are too large.
    InputError
        If something in it cannot be read.
    """
    found = sorted(_walk(folder))
    return Tree({name: _entry(Path(folder, name), status) for name, status in found})


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder, with its status, until it is too much."""
    stack, count, size = [""], 0, 0
    while stack:
        below = stack.pop()
        for name in _names(folder / below):
            name = os.path.join(below, name)
            try:
                status = os.stat(folder / name)
            except OSError:  # a dangling link, or it has vanished since
                status = os.lstat(folder / name)
            if stat.S_ISDIR(status.st_mode) and not os.path.islink(folder / name):
                stack.append(name)
            count, size = count + 1, size + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
            if count > _MOST_FILES:
                raise TreeTooLargeError(f"a folder with more than {_MOST_FILES:,} files")
            if size > _MOST_BYTES:
                raise TreeTooLargeError(f"a folder with more than {_MOST_BYTES >> 30} GiB in it")
            yield name, status


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"the folder {folder}, in an argument, cannot be read: {error.strerror}",
            hint="pass str(path) if only its name counts",
        ) from error


def _entry(path: Path, status: os.stat_result) -> str:
    """Return the text that stands for one name in a folder."""
    if stat.S_ISREG(status.st_mode):
        return _content(path, status)
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    return "folder" if stat.S_ISDIR(status.st_mode) else "special file"


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
