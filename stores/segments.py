"""The container of records: what an object of the log looks like, byte by byte (see FORMAT.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

import msgpack

from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores import checked
from toilfn.stores.blobs import digest_of

__all__ = ["Header", "Position", "Segment", "pack", "unpack"]

MAGIC = b"toilfn\x00\x01"
_START = struct.Struct("<8s16sI")
_DIGESTED = 8 + 16
_LARGEST = 2**32 - 1
_KINDS = ("segment", "part", "snapshot", "fence")


class Position(NamedTuple):
    """Where a record is."""

    segment: str
    """The object's name."""
    offset: int
    """Bytes from the start of the object."""
    size: int
    """Bytes."""


class Header(NamedTuple):
    """What an object of the log says of itself."""

    kind: str
    """``"segment"``, ``"part"`` of a snapshot, ``"snapshot"``, or ``"fence"``: a segment whose records moved."""
    store: str
    """The store's id."""
    number: int
    """The segment's number; for a snapshot, that of the last segment it replaces."""
    part: int
    """Which part of a snapshot, from 0."""
    writer: str
    """``host/pid/`` and something random."""
    epoch: int
    """The writer's lease."""
    records: int
    """How many records follow."""


class Segment(NamedTuple):
    """An object of the log, verified."""

    name: str
    header: Header
    data: bytes
    start: int
    """Where the first record is."""
    sizes: tuple[int, ...]

    def items(self) -> Iterator[tuple[Position, bytes]]:
        """Iterate over the records and their places."""
        starts = list(accumulate(self.sizes, initial=self.start))
        slices = map(slice, starts, starts[1:])
        return zip(self.positions(), map(self.data.__getitem__, slices), strict=True)

    def positions(self) -> Iterator[Position]:
        """Iterate over the places of the records."""
        return map(Position, repeat(self.name), accumulate(self.sizes, initial=self.start), self.sizes)


def pack(name: str, header: Header, records: Sequence[bytes]) -> Segment:
    """Build an object from records.

    Raises
    ------
    StoreError
        If a record has 4 GiB or more.
    """
    sizes = tuple(map(len, records))
    if max(sizes, default=0) > _LARGEST:
        raise StoreError(
            f"a record of {max(sizes)} bytes is too large for the log, which takes at most 4 GiB",
            hint="store it as a blob",
        )
    head = msgpack.packb(header._replace(records=len(sizes)))
    table = struct.pack(f"<{len(sizes)}I", *sizes)
    body = b"".join((struct.pack("<I", len(head)), head, table, *records))
    data = MAGIC + digest_of(body) + body
    return Segment(name, header._replace(records=len(sizes)), data, _START.size + len(head) + len(table), sizes)


def unpack(name: str, data: bytes, where: str) -> Segment:
    """Read an object and verify it.

    Raises
    ------
    CorruptObjectError
        If it is cut short or altered; `where` is the store's URL, for the message.
    """
    if len(data) < _START.size or data[: len(MAGIC)] != MAGIC:
        raise corrupt(name, where, "is cut short, or is not an object of a log")
    _, digest, head_size = _START.unpack_from(data)
    if digest_of(memoryview(data)[_DIGESTED:]) != digest:
        raise corrupt(name, where, "is cut short or was altered")
    table = _START.size + head_size
    what = f"{name} in {where}"
    header = checked.read(Header, data[_START.size : table], msgpack.unpackb, what)
    start = table + 4 * header.records
    sizes = struct.unpack_from(f"<{header.records}I", data, table) if start <= len(data) else ()
    if header.kind not in _KINDS or header.writer.count("/") != 2 or start + sum(sizes) != len(data):
        raise checked.damaged(what, "its header does not match its content")
    return Segment(name, header, data, start, sizes)


def corrupt(name: str, where: str, what: str) -> CorruptObjectError:
    """Build the error that says what is wrong with an object of the log."""
    return CorruptObjectError(f"{name} in {where} {what}", hint=checked.RESTORE)
