"""Objects: named byte strings below one prefix. This interface is all a store requires of the place that holds it."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from toilfn import confined
from toilfn.errors import CorruptObjectError, InputError, StoreError, StoreNotFoundError
from toilfn.stores.digests import DEFAULT, hash_file

__all__ = ["MissingBucketError", "MissingObjectError", "NewObject", "Objects", "checked_name"]

META = "store.json"
"""The name of the object that describes the store."""

_PARTED = 64 * 2**20
"""Size in bytes above which a buffer is written in parts, if the place supports uploads in parts."""

_PIECE = 8 * 2**20

TEMPORARY = ".tmp-"
"""The prefix of the last part of a name while its object is being written; such names are never listed."""


ENCRYPTED = b"toilfnE\x01"
"""The first bytes of an object that was encrypted before it was written (`toilfn.stores.encrypted`)."""


class MissingObjectError(StoreError):
    """There is no object of this name. If another object refers to it, `CorruptObjectError` is raised instead."""


class MissingBucketError(StoreNotFoundError):
    """There is no bucket of this name, so there is no store in it."""


def checked_name(name: str, where: str) -> str:
    """Check that the name of an object, or of a folder with a final slash, stays below the prefix, and return it.

    Raises
    ------
    CorruptObjectError
        If it leads elsewhere: the record that contains it was altered.
    """
    try:
        fits = not name or confined.relative(name) == name.removesuffix("/")
    except InputError:
        fits = False
    if not fits:
        raise CorruptObjectError(
            f"{name!r} is not a valid object name in {where}; the record that refers to it was altered"
        )
    return name


class NewObject(io.RawIOBase):
    """An object that is written in pieces, and becomes visible when it is complete."""

    def finish(self) -> None:
        """Complete the object, which makes it visible."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Remove what was written."""
        raise NotImplementedError


class Objects(ABC):
    """Named byte strings below one prefix.

    A name consists of parts joined by slashes. An object becomes visible as a whole or not at all, and a reader sees
    every object that was written before it began to read.

    Methods raise `MissingObjectError` if a required object does not exist, and `StoreError` with the object's name
    and the system's own message for all other failures.

    Attributes
    ----------
    url : str
        The prefix, as people write it.
    conditional : bool
        Whether exactly one of several `put_new` calls succeeds, even on different hosts.
    parallel : int
        Number of objects worth reading at the same time.
    is_private : bool
        Whether the objects are encrypted with a key of the user's, so that copies are for that user only.
    sync : bool
        Whether a write returns only when it would survive a power failure.
    """

    url: str
    conditional: bool = True
    parallel: int = 1
    is_private: bool = False
    sync: bool = True

    @property
    def pause(self) -> float:
        """Seconds to wait before reading a damaged object again: it may have been altered in transit."""
        return 0.0 if self.parallel == 1 else 0.2

    @property
    def requests(self) -> int:
        """Number of requests this process has sent, including failed ones; 0 if requests cost nothing."""
        return 0

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Read an object."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; exactly one of several writers gets True.

        False may also mean that this call wrote the object but the server's answer was lost.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Return an object's size in bytes."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names with a prefix, in no particular order."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""

    @abstractmethod
    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is removed afterwards."""

    def put_buffer(self, name: str, data: memoryview) -> None:
        """Write an object from memory unless there is one. A large object is written in parts; a file is read-only."""
        stream = self.open_new(name) if data.nbytes > _PARTED else None
        if stream is None:
            self.put_new(name, bytes(data))
            return
        with stream:
            try:
                for start in range(0, data.nbytes, _PIECE):
                    stream.write(data[start : start + _PIECE])
                stream.finish()
            except BaseException:
                stream.give_up()
                raise

    def open_new(self, name: str) -> NewObject | None:
        """Open a new object for writing without a local file; return None if a local file is just as good."""
        return None

    def upload_hashed(
        self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT, *, move: bool = False
    ) -> tuple[int, bytes]:
        """Upload a file, reading it once if possible, and return the size and the digest of the content written."""
        size, digest = hash_file(path, algorithm)
        self.upload(path, name, move=move)
        return size, digest

    def upload_shared(self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT) -> tuple[int, bytes]:
        """Do what `upload_hashed` does, without a copy if possible: then the file must no longer change."""
        return self.upload_hashed(path, name, algorithm)

    @abstractmethod
    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file, which is replaced."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""

    def local_path(self, name: str) -> Path | None:
        """Return the path of the object's file, if it is one; the file must not be changed."""
        return None

    def copy_out(self, name: str, system: Any, place: str) -> bool:
        """Have the server copy an object to a path of an fsspec file system; return False if that is another server."""
        return False

    def link_target(self, name: str) -> str | None:
        """Return the target of a symbolic link, even if the target is gone; None for objects that are not links."""
        return None

    def presigned_url(self, name: str, seconds: int) -> str:
        """Return a URL with which anyone can read an object for some seconds.

        Raises
        ------
        StoreError
            If this kind of store has no signed URLs.
        """
        raise StoreError(f"{self.url}: this kind of store has no signed URLs", hint="use s3:// or gs://")

    def below(self, folder: str) -> Objects:
        """Return the objects of a folder, with names relative to it.

        Raises
        ------
        StoreError
            If this kind of store cannot do that.
        """
        raise StoreError(f"{self.url}: this kind of store cannot be opened at one of its folders")

    def folders(self) -> Iterator[str]:
        """Iterate over the names of the folders directly below the prefix; links are not followed.

        Raises
        ------
        StoreError
            If this kind of store cannot do that.
        """
        raise StoreError(f"{self.url}: the folders of this kind of store cannot be listed")

    def total_size(self) -> int:
        """Return the size of all objects in bytes."""
        return sum(map(self.size, self.list("")))

    def versions(self) -> int:
        """Return the number of old versions that the place keeps of deleted or replaced objects."""
        return 0

    @abstractmethod
    def sweep(self, age: float) -> int:
        """Delete half-written objects older than `age` seconds, or all of them for 0; return their number."""

    @abstractmethod
    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder."""

    @abstractmethod
    def remove_root(self) -> None:
        """Remove the prefix itself, if it is a directory and empty."""

    def make_bucket(self) -> None:
        """Create the bucket, if this kind of place has buckets and the bucket is missing."""

    def prepare(self) -> None:
        """Create the prefix itself, if it must be created, such as a directory."""

    def try_out(self) -> None:
        """Test which operations the place supports, before a store is created there."""

    def adopt(self, *, conditional: bool, sync: bool) -> None:
        """Take over the properties that were recorded when the store was created."""
        self.conditional, self.sync = conditional, sync

    @abstractmethod
    def is_empty(self) -> bool:
        """Return whether the prefix is empty, except for the temporary objects of a store that is being created."""
