"""Add blocks of attempts to the statistics, levels and workers of a fold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from toilfn.inspect.fold.columns import Kind, Levels, Timescale, Variant, Worker

__all__ = ["Measures"]

_BLOCK = 4096
"""Attempts of one kind whose figures are worked out together."""
_MOST_WORKERS = 256


class _Buffer:
    """Attempts of a variant that have not been added to the figures yet."""

    __slots__ = ("given", "stats", "waits")

    def __init__(self) -> None:
        self.stats: list[Sequence[Any]] = []
        self.waits: list[float] = []
        self.given: list[float] = []
        """When each was given to the cluster."""


class Measures:
    """Adds up finished attempts.

    Attributes
    ----------
    scale : Timescale or None
        None if levels are not wanted.
    queued, cpu, memory : Levels
        Tasks that were given to the cluster and did not run yet; cores and bytes that attempts used.
    cores_asked, memory_asked : Levels
        Cores and bytes that they had requested.
    stored : Levels
        Bytes of the files and the large values that tasks made and that were not removed since.
    workers : dict
        By host and process.
    """

    def __init__(self) -> None:
        self.scale: Timescale | None = None
        self.queued, self.cpu, self.memory = Levels(), Levels(), Levels()
        self.cores_asked, self.memory_asked = Levels(), Levels()
        self.stored = Levels()
        self._sizes: dict[int, int] = {}
        self.workers: dict[tuple[str, int], Worker] = {}
        self._buffers: dict[tuple[int, bool], tuple[Variant, _Buffer]] = {}

    def begin(self, moment: float, kinds: Iterable[Kind]) -> None:
        """Note levels from a moment on."""
        if self.scale is None:
            self.scale = Timescale(moment)
            self.scale.levels += [self.queued, self.cpu, self.memory, self.cores_asked, self.memory_asked, self.stored]
            for kind in kinds:
                kind.running = self.scale.level()

    def kind(self, name: str, number: int) -> Kind:
        """Build a kind of tasks."""
        return Kind(name, number, self.scale.level() if self.scale else None)

    def add(
        self, number: int, variant: Variant, stats: Sequence[Sequence[Any]], waits: Sequence[float],
        given: Sequence[float], *, is_done: bool,
    ) -> None:  # fmt: skip
        """Take attempts of one variant.

        Parameters
        ----------
        number : int
            The variant's.
        variant : Variant
        stats : sequence of sequences
            The fields of `Stats`, of each attempt.
        waits : sequence of float
            Seconds.
        given : sequence of float
            When each was given to the cluster, in seconds since the epoch; 0 where that is not known.
        is_done : bool
            Whether they succeeded.
        """
        key = number, is_done
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = variant, _Buffer()
        buffer = found[1]
        buffer.stats += stats
        buffer.waits += waits
        buffer.given += given
        if len(buffer.waits) >= _BLOCK:
            del self._buffers[key]
            self._flush(variant, is_done, buffer)

    def store(self, moment: float, blobs: Iterable[Sequence[Any]]) -> None:
        """Note blobs that an attempt has left in the store when it ended."""
        if self.scale is not None:
            place = self.scale.place(moment)
            for name, size, _ in blobs:
                self._sizes[_short(name)] = size
                self.stored.step(place, size)

    def remove(self, moment: float, names: Iterable[str]) -> None:
        """Note that blobs were removed; without a moment, at the latest known time."""
        if self.scale is not None:
            place = self.scale.place(moment or self.scale.end)
            self.stored.step(place, -sum(self._sizes.pop(_short(name), 0) for name in names))

    def flush(self) -> None:
        """Add all waiting attempts to the figures."""
        for (_, is_done), (variant, buffer) in self._buffers.items():
            self._flush(variant, is_done, buffer)
        self._buffers.clear()

    def _flush(self, variant: Variant, is_done: bool, buffer: _Buffer) -> None:
        kind, asked, _ = variant
        columns = [*zip(*buffer.stats, strict=True), buffer.waits]
        kind.usage.add(columns, asked, are_done=is_done)
        if self.scale is None:
            return
        starts, walls, cpus, memories, hosts, processes = columns[:6]
        ends = [start + wall for start, wall in zip(starts, walls, strict=True)]
        used = [cpu / wall if wall else 0.0 for cpu, wall in zip(cpus, walls, strict=True)]
        assert kind.running is not None
        spans = self.scale.spans(starts, ends)
        running = spans.changes(repeat(1.0))
        kind.running.take(running)
        self.cores_asked.take(running, asked.cores)
        self.memory_asked.take(running, asked.memory)
        self.cpu.take(spans.changes(used))
        self.memory.take(spans.changes(memories))
        if pairs := [pair for pair in zip(buffer.given, starts, strict=True) if 0 < pair[0] < pair[1]]:
            self.queued.take(self.scale.spans(*zip(*pairs, strict=True)).changes(repeat(1.0)))
        for key, members in _grouped(zip(hosts, processes, strict=True)):
            worker = self._worker(key)
            worker.levels.take(spans.of(members).changes(repeat(1.0)))
            worker.attempts += len(members)
            worker.failed += 0 if is_done else len(members)
            worker.busy += sum(walls[n] for n in members)
            worker.cpu += sum(cpus[n] for n in members)

    def _worker(self, key: tuple[str, int]) -> Worker:
        assert self.scale is not None
        if key not in self.workers and len(self.workers) >= _MOST_WORKERS:
            key = key[0], 0  # all others of the host
        if key not in self.workers:
            self.workers[key] = Worker(*key, self.scale.level())
        return self.workers[key]


def _short(name: str) -> int:
    """Return a number for a name, the same in every process: very many names would need much memory."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest(), "big")


def _grouped(keys: Iterable[tuple[str, int]]) -> Iterable[tuple[tuple[str, int], list[int]]]:
    groups: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return groups.items()
