"""Objects: named byte strings under one prefix, the only thing a store asks of the place that holds it."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from toilfn import confined
from toilfn.errors import CorruptObjectError, InputError, StoreError
from toilfn.stores.blobs import hash_file

__all__ = ["MissingBucketError", "MissingObjectError", "NewObject", "Objects", "checked_name"]

META = "store.json"
"""The name of the object that says what a store is."""

TEMPORARY = ".tmp-"
"""How the last part of a name starts while its object is being written; such names are never listed."""


ENCRYPTED = b"toilfnE\x01"
"""How an object starts that was encrypted before it was written (`toilfn.stores.encrypted`)."""


class MissingObjectError(StoreError):
    """There is no object of this name. Where something refers to it, that is a `CorruptObjectError`."""


class MissingBucketError(StoreError):
    """There is no bucket of this name."""


def checked_name(name: str, where: str) -> str:
    """Return an object's name, or a folder's with a slash at its end, if it stays below the store's prefix.

    Raises
    ------
    CorruptObjectError
        If it leads elsewhere: a record that holds such a name was altered.
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
    """An object that is written piece by piece, and appears when it is whole."""

    def finish(self) -> None:
        """Let the object appear."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Remove what was written."""
        raise NotImplementedError


class Objects(ABC):
    """Named byte strings under one prefix.

    A name is some parts joined by slashes. Objects appear whole or not at all, and a reader sees
    an object that was written before it began to read.

    Methods raise `MissingObjectError` for an object that must exist and does not, and `StoreError`
    with the object's name and the system's own words for anything else that goes wrong.

    Attributes
    ----------
    url : str
        The prefix, as people write it.
    conditional : bool
        Whether `put_new` lets one writer only win, wherever the writers run.
    parallel : int
        How many objects it pays to read at a time.
    sync : bool
        Whether a write returns only when it would outlive a loss of power.
    """

    url: str
    conditional: bool = True
    parallel: int = 1
    sync: bool = True

    @property
    def pause(self) -> float:
        """Seconds to wait before something damaged is read again: it may have been altered on its way."""
        return 0.0 if self.parallel == 1 else 0.2

    @property
    def requests(self) -> int:
        """How many requests this process has sent, failed ones included; 0 where they cost nothing."""
        return 0

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Read an object."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one: of several writers one gets True.

        False may also mean that this very call wrote it and the answer was lost on its way.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Return an object's size in bytes."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names that start so, in no particular order."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone are no error."""

    @abstractmethod
    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is given away."""

    def open_new(self, name: str) -> NewObject | None:
        """Open a new object to write it without a local file; None where a local file serves as well."""
        return None

    def upload_hashed(self, path: str | os.PathLike[str], name: str) -> tuple[int, bytes]:
        """Do `upload`, and return the size and the digest of what was written; the file is read once if possible."""
        size, digest = hash_file(path)
        self.upload(path, name)
        return size, digest

    @abstractmethod
    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file, which is replaced."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""

    def local_path(self, name: str) -> Path | None:
        """Return the file that is the object, where one is; it must not be changed."""
        return None

    def copy_out(self, name: str, system: Any, place: str) -> bool:
        """Have the server copy an object to a place of an fsspec file system; False if these are two servers."""
        return False

    def link_target(self, name: str) -> str | None:
        """Return what an object is a symbolic link to, where there are such; it may be gone."""
        return None

    def presigned_url(self, name: str, seconds: int) -> str:
        """Return a URL by which anybody can read an object for so many seconds.

        Raises
        ------
        StoreError
            If this place has no such thing.
        """
        raise StoreError(f"{self.url}: this kind of store has no signed URLs", hint="use s3:// or gs://")

    def below(self, folder: str) -> Objects:
        """Return the objects of a folder, under names that leave the folder's out.

        Raises
        ------
        StoreError
            If this place has no such thing.
        """
        raise StoreError(f"{self.url} cannot be opened at a folder of it")

    def versions(self) -> int:
        """Count what the place keeps of the prefix's objects although they were deleted or replaced."""
        return 0

    @abstractmethod
    def sweep(self, age: float) -> int:
        """Delete what writers left half-written more than `age` seconds ago, or with 0 all of it; return how many."""

    @abstractmethod
    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder."""

    @abstractmethod
    def remove_root(self) -> None:
        """Remove the prefix itself, if it is a directory and empty."""

    def make_bucket(self) -> None:
        """Build the bucket, where there are such things and this one is missing."""

    def prepare(self) -> None:
        """Build the prefix itself, where that is something to be made."""

    def try_out(self) -> None:
        """Find out what the place can do, before a store is made there."""

    def adopt(self, *, conditional: bool, sync: bool) -> None:
        """Take note of what was found out, and what was wanted, when the store was made."""
        self.conditional, self.sync = conditional, sync

    @abstractmethod
    def is_empty(self) -> bool:
        """Return whether there is nothing under the prefix but what a store that is just being made leaves."""
