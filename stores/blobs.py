"""Blobs: byte objects that are written once, referred to by name, size and digest, and verified when read."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import uuid
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from toilfn.errors import CorruptObjectError
from toilfn.stores import checked

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "BlobRef", "Hasher", "VerifyingReader", "check", "check_file", "digest_of", "hash_file", "linked_ref",
    "new_blob_name", "shard",
]  # fmt: skip

DIGEST_SIZE = 16
_CHUNK = 2**20

_MARK = struct.Struct(">4sQQ")
"""What stands in the place of a digest for a link whose file was not read: a word, its inode (0 for any), its time."""

_MARKED = b"mark"

_CHANGED = "do not change files that were linked into a store; run the script again to import the file as it is now"


class BlobRef(NamedTuple):
    """A byte object in the store."""

    name: str
    """Its name below the store's prefix, such as ``blobs/3f/...``."""
    size: int
    digest: bytes
    """BLAKE2b, 16 bytes, of its content; for a link to a file that was not read, a longer mark of the file's state."""

    @property
    def is_marked(self) -> bool:
        """Whether it is a link to a file whose content is not known, only its size, its inode and its time."""
        return len(self.digest) == _MARK.size and self.digest.startswith(_MARKED)


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


class Hasher:
    """Computes size and digest of bytes that come in pieces."""

    def __init__(self) -> None:
        self._hasher = blake2b(digest_size=DIGEST_SIZE)
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next piece."""
        self._hasher.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        """Return the digest of all pieces."""
        return self._hasher.digest()


def hash_file(path: str | os.PathLike[str]) -> tuple[int, bytes]:
    """Return a file's size and digest, in constant memory."""
    hasher = Hasher()
    buffer = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.size, hasher.digest()


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


def linked_ref(name: str, path: str | os.PathLike[str], *, any_inode: bool) -> BlobRef:
    """Return the reference of a link to a file without reading it: it knows the file again by its state.

    With `any_inode`, the file may be replaced by an equal one: the link is the file itself, or a copy of the store.
    """
    found = os.stat(path)
    return BlobRef(name, found.st_size, _MARK.pack(_MARKED, 0 if any_inode else found.st_ino, found.st_mtime_ns))


def check_file(ref: BlobRef, path: str | os.PathLike[str], where: str) -> None:
    """Compare a file with the reference: its content, or the state of what is a link.

    Raises
    ------
    CorruptObjectError
        If they differ; names what the link leads to.
    """
    if ref.is_marked:
        _check_state(ref, path, where)
    else:
        check(ref, *hash_file(path), where)


def _check_state(ref: BlobRef, path: str | os.PathLike[str], where: str) -> None:
    _, inode, modified = _MARK.unpack(ref.digest)
    source = f"{ref.name} in {where} is a link to {Path(path).resolve()}, which"
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise CorruptObjectError(f"{source} is gone", hint=_CHANGED) from None
    if found.st_size != ref.size:
        raise CorruptObjectError(f"{source} has {found.st_size} bytes instead of {ref.size}", hint=_CHANGED)
    if found.st_mtime_ns != modified:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.st_mtime))
        raise CorruptObjectError(f"{source} was changed after it was linked, at {moment}", hint=_CHANGED)
    if inode and found.st_ino != inode:
        raise CorruptObjectError(f"{source} was replaced by another file", hint=_CHANGED)


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
    path : path, optional
        The file behind a link that is known by its state.
    """

    def __init__(self, stream: BinaryIO, ref: BlobRef, where: str, path: Path | None = None) -> None:
        self._stream = stream
        self._ref = ref
        self._where = where
        self._path = path
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
        if self._path is not None:
            if ended or start + len(data) >= self._ref.size:
                check_file(self._ref, self._path, self._where)
            return
        fresh = data[self._hashed - start :] if start <= self._hashed else b""
        self._hasher.update(fresh)
        self._hashed += len(fresh)
        if self._hashed >= self._ref.size or (ended and start == self._hashed):
            check(self._ref, self._hashed, self._hasher.digest(), self._where)
