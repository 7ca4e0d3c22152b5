"""Keep digests of large files that this user's processes on this machine have computed, so that each is read once.

Files are known by device, inode, size and time of modification, objects of buckets by their ETags or generations, in
one small database of the work directory. It is only
a memory: where it cannot be read or written, files are read again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from toilfn.files.room import cache_dir
from toilfn.model.records import BlobRef
from toilfn.stores.blobs import check_file
from toilfn.stores.digests import DEFAULT, algorithm_of, hash_file
from toilfn.stores.references import Source

__all__ = ["check_once", "digest_of_object", "hash_once", "remember", "remember_object", "sha1_once"]

_LEAST = 2**20
"""The least bytes of a file whose digest is kept: reading a smaller one is quicker than the database."""

_MOST = 100_000
"""How many digests are kept."""

_RECENT = 2 * 10**9
"""Nanoseconds after the last change of a file within which a further change might have the same time."""


def check_once(ref: BlobRef, path: Path, where: str) -> None:
    """Compare a file with its reference, unless it was compared before and has not changed since.

    Raises
    ------
    CorruptObjectError
        If they differ.
    """
    if ref.is_marked or ref.size < _LEAST:
        check_file(ref, path, where)
        return
    key = _key(path, algorithm_of(ref.digest))
    if key is not None and _known(key) == ref.digest:
        return
    check_file(ref, path, where)
    if key is not None and key == _key(path, algorithm_of(ref.digest)):
        _keep(key, ref.digest)


def hash_once(path: Path, algorithm: str) -> tuple[int, bytes]:
    """Return a file's size and digest; it is read unless its digest is known and it has not changed since."""
    digest = _once(path, algorithm, lambda: hash_file(path, algorithm)[1])
    return os.path.getsize(path), digest


def sha1_once(path: Path) -> str:
    """Return the SHA-1 of a file, in hexadecimal; it is read unless its SHA-1 is known and it has not changed since."""

    def compute() -> bytes:
        digest = hashlib.sha1(usedforsecurity=False)
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(_LEAST):
                digest.update(piece)
        return digest.digest()

    return _once(path, "sha1", compute).hex()


def _once(path: Path, algorithm: str, compute: Callable[[], bytes]) -> bytes:
    key = _key(path, algorithm) if os.path.getsize(path) >= _LEAST else None
    if key is not None and (known := _known(key)) is not None:
        return known
    digest = compute()
    if key is not None and key == _key(path, algorithm):
        _keep(key, digest)
    return digest


def remember(ref: BlobRef, path: Path | None) -> None:
    """Note that a file has the content of a reference, which was computed when it was written."""
    if path is None or ref.is_marked or ref.size < _LEAST:
        return
    if (key := _key(path, algorithm_of(ref.digest))) is not None:
        _keep(key, ref.digest)


def digest_of_object(source: Source, algorithm: str) -> bytes | None:
    """Return the digest of an object elsewhere, if it was read before in this state."""
    return _known(_object_key(source, algorithm)) if source.size >= _LEAST else None


def remember_object(source: Source, digest: bytes) -> None:
    """Note the digest of an object elsewhere, which its server identifies by an ETag or a generation."""
    if source.size >= _LEAST:
        _keep(_object_key(source, algorithm_of(digest)), digest)


def _object_key(source: Source, algorithm: str) -> str:
    return hashlib.blake2b(source.pack(), digest_size=16).hexdigest() + _suffix(algorithm)


def _suffix(algorithm: str) -> str:
    return "" if algorithm == DEFAULT else f"-{algorithm}"


def _key(path: Path, algorithm: str) -> str | None:
    """Return the key of a file in the database; None for one that was changed just now.

    The time of a writable file can be set back after a change, but its ctime cannot. The store's own files are
    read-only, and their ctime changes whenever a task gets a link to them.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    changed = ""
    if found.st_mode & 0o222:
        if time.time_ns() - found.st_ctime_ns < _RECENT:
            return None
        changed = f"-{found.st_ctime_ns}"
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}{changed}{_suffix(algorithm)}"


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(cache_dir() / "digests.sqlite", timeout=2.0)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS digests (file TEXT PRIMARY KEY, digest BLOB, time REAL)")
        yield connection


def _known(key: str) -> bytes | None:
    with suppress(sqlite3.Error, OSError), _database() as connection:
        row = connection.execute("SELECT digest FROM digests WHERE file = ?", (key,)).fetchone()
        return bytes(row[0]) if row else None
    return None


def _keep(key: str, digest: bytes) -> None:
    with suppress(sqlite3.Error, OSError), _database() as connection:
        connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (key, digest, time.time()))
        last = connection.execute("SELECT max(rowid) FROM digests").fetchone()[0]
        connection.execute("DELETE FROM digests WHERE rowid <= ?", (last - _MOST,))
