"""The values that the tasks of a batch may need, as payloads: each consumer loads copies of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from toilfn.ids import TaskId
from toilfn.model.records import BlobRef

__all__ = ["BlobCache", "Payloads"]

Entry: TypeAlias = tuple["bytes | BlobRef", tuple[TaskId, ...]]


class BlobCache:
    """Reads blobs and keeps the ones used last.

    Parameters
    ----------
    read : callable
        Gives a blob's bytes.
    capacity : int
        How many bytes to keep.
    """

    def __init__(self, read: Callable[[BlobRef], bytes], capacity: int = 64 << 20) -> None:
        self._read = read
        self._room = capacity
        self._blobs: OrderedDict[BlobRef, bytes] = OrderedDict()

    def put(self, ref: BlobRef, data: bytes) -> None:
        """Take in a blob that came with a message."""
        if ref not in self._blobs:
            self._keep(ref, data)

    def get(self, payload: bytes | BlobRef) -> bytes:
        """Return a payload's bytes, wherever they are."""
        if isinstance(payload, bytes):
            return payload
        if payload in self._blobs:
            self._blobs.move_to_end(payload)
            return self._blobs[payload]
        data = self._read(payload)
        self._keep(payload, data)
        return data

    def _keep(self, ref: BlobRef, data: bytes) -> None:
        self._blobs[ref] = data
        self._room -= len(data)
        while self._room < 0:
            _, dropped = self._blobs.popitem(last=False)
            self._room += len(dropped)


class Payloads(Mapping[TaskId, tuple[bytes, tuple[TaskId, ...]]]):
    """Payloads and what they refer to, by task; blobs are read when they are needed."""

    def __init__(self, entries: dict[TaskId, Entry], blobs: BlobCache) -> None:
        self._entries = entries
        self._blobs = blobs

    def put(self, id: TaskId, payload: bytes | BlobRef, refs: tuple[TaskId, ...]) -> None:
        """Add a task's value."""
        self._entries[id] = (payload, refs)

    def __getitem__(self, id: TaskId) -> tuple[bytes, tuple[TaskId, ...]]:
        payload, refs = self._entries[id]
        return self._blobs.get(payload), refs

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
