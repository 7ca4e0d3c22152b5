"""The log: numbered segments of records. Each segment is written once, and only one writer at a time can append.

A writer appends by creating the object with the next number, unless it exists. A writer that finds its number taken by
another writer has been fenced. `Log.compact` moves the live records to a snapshot.

A suspended writer may wake up much later and try to write its next number. That number must still be taken, although
the segment's records have moved to a snapshot. So two kinds of replaced segments stay, without their records: the first
segment of each writer, which has the number that its predecessor would write next; and the newest segment, which also
reveals that a snapshot is missing.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgpack

from toilfn.errors import FencedError, StoreError
from toilfn.stores import checked
from toilfn.stores.faults import fault
from toilfn.stores.objects import MissingObjectError, Objects
from toilfn.stores.segments import Header, Position, Segment, corrupt, pack, unpack

__all__ = ["Log", "Position"]

_PART_SIZE = 8 * 2**20
_CACHE_SIZE = 16 * 2**20
_NAME = re.compile(r"(?:log|snapshots)/([0-9]{16})(\.[0-9]{6})?")


class _Cache:
    """The most recently used segments, up to `_CACHE_SIZE` bytes."""

    def __init__(self) -> None:
        self._segments: OrderedDict[str, Segment] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> Segment | None:
        with self._lock:  # several threads may fetch records; no thread holds the lock while it reads an object
            if name in self._segments:
                self._segments.move_to_end(name)
            return self._segments.get(name)

    def add(self, segment: Segment) -> None:
        with self._lock:
            if segment.name not in self._segments:
                self._segments[segment.name] = segment
                self._size += len(segment.data)
            while self._size > _CACHE_SIZE and len(self._segments) > 1:
                self._size -= len(self._segments.popitem(last=False)[1].data)


class _Parts(NamedTuple):
    """The single record in the main object of a snapshot."""

    parts: int
    fences: tuple[int, ...]


class _Snapshot(NamedTuple):
    """The content of the main object of a snapshot."""

    number: int = 0
    parts: int = 0
    fences: tuple[int, ...] = ()
    """Numbers of the segments with which a new writer began."""
    writer: str = ""


class Log:
    """The records of a store, in the order in which they were committed.

    One thread may append or compact while others fetch.

    Parameters
    ----------
    objects : Objects
        The objects of the store.
    store_id : str
        The store's id, which is part of every object of the log.

    Attributes
    ----------
    epoch : int
        The number of this leader's lease, written into segments for people to read.
    writer : str
        Identifies the segments that this object writes.
    length : int
        Number of segments after the newest snapshot when the log was last read.
    """

    def __init__(self, objects: Objects, store_id: str) -> None:
        self._objects = objects
        self._store_id = store_id
        # The next four belong together: `_next` is the number after the last segment that this object has read or
        # written, `_last_writer` wrote that segment, and `_fences` has the first segment of each writer up to there.
        # They change under `_writing` only. It is reentrant because an append may have to read the log first. The lock
        # of `_cache` may be taken while `_writing` is held, never the other way round.
        self._next: int | None = None
        self._last_writer = ""
        self._fences: set[int] = set()
        self._writing = threading.RLock()
        self._cache = _Cache()
        self.epoch = 0
        self.length = 0
        self.writer = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}"

    @property
    def next_number(self) -> int:
        """The number of the next segment. Reads the log, unless it was read before."""
        while self._next is None:
            deque(self.read(), maxlen=0)
        return self._next

    def read(self) -> Iterator[tuple[Position, bytes]]:
        """Iterate over all records and their positions, starting with the newest snapshot.

        Raises
        ------
        CorruptObjectError
            If an object is missing, truncated, altered or misplaced. All records before it have been yielded.
        StoreError
            If the leader compacted the log in the meantime; read it again.
        """
        snapshot = self._newest_snapshot()
        number, writer, fences = snapshot.number, snapshot.writer, set(snapshot.fences)
        self.length = 0
        for segment in self._load_ahead(range(snapshot.parts), lambda part: self._load_part(snapshot, part)):
            yield from segment.items()
        for segment in self._segments_after(number):
            number = segment.header.number
            self.length += 1
            if segment.header.writer != writer:
                writer = segment.header.writer
                fences.add(number)
            yield from segment.items()
        with self._writing:
            if self._last_writer != self.writer:  # after its first write, a writer appends only after its own segments
                self._next, self._last_writer, self._fences = number + 1, writer, fences

    def read_after(self, number: int) -> Iterator[tuple[Position, bytes]] | None:
        """Iterate over the records after a segment; None if the log was compacted since, so that all must be read.

        Parameters
        ----------
        number : int
            The number of a segment that was read before.
        """
        segments = self.segments(number)
        return None if segments is None else (item for segment in segments for item in segment.items())

    def segments(self, after: int = 0) -> Iterator[Segment] | None:
        """Iterate over the objects that hold the records after a segment; None if the log was compacted since.

        Parameters
        ----------
        after : int
            The number of a segment that was read before. By default all objects from the newest snapshot on are read.
        """
        if not after:
            return self._all_segments()
        return None if self._newest_number() > after else self._segments_after(after)

    def _all_segments(self) -> Iterator[Segment]:
        snapshot = self._newest_snapshot()
        yield from self._load_ahead(range(snapshot.parts), lambda part: self._load_part(snapshot, part))
        yield from self._segments_after(snapshot.number)

    def fetch(self, position: Position) -> bytes:
        """Read one record.

        Raises
        ------
        CorruptObjectError
            If its object is missing or damaged.
        """
        segment = self._cache.get(position.segment)
        if segment is None:
            segment = self._load_for(position)
            self._cache.add(segment)
        end = position.offset + position.size
        if position.offset < segment.start or end > len(segment.data):
            raise corrupt(position.segment, self._objects.url, f"has no record at byte {position.offset}")
        return segment.data[position.offset : end]

    def append(self, records: Sequence[bytes]) -> list[Position]:
        """Write records as one new segment. They are durable when this method returns.

        Raises
        ------
        FencedError
            If another leader has written to the log since this object read it.
        StoreError
            If the place cannot be written to. The records may or may not be in the log.
        """
        with self._writing:
            segment = self._append(records)
            self._cache.add(segment)
            return list(segment.positions())

    def compact(self, records: Iterable[bytes]) -> list[Position]:
        """Replace all segments by a snapshot, and return the new positions of the records.

        The process may be killed at any point. The log then holds either the old segments or the snapshot.

        Parameters
        ----------
        records : iterable of bytes
            All live records, in the order in which they will be read.

        Raises
        ------
        FencedError
            If another leader has taken over.
        """
        with self._writing:
            # An empty segment of our own proves that no other writer has come since we read, and gives the snapshot a
            # number that no segment with records has.
            number = self._append(()).header.number
            fault("compact.sealed")
            positions: list[Position] = []
            parts = 0
            for chunk in _chunks(records, _PART_SIZE):
                part = self._pack("part", number, chunk, parts)
                self._objects.put(part.name, part.data)
                positions.extend(part.positions())
                parts += 1
                fault("compact.part")
            # Parts without their main object are not a snapshot, so readers use the old segments until this write.
            # After it they use the snapshot, and the old segments may disappear in any order.
            self._put_snapshot(number, parts)
            self._delete_replaced(number)
            return positions

    # Writing

    def _append(self, records: Sequence[bytes]) -> Segment:
        number = self.next_number
        fault("log.appending")
        segment = self._pack("segment", number, records)
        # A number that is taken may be our own: an earlier append wrote its segment, but the answer was lost, so it
        # failed for its caller. Its records are in the log, and this append uses the next number.
        while not self._put_segment(segment):
            number += 1
            segment = self._pack("segment", number, records)
        fault("log.appended")
        if self._last_writer != self.writer:
            self._become_writer(segment)
        self._next = number + 1
        return segment

    def _put_segment(self, segment: Segment) -> bool:
        """Write a segment; return False if an earlier append that seemed to fail has in fact used its number."""
        if self._objects.put_new(segment.name, segment.data):
            return True
        there = self._load("segment", segment.name, segment.header.number, fences=True)
        if there.header.writer != self.writer:
            raise self._fenced(there)
        return there.data == segment.data

    def _become_writer(self, first: Segment) -> None:
        """Record a segment as a fence, unless its number was free only because another writer has compacted the log."""
        # Only the first segment needs this look: a compaction by another writer begins with a segment of its own, which
        # takes the number that our second one would get.
        newest = self._newest_number()
        if newest >= first.header.number:
            raise self._fenced(self._load("snapshot", _name("snapshot", newest), newest))
        self._last_writer = self.writer
        self._fences.add(first.header.number)

    def _pack(self, kind: str, number: int, records: Sequence[bytes], part: int = 0) -> Segment:
        header = Header(kind, self._store_id, number, part, self.writer, self.epoch, len(records))
        return pack(_name(kind, number, part), header, records)

    def _fenced(self, there: Segment) -> FencedError:
        host, pid, _ = there.header.writer.split("/")
        return FencedError(
            f"job store {self._objects.url}: another leader has taken over; {there.name} was written by process {pid}"
            f" on {host} (epoch {there.header.epoch}); this leader stops, and its committed work is kept"
        )

    def _put_snapshot(self, number: int, parts: int) -> None:
        content = msgpack.packb((parts, sorted(self._fences)))
        snapshot = self._pack("snapshot", number, [content])
        self._objects.put(snapshot.name, snapshot.data)
        fault("compact.snapshot")

    def _delete_replaced(self, number: int) -> None:
        """Delete the objects that a snapshot replaces, fences last: a stale writer must find its number taken."""
        # A store shows deletions in any order and may stop half-way, so each step leaves a log that can be read.
        kept = {*self._fences, number}
        numbers = [n for n in self._numbers("log/") if n <= number]
        self._objects.delete(_name("segment", n) for n in numbers if n not in kept)
        fault("compact.segments")
        older = [name for name in self._objects.list("snapshots/") if _NAME.fullmatch(name) and _number(name) < number]
        self._objects.delete(older)
        fault("compact.older")
        for n in kept.intersection(numbers):
            self._empty(n)

    def _empty(self, number: int) -> None:
        """Remove the records from a replaced segment that must stay."""
        fence = self._load("segment", _name("segment", number), number, fences=True)
        if fence.header.records:
            header = fence.header._replace(kind="fence")
            self._objects.put(fence.name, pack(fence.name, header, ()).data)
            fault("compact.emptied")

    # Reading

    def _newest_snapshot(self) -> _Snapshot:
        number = self._newest_number()
        if not number:
            return _Snapshot()
        segment = self._load("snapshot", _name("snapshot", number), number)
        what = f"{segment.name} in {self._objects.url}"
        unpacked = partial(msgpack.unpackb, use_list=False)
        found = checked.read(_Parts, segment.data[segment.start :], unpacked, what)
        return _Snapshot(number, found.parts, found.fences, segment.header.writer)

    def _segments_after(self, number: int) -> Iterator[Segment]:
        found = {n for n in self._numbers("log/") if n > number}
        last = max(found, default=number)
        numbers = range(number + 1, last + 1)
        if len(found) < len(numbers):
            self._report_unexpected(found, numbers)
        yield from self._load_ahead(numbers, self._load_segment)
        # The listing may be out of date, and miss segments up to the one that was known before.
        number = max(number, last)
        while self._objects.exists(_name("segment", number := number + 1)):
            yield self._load_segment(number)

    def _report_unexpected(self, found: set[int], numbers: range) -> None:
        """Raise an error if an object after a gap is not of this log, instead of one about missing segments."""
        gap = next(number for number in numbers if number not in found)
        for number in sorted(n for n in found if n > gap):
            self._load("segment", _name("segment", number), number, fences=True)

    def _load_segment(self, number: int) -> Segment:
        return self._load("segment", _name("segment", number), number)

    def _load_part(self, snapshot: _Snapshot, part: int) -> Segment:
        name = _name("part", snapshot.number, part)
        segment = self._load("part", name, snapshot.number)
        if (segment.header.writer, segment.header.part) != (snapshot.writer, part):
            raise corrupt(name, self._objects.url, "is a copy of another object")
        return segment

    def _load_for(self, position: Position) -> Segment:
        kind = "part" if position.segment.startswith("snapshots/") else "segment"
        return self._load(kind, position.segment, _number(position.segment))

    def _load(self, kind: str, name: str, number: int, *, fences: bool = False) -> Segment:
        """Read an object and check that it matches its name."""
        try:
            segment = checked.reread(
                lambda: unpack(name, self._objects.get(name), self._objects.url), self._objects.pause
            )
        except MissingObjectError:
            raise self._gone(name, number, "is missing") from None
        header = segment.header
        if header.store != self._store_id:
            raise corrupt(name, self._objects.url, f"belongs to another store ({header.store})")
        if header.kind == "fence" and kind == "segment" and header.number == number and not fences:
            raise self._gone(name, number, "has lost its records")
        if header.number != number or header.kind not in (kind, "fence"):
            raise corrupt(name, self._objects.url, f"is a copy of another object ({header.kind} {header.number})")
        return segment

    def _gone(self, name: str, number: int, what: str) -> StoreError:
        """Build the error for a missing object: either the store is damaged, or the log has just been compacted."""
        newest = self._newest_number()
        if newest > number or (newest == number and name.startswith("log/")):
            return StoreError(
                f"the log of {self._objects.url} was compacted while it was being read", hint="read it again"
            )
        return corrupt(name, self._objects.url, what)

    def _numbers(self, folder: str) -> Iterator[int]:
        """Iterate over the numbers of the segments or the snapshots that a listing shows."""
        found = map(_NAME.fullmatch, self._objects.list(folder))
        return (int(match[1]) for match in found if match and not match[2])

    def _newest_number(self) -> int:
        return max(self._numbers("snapshots/"), default=0)

    def _load_ahead(self, numbers: Iterable[int], load: Callable[[int], Segment]) -> Iterator[Segment]:
        """Load objects in order, several at a time if the store answers slowly."""
        if self._objects.parallel == 1:
            yield from map(load, numbers)
            return
        waiting: deque[Future[Segment]] = deque()
        with ThreadPoolExecutor(self._objects.parallel) as pool:
            for number in numbers:
                waiting.append(pool.submit(load, number))
                if len(waiting) == self._objects.parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _name(kind: str, number: int, part: int = 0) -> str:
    if kind == "part":
        return f"snapshots/{number:016d}.{part:06d}"
    return f"{'log' if kind == 'segment' else 'snapshots'}/{number:016d}"


def _number(name: str) -> int:
    return int(name.partition("/")[2][:16])


def _chunks(records: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Split records into lists of about `size` bytes."""
    chunk: list[bytes] = []
    total = 0
    for record in records:
        chunk.append(record)
        total += len(record)
        if total >= size:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk
