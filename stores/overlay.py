"""An overlay of two sets of objects, one of them read-only: for trying out changes to a store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from toilfn.stores.digests import DEFAULT
from toilfn.stores.objects import Objects

__all__ = ["Overlay"]


class Overlay(Objects):
    """Reads an object from `above` if it is there, else from `below`; writes to `above` only.

    Deleting affects only objects that were written through the overlay.

    Parameters
    ----------
    below : Objects
        The objects that are only read.
    above : Objects
        The objects that receive all writes.
    """

    def __init__(self, below: Objects, above: Objects) -> None:
        self.url = below.url
        self.parallel = below.parallel
        self.is_private = below.is_private
        self._below = below
        self._above = above

    def _holder(self, name: str) -> Objects:
        return self._above if self._above.exists(name) else self._below

    def get(self, name: str) -> bytes:
        """Read an object."""
        return self._holder(name).get(name)

    def put(self, name: str, data: bytes) -> None:
        """Write an object to the upper layer."""
        self._above.put(name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object to the upper layer unless either layer has one."""
        return not self._below.exists(name) and self._above.put_new(name, data)

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self._holder(name).exists(name)

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        return self._holder(name).size(name)

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names with a prefix."""
        yield from dict.fromkeys(chain(self._above.list(prefix), self._below.list(prefix)))

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects of the upper layer."""
        self._above.delete(names)

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write a file's content to an object of the upper layer."""
        self._above.upload(path, name, move=move)

    def upload_hashed(
        self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT, *, move: bool = False
    ) -> tuple[int, bytes]:
        """Write a file's content to an object of the upper layer, and return its size and digest."""
        return self._above.upload_hashed(path, name, algorithm, move=move)

    def upload_shared(self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT) -> tuple[int, bytes]:
        """Write a file's content to an object of the upper layer, without a copy if possible."""
        return self._above.upload_shared(path, name, algorithm)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file."""
        self._holder(name).download(name, path)

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        return self._holder(name).open(name)

    def local_path(self, name: str) -> Path | None:
        """Return the path of the object's file, if it is one."""
        return self._holder(name).local_path(name)

    def sweep(self, age: float) -> int:
        """Delete half-written objects of the upper layer."""
        return self._above.sweep(age)

    def clear(self, folder: str) -> None:
        """Delete every object of the upper layer below a folder."""
        self._above.clear(folder)

    def remove_root(self) -> None:
        """Remove the prefix of the upper layer, if it is empty."""
        self._above.remove_root()

    def is_empty(self) -> bool:
        """Return whether both layers are empty."""
        return self._above.is_empty() and self._below.is_empty()
