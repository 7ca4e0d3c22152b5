"""Blobs: objects that are written once, referred to by name, size and digest, and verified when read."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from toilfn.errors import CorruptObjectError
from toilfn.stores import checked
from toilfn.stores.digests import Hasher, algorithm_of, checksum_of, digest_of, hash_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "REFERENCE", "BlobRef", "VerifyingReader", "WrappedStream", "check", "check_file", "linked_ref", "new_blob_name",
    "shard",
]  # fmt: skip

_MARK = struct.Struct(">4sQQ")
"""The format of the mark that links to unread files have instead of a digest: a tag, the inode (0: any), the mtime."""

_MARKED = b"mark"

REFERENCE = b"addr"
"""The tag of a blob that only holds the address of an object elsewhere; in its reference, 16 bytes of digest follow."""

_CHANGED = "do not change files that were linked into a store; run the script again to import the file as it is now"


class BlobRef(NamedTuple):
    """A byte object in the store."""

    name: str
    """Name below the store's prefix, such as ``blobs/3f/...``."""
    size: int
    digest: bytes
    """The content's digest (`toilfn.stores.digests`); for a link to a file that was not read, a mark of its state."""

    @property
    def is_marked(self) -> bool:
        """Whether this is a link to a file that was not read: only its size, inode and modification time are known."""
        return len(self.digest) == _MARK.size and self.digest.startswith(_MARKED)

    @property
    def is_reference(self) -> bool:
        """Whether the blob only holds the address of an object elsewhere (`toilfn.stores.references`)."""
        return len(self.digest) == _MARK.size and self.digest.startswith(REFERENCE)


def shard(folder: str, name: str) -> str:
    """Return an object's full name, with two digits of a hash to spread the objects of a folder.

    Raises
    ------
    ValueError
        If `name` cannot be the last part of an object's name.
    """
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is not a valid object name: it is empty, contains '/' or starts with '.'")
    return f"{folder}/{digest_of(name.encode()).hex()[:2]}/{name}"


def new_blob_name(hint: str = "") -> str:
    """Return a unique blob name. For readability it ends in `hint`, with unusual characters replaced."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", hint)[-64:]
    return shard("blobs", f"{uuid.uuid4().hex}-{readable}" if readable else uuid.uuid4().hex)


def check(ref: BlobRef, size: int, digest: bytes, where: str) -> None:
    """Check the size and the digest of data that was read against its reference.

    Raises
    ------
    CorruptObjectError
        If they differ; `where` is the store's URL, for the message.
    """
    if (size, digest) == (ref.size, ref.digest):
        return
    how = (
        f"has {size} bytes instead of {ref.size}" if size != ref.size else f"was altered (digest {checksum_of(digest)})"
    )
    raise CorruptObjectError(f"{ref.name} in {where} {how}", hint=checked.RESTORE)


def linked_ref(name: str, path: str | os.PathLike[str], *, any_inode: bool) -> BlobRef:
    """Return a reference for a link to a file without reading it: the file's size, inode and mtime identify it.

    With `any_inode` the inode is not checked, since it may change: with a hard link, or when the store is copied.
    """
    found = os.stat(path)
    return BlobRef(name, found.st_size, _MARK.pack(_MARKED, 0 if any_inode else found.st_ino, found.st_mtime_ns))


def check_file(ref: BlobRef, path: str | os.PathLike[str], where: str) -> None:
    """Check a file against its reference: its content, or, for a link that was not read, its state.

    Raises
    ------
    CorruptObjectError
        If they differ. For a link, the message names its target.
    """
    if ref.is_marked:
        _check_state(ref, path, where)
    else:
        check(ref, *hash_file(path, algorithm_of(ref.digest)), where)


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


class WrappedStream(io.RawIOBase):
    """A stream of the bytes of another one, which is closed with it. Subclasses override `take`.

    Parameters
    ----------
    stream : BinaryIO
        The other stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return True: this stream can be read."""
        return True

    def seekable(self) -> bool:
        """Return whether the other stream can seek."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position, as `io.IOBase.seek` does."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        return self._stream.tell()

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes from the other stream."""
        return self._stream.read(size)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer."""
        view = memoryview(buffer).cast("B")
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close both streams."""
        self._stream.close()
        super().close()


class VerifyingReader(WrappedStream):
    """A stream of a blob's bytes that raises an error at its end if they are not the bytes that were stored.

    Reading from start to end verifies the blob. After a seek over unread bytes it cannot be verified, and is not.

    Parameters
    ----------
    stream : BinaryIO
        The blob's bytes; it is closed with this stream.
    ref : BlobRef
        The expected size and digest.
    where : str
        The store's URL, for messages.
    recheck : callable, optional
        Checks content that is known by its state only, such as that of a link.
    """

    def __init__(self, stream: BinaryIO, ref: BlobRef, where: str, recheck: Callable[[], None] | None = None) -> None:
        super().__init__(stream)
        self._ref = ref
        self._where = where
        self._recheck = recheck
        self._hasher = None if recheck is not None else Hasher(algorithm_of(ref.digest))

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes.

        Raises
        ------
        CorruptObjectError
            If the blob has been read to its end, and its bytes are not those that were stored.
        """
        start = self._stream.tell()
        try:
            data = self._stream.read(size)
        except OSError:
            if self._recheck is not None:
                self._recheck()  # if the linked file has changed, this error is more precise than the one below
            raise
        self._verify(start, data, ended=not data and size > 0)
        return data

    def _verify(self, start: int, data: bytes, *, ended: bool) -> None:
        hasher = self._hasher
        if hasher is None:
            if self._recheck is not None and (ended or start + len(data) >= self._ref.size):
                self._recheck()
            return
        if start <= hasher.size:
            hasher.update(data[hasher.size - start :])
        if hasher.size >= self._ref.size or (ended and start == hasher.size):
            check(self._ref, hasher.size, hasher.digest(), self._where)
