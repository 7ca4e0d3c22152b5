"""Objects of a store whose reads and writes are counted, for the metrics of a leader."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

from toilfn.stores.digests import DEFAULT
from toilfn.stores.objects import Objects

__all__ = ["Traffic", "counted"]


class Traffic:
    """The reads and writes of a store by one process.

    Threads update the counts without a lock. A count may be lost in a race, which does not matter for metrics.

    Attributes
    ----------
    operations : Counter
        The number of operations on objects, by kind: ``"read"``, ``"write"``, ``"list"`` or ``"delete"``.
    read, written : int
        The number of bytes read and written. Objects that were opened as streams are not included.
    """

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter(read=0, write=0, list=0, delete=0)
        self.read = self.written = 0

    def reads(self, size: int) -> None:
        """Count the reading of one object of `size` bytes."""
        self.operations["read"] += 1
        self.read += size

    def writes(self, size: int) -> None:
        """Count the writing of one object of `size` bytes."""
        self.operations["write"] += 1
        self.written += size


def counted(objects: Objects, traffic: Traffic) -> Objects:
    """Wrap objects so that their use is counted.

    Parameters
    ----------
    objects : Objects
        The objects to wrap.
    traffic : Traffic
        The counts, which the wrapper updates.
    """
    return cast("Objects", _Counted(objects, traffic))


class _Counted:
    """Passes all calls on to other objects, and counts those that transfer data or cost money."""

    def __init__(self, inner: Objects, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, name: str) -> bytes:
        data = self._inner.get(name)
        self._traffic.reads(len(data))
        return data

    def put(self, name: str, data: bytes) -> None:
        self._inner.put(name, data)
        self._traffic.writes(len(data))

    def put_new(self, name: str, data: bytes) -> bool:
        is_new = self._inner.put_new(name, data)
        self._traffic.writes(len(data) if is_new else 0)
        return is_new

    def put_buffer(self, name: str, data: memoryview) -> None:
        self._inner.put_buffer(name, data)
        self._traffic.writes(data.nbytes)

    def list(self, prefix: str) -> Iterator[str]:
        self._traffic.operations["list"] += 1
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        self._traffic.operations["delete"] += 1
        self._inner.delete(names)

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        size = os.path.getsize(path)
        self._inner.upload(path, name, move=move)
        self._traffic.writes(size)

    def upload_hashed(
        self, path: str | os.PathLike[str], name: str, algorithm: str = DEFAULT, *, move: bool = False
    ) -> tuple[int, bytes]:
        size, digest = self._inner.upload_hashed(path, name, algorithm, move=move)
        self._traffic.writes(size)
        return size, digest

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        self._inner.download(name, path)
        self._traffic.reads(os.path.getsize(path))

    def open(self, name: str) -> BinaryIO:
        self._traffic.reads(0)  # its size would cost another request
        return self._inner.open(name)
