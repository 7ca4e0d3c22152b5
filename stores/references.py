"""References: instead of a copy, a store can hold an object's URL, with its size and its ETag or generation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores.blobs import REFERENCE, BlobRef
from toilfn.stores.digests import digest_of

__all__ = ["Source"]

_log = logging.getLogger("toilfn.stores")

_STATES = ("generation", "ETag", "etag")
"""The keys under which drivers of object stores return a value that changes whenever the object is replaced."""

_AHEAD = 8 * 2**20
"""The number of bytes that each request reads ahead."""

_CHANGED = "leave objects that a store refers to as they are; run the script again to import the present object"


def _url_to_fs(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    from fsspec.core import url_to_fs  # importing it takes as long as importing all modules of toilfn

    system, place = url_to_fs(url)
    return system, place


class Source(NamedTuple):
    """An object outside the store, as it was when it was imported by reference."""

    url: str
    size: int
    state: str
    """Its ETag or generation."""

    @classmethod
    def look(cls, url: str) -> Source | None:
        """Describe the object at a URL as it is now; return None if its server has neither ETags nor generations.

        Raises
        ------
        FileNotFoundError
            If the object does not exist.
        """
        system, place = _url_to_fs(url)
        system.invalidate_cache()
        return cls.described(url, system.info(place))

    @classmethod
    def described(cls, url: str, info: Mapping[str, Any]) -> Source | None:
        """Describe the object at a URL by its entry in a listing; return None if it has neither ETag nor generation."""
        state = next((str(info[name]) for name in _STATES if info.get(name)), None)
        if state is None or info.get("type") == "directory" or info.get("size") is None:
            return None
        return cls(url, int(info["size"]), state)

    @classmethod
    def unpack(cls, data: bytes, ref: BlobRef, where: str) -> Source:
        """Parse the bytes that `pack` returned, and compare them with the reference.

        Raises
        ------
        CorruptObjectError
            If they are not the bytes that were stored. The message contains `where`, the store's URL.
        """
        try:
            source = cls(*json.loads(data))
        except (ValueError, TypeError):
            source = cls("", -1, "")
        if source.ref(ref.name) != ref:
            raise CorruptObjectError(f"{ref.name} in {where} is not the reference that was stored")
        return source

    def pack(self) -> bytes:
        """Return the bytes that the store's blob contains."""
        return json.dumps(self).encode()

    def ref(self, name: str) -> BlobRef:
        """Return the reference to a blob that is called `name` and contains `pack()`."""
        return BlobRef(name, self.size, REFERENCE + digest_of(self.pack()))

    def check(self) -> None:
        """Check that the object has not changed.

        Raises
        ------
        CorruptObjectError
            If it is gone or has changed.
        """
        with self._explained():
            now = self.look(self.url)
            if now != self:
                sizes = f" (it has {now.size} bytes instead of {self.size})" if now and now.size != self.size else ""
                raise CorruptObjectError(f"{self.url} was changed after it was imported{sizes}", hint=_CHANGED)

    def open(self) -> BinaryIO:
        """Open the object for reading, in ranges that are read ahead."""
        self.check()
        with self._explained():
            system, place = _url_to_fs(self.url)
            stream: BinaryIO = system.open(place, "rb", block_size=_AHEAD, cache_type="readahead")
            return stream

    def download(self, path: str | os.PathLike[str]) -> None:
        """Write the object's content to a file."""
        self.check()
        with self._explained():
            system, place = _url_to_fs(self.url)
            system.get_file(place, os.fspath(path))
        self.check()

    def copied_by_server(self, url: str) -> bool:
        """Have the server copy the object to another URL; return False if it cannot, and nothing was written.

        Raises
        ------
        CorruptObjectError
            If the object is gone or has changed, before the copy or during it.
        """
        system, place = _url_to_fs(self.url)
        target_system, target = _url_to_fs(url)
        if system is not target_system:
            return False
        self.check()
        try:
            system.cp_file(place, target)
        except Exception as error:  # of any type: for example, the credentials may not allow copying
            self.check()
            _log.debug("the server could not copy %s to %s: %s", self.url, url, error)
            return False
        self.check()
        return True

    def signed_url(self, seconds: int) -> str:
        """Return a URL with which anyone can read the object for some seconds."""
        with self._explained():
            system, place = _url_to_fs(self.url)
            url: Any = system.sign(place, expiration=seconds)
            return str(url)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError:
            raise CorruptObjectError(f"{self.url} is gone; it was imported by reference", hint=_CHANGED) from None
        except Exception as error:
            raise StoreError(f"cannot read {self.url}: {type(error).__name__}: {error}") from error
