"""Blobs: byte objects that are written once, referred to by name, size and digest, and verified when read."""

from __future__ import annotations

import io
import os
import re
import uuid
from hashlib import blake2b
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from toilfn.errors import CorruptObjectError
from toilfn.stores import checked

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BlobRef", "VerifyingReader", "check", "digest_of", "hash_file", "new_blob_name", "shard"]

DIGEST_SIZE = 16
_CHUNK = 2**20


class BlobRef(NamedTuple):
    """A byte object in the store."""

    name: str
    """Its name below the store's prefix, such as ``blobs/3f/...``."""
    size: int
    digest: bytes
    """BLAKE2b, 16 bytes, of its content."""


def shard(folder: str, name: str) -> str:
    """Return an object's full name: two digits of a hash spread a folder's objects.

    Raises
    ------
    ValueError
        If the name is not fit to be the last part of an object's name.
    """
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is not a valid object name: it is empty, contains '/' or starts with '.'")
    return f"{folder}/{digest_of(name.encode()).hex()[:2]}/{name}"


def new_blob_name(hint: str = "") -> str:
    """Build a name that no other blob has; it ends in what is left of `hint`, for people who look."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", hint)[-64:]
    return shard("blobs", f"{uuid.uuid4().hex}-{readable}" if readable else uuid.uuid4().hex)


def digest_of(data: bytes | memoryview) -> bytes:
    """Return the digest that references carry."""
    return blake2b(data, digest_size=DIGEST_SIZE).digest()


def hash_file(path: str | os.PathLike[str]) -> tuple[int, bytes]:
    """Return a file's size and digest, in constant memory."""
    hasher = blake2b(digest_size=DIGEST_SIZE)
    buffer = memoryview(bytearray(_CHUNK))
    size = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return size, hasher.digest()


def check(ref: BlobRef, size: int, digest: bytes, where: str) -> None:
    """Compare what was read with the reference.

    Raises
    ------
    CorruptObjectError
        If they differ; `where` is the store's URL, for the message.
    """
    if (size, digest) == (ref.size, ref.digest):
        return
    how = f"has {size} bytes instead of {ref.size}" if size != ref.size else f"was altered (digest {digest.hex()})"
    raise CorruptObjectError(f"{ref.name} in {where} {how}", hint=checked.RESTORE)


class VerifyingReader(io.RawIOBase):
    """A stream of a blob's bytes that raises at their end when they are not what was stored.

    Reading from start to end verifies; after a jump over unread bytes nothing can be said, and nothing is.

    Parameters
    ----------
    stream : BinaryIO
        The blob's bytes; closed with this stream.
    ref : BlobRef
        What they must be.
    where : str
        The store's URL, for messages.
    """

    def __init__(self, stream: BinaryIO, ref: BlobRef, where: str) -> None:
        self._stream = stream
        self._ref = ref
        self._where = where
        self._hasher = blake2b(digest_size=DIGEST_SIZE)
        self._hashed = 0

    def readable(self) -> bool:
        """Say that this stream can be read."""
        return True

    def seekable(self) -> bool:
        """Return whether the store's own stream can jump."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Jump."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return where the stream stands."""
        return self._stream.tell()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer.

        Raises
        ------
        CorruptObjectError
            At the end, if the bytes were not those that were stored.
        """
        view = memoryview(buffer).cast("B")
        start = self._stream.tell()
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._verify(start, data, ended=not data and len(view) > 0)
        return len(data)

    def close(self) -> None:
        """Close the store's own stream too."""
        self._stream.close()
        super().close()

    def _verify(self, start: int, data: bytes, *, ended: bool) -> None:
        fresh = data[self._hashed - start :] if start <= self._hashed else b""
        self._hasher.update(fresh)
        self._hashed += len(fresh)
        if self._hashed >= self._ref.size or (ended and start == self._hashed):
            check(self._ref, self._hashed, self._hasher.digest(), self._where)
