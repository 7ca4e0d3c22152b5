"""Objects that are read where they are, while everything written goes elsewhere: for trying things out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from toilfn.stores.objects import Objects

__all__ = ["Overlay"]


class Overlay(Objects):
    """Shows `below` with `above` in front of it; only `above` is ever written to.

    Deleting takes away what was written through the overlay, and leaves the objects below as they are.

    Parameters
    ----------
    below : Objects
        Is only read.
    above : Objects
        Takes all that is written.
    """

    def __init__(self, below: Objects, above: Objects) -> None:
        self.url = below.url
        self.parallel = below.parallel
        self._below = below
        self._above = above

    def _holder(self, name: str) -> Objects:
        return self._above if self._above.exists(name) else self._below

    def get(self, name: str) -> bytes:
        """Read an object."""
        return self._holder(name).get(name)

    def put(self, name: str, data: bytes) -> None:
        """Write an object above."""
        self._above.put(name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object above unless there is one."""
        return not self._below.exists(name) and self._above.put_new(name, data)

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self._holder(name).exists(name)

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        return self._holder(name).size(name)

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names that start so."""
        yield from dict.fromkeys(chain(self._above.list(prefix), self._below.list(prefix)))

    def delete(self, names: Iterable[str]) -> None:
        """Delete what was written above."""
        self._above.delete(names)

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write an object above with a file's content."""
        self._above.upload(path, name, move=move)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's content to a file."""
        self._holder(name).download(name, path)

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        return self._holder(name).open(name)

    def local_path(self, name: str) -> Path | None:
        """Return the file that is the object, where one is."""
        return self._holder(name).local_path(name)

    def sweep(self, age: float) -> int:
        """Delete what was half-written above."""
        return self._above.sweep(age)

    def clear(self, folder: str) -> None:
        """Delete every object above, below a folder."""
        self._above.clear(folder)

    def remove_root(self) -> None:
        """Remove the prefix above, if it is empty."""
        self._above.remove_root()

    def is_empty(self) -> bool:
        """Return whether nothing is there."""
        return self._above.is_empty() and self._below.is_empty()
