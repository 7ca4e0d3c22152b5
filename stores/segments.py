"""Segments: the binary layout of the log's objects (see FORMAT.md)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

import msgpack

from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores import checked
from toilfn.stores.digests import digest_of

__all__ = ["Header", "Position", "Segment", "pack", "unpack"]

MAGIC = b"toilfn\x00\x01"
_START = struct.Struct("<8s16sI")
_DIGESTED = 8 + 16
_LARGEST = 2**32 - 1
_KINDS = ("segment", "part", "snapshot", "fence")


class Position(NamedTuple):
    """The position of a record in the log."""

    segment: str
    """The object's name."""
    offset: int
    """Bytes from the start of the object."""
    size: int
    """Bytes."""


class Header(NamedTuple):
    """The header of an object of the log."""

    kind: str
    """``"segment"``, ``"part"`` of a snapshot, ``"snapshot"``, or ``"fence"``: a segment whose records moved."""
    store: str
    """The store's id."""
    number: int
    """The segment's number; for a snapshot, the number of the last segment it replaces."""
    part: int
    """The number of this part of a snapshot, from 0."""
    writer: str
    """``host/pid/random``: identifies the writer."""
    epoch: int
    """The number of the writer's lease."""
    records: int
    """Number of records."""


class Segment(NamedTuple):
    """An object of the log, verified."""

    name: str
    header: Header
    data: bytes
    start: int
    """Offset of the first record, in bytes."""
    sizes: tuple[int, ...]

    def items(self) -> Iterator[tuple[Position, bytes]]:
        """Iterate over the positions and the records."""
        starts = list(accumulate(self.sizes, initial=self.start))
        slices = map(slice, starts, starts[1:])
        return zip(self.positions(), map(self.data.__getitem__, slices), strict=True)

    def positions(self) -> Iterator[Position]:
        """Iterate over the positions of the records."""
        return map(Position, repeat(self.name), accumulate(self.sizes, initial=self.start), self.sizes)


def pack(name: str, header: Header, records: Sequence[bytes]) -> Segment:
    """Build an object of the log from records.

    Raises
    ------
    StoreError
        If a record is 4 GiB or larger.
    """
    sizes = tuple(map(len, records))
    if max(sizes, default=0) > _LARGEST:
        raise StoreError(
            f"a record of {max(sizes)} bytes is too large: the limit of the log is 4 GiB",
            hint="store it as a blob",
        )
    head = msgpack.packb(header._replace(records=len(sizes)))
    table = struct.pack(f"<{len(sizes)}I", *sizes)
    body = b"".join((struct.pack("<I", len(head)), head, table, *records))
    data = MAGIC + digest_of(body) + body
    return Segment(name, header._replace(records=len(sizes)), data, _START.size + len(head) + len(table), sizes)


def unpack(name: str, data: bytes, where: str) -> Segment:
    """Parse an object of the log and verify it.

    Raises
    ------
    CorruptObjectError
        If the object is truncated or altered. The message contains `where`, the store's URL.
    """
    if len(data) < _START.size or data[: len(MAGIC)] != MAGIC:
        raise corrupt(name, where, "is truncated, or is not an object of a log")
    _, digest, head_size = _START.unpack_from(data)
    if digest_of(memoryview(data)[_DIGESTED:]) != digest:
        raise corrupt(name, where, "was truncated or altered")
    table = _START.size + head_size
    what = f"{name} in {where}"
    header = checked.read(Header, data[_START.size : table], msgpack.unpackb, what)
    start = table + 4 * header.records
    sizes = struct.unpack_from(f"<{header.records}I", data, table) if start <= len(data) else ()
    if header.kind not in _KINDS or header.writer.count("/") != 2 or start + sum(sizes) != len(data):
        raise checked.damaged(what, "its header does not match its content")
    return Segment(name, header, data, start, sizes)


def corrupt(name: str, where: str, what: str) -> CorruptObjectError:
    """Build the error for a damaged object of the log."""
    return CorruptObjectError(f"{name} in {where} {what}", hint=checked.RESTORE)
