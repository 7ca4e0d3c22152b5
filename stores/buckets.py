"""The common part of the drivers for object stores with buckets."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from toilfn.errors import StoreError
from toilfn.stores.objects import MissingBucketError, NewObject
from toilfn.stores.remote import FsspecObjects

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["PARTS_AT_A_TIME", "PART_SIZE", "BucketObjects", "is_transient_status"]

PART_SIZE = 8 * 2**20
"""Bytes of a file transferred in one request."""

PARTS_AT_A_TIME = 4
"""Parts transferred at the same time: transferring a file of any size takes a few dozen MiB of memory."""

_PARTS_OF_ONE_SIZE = 1000

_LONGEST_URL = 7 * 86400
"""Longest validity of a signed URL, in seconds. Source: Amazon and Google, "Signature Version 4"."""

_HASHED = re.compile(r"[0-9a-f]{2}/")


def is_transient_status(status: int) -> bool:
    """Return whether a request that got this HTTP status may succeed if repeated; 501 and 505 are permanent."""
    return status in (408, 429) or (500 <= status < 600 and status not in (501, 505))


class BucketObjects(FsspecObjects):
    """Objects in a bucket, which has no folders and returns listings in pages."""

    _requests = 0

    @property
    def requests(self) -> int:
        """Number of requests this process has sent, including failed ones."""
        return self._requests

    @property
    def _bucket(self) -> str:
        return self._root.partition("/")[0]

    def _key(self, path: str) -> str:
        return path.partition("/")[2]

    @abstractmethod
    def make_bucket(self) -> None:
        """Create the bucket."""

    @abstractmethod
    def _page(self, prefix: str, after: str | None) -> tuple[list[str], str | None]:
        """Return one page of the keys with a prefix, from a page token on, and the token of the next page, if any."""

    @abstractmethod
    def _has_no_bucket(self, name: str, error: FileNotFoundError) -> bool:
        """Return whether the bucket itself was not found, not only the object in it."""

    @abstractmethod
    def _sign(self, path: str, seconds: int) -> str: ...

    def presigned_url(self, name: str, seconds: int) -> str:
        """Return a URL with which anyone can read an object for a limited time, at most seven days.

        Raises
        ------
        StoreError
            If `seconds` is not positive, or is more than seven days.
        """
        if not 0 < seconds <= _LONGEST_URL:
            raise StoreError(
                f"{self.url}: a signed URL cannot be valid for {seconds} seconds",
                hint="choose between 1 second and 7 days",
            )
        return self._do("sign a URL for", name, lambda: self._sign(self._path(name), seconds))

    def open_new(self, name: str) -> NewObject:
        """Open a new object for writing in parts, using constant memory."""
        stream = self._do("write", name, lambda: self._fs.open(self._path(name), "wb", block_size=PART_SIZE))
        return _Upload(stream, self._limited, lambda error: self._failed("write", name, error), lambda: self.size(name))

    def clear(self, folder: str) -> None:
        """Delete every object below a folder."""
        self.delete(self.list(f"{folder}/"))

    def remove_root(self) -> None:
        """Do nothing: a prefix without objects is gone."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, many by one request where possible; missing ones are ignored."""
        waiting = iter(names)
        while group := list(islice(waiting, 1000)):
            self._delete_group(group)

    def _delete_group(self, names: list[str]) -> None:
        super().delete(names)

    def _can_create(self) -> bool:
        return True

    def _top(self) -> Sequence[str]:
        return self._page(self._key(f"{self._root}/"), None)[0]

    def _find(self, prefix: str) -> Iterator[str]:
        start = self._key(f"{self._root}/{prefix}")
        first, after = self._list_page(prefix, start, None)
        if after is not None and self._is_hashed(start, first[0]):
            yield from self._find_at_once(prefix, start)
            return
        yield from first
        while after is not None:
            found, after = self._list_page(prefix, start, after)
            yield from found

    def _is_hashed(self, start: str, path: str) -> bool:
        """Return whether the names below `start` begin with two digits of a hash, and so are spread evenly."""
        return start.endswith("/") and _HASHED.match(self._key(path)[len(start) :]) is not None

    def _find_at_once(self, prefix: str, start: str) -> Iterator[str]:
        """List a large folder with concurrent requests, one for each hexadecimal digit with which a name can begin."""
        with ThreadPoolExecutor(self.parallel) as pool:
            for found in pool.map(lambda digit: self._find_all(prefix, start + digit), "0123456789abcdef"):
                yield from found

    def _find_all(self, prefix: str, start: str) -> list[str]:
        found, after = self._list_page(prefix, start, None)
        while after is not None:
            more, after = self._list_page(prefix, start, after)
            found += more
        return found

    def _list_page(self, prefix: str, start: str, after: str | None) -> tuple[list[str], str | None]:
        keys, following = self._do("list", prefix, lambda: self._page(start, after))
        return [f"{self._bucket}/{key}" for key in keys], following

    def _not_found(self, name: str, error: FileNotFoundError) -> StoreError:
        if self._has_no_bucket(name, error):
            return MissingBucketError(
                f"bucket {self._bucket} of {self.url} does not exist, or these credentials may not see it",
                hint="create it, or pass the store option create_bucket=true",
            )
        return super()._not_found(name, error)


class _Upload(NewObject):
    """An upload in parts, which the driver starts with the first part; a small object is sent in one request.

    Parameters
    ----------
    stream : object
        The driver's stream.
    limited : callable
        Calls the driver with a time limit.
    failed : callable
        Converts a driver's error into a `StoreError`.
    size : callable
        Return the size of the object under its name.
    """

    def __init__(
        self, stream: Any, limited: Callable[..., Any], failed: Callable[[Exception], StoreError],
        size: Callable[[], int],
    ) -> None:  # fmt: skip
        self._stream = stream
        self._limited = limited
        self._failed = failed
        self._size = size
        self._written = 0

    def writable(self) -> bool:
        """Return True: this stream can be written."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Write the next bytes."""
        # The later parts of a very large object are larger, since there can be at most 10,000 parts.
        self._stream.blocksize = PART_SIZE * 2 ** (self._written // (PART_SIZE * _PARTS_OF_ONE_SIZE)).bit_length()
        content = bytes(data)
        with self._explained():
            count = int(self._limited(lambda: self._stream.write(content), size=len(content)))
        self._written += count
        return count

    def finish(self) -> None:
        """Complete the upload, which makes the object visible."""
        with self._explained():
            try:
                self._limited(self._stream.close, size=self._stream.blocksize)
            except FileNotFoundError:
                # The first answer was lost, and the upload that the driver tried to complete again is over.
                if not self._is_there():
                    raise
                self._stream.closed = True

    def _is_there(self) -> bool:
        """Return whether the object exists with the size that was written; no one else writes under its name."""
        try:
            return self._size() == self._written
        except StoreError:
            return False

    def give_up(self) -> None:
        """Remove the parts that were uploaded."""
        with suppress(Exception):  # the bucket's own lifecycle rules remove them later
            self._stream.discard()
        self._stream.closed = True

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._failed(error) from error
