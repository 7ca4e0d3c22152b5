"""The resources that attempts used: blocks of attempts are brought into statistics, levels over time and workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from toilfn.inspect.fold.columns import Kind, Variant, Worker
from toilfn.inspect.fold.curves import Levels, Timescale
from toilfn.resources import Resources

__all__ = ["Measures"]

_BLOCK = 4096
"""Attempts of one kind whose figures are worked out together."""
_MOST_WORKERS = 256


class _Buffer:
    """Attempts of a variant that are not in the figures yet."""

    __slots__ = ("given", "stats", "waits")

    def __init__(self) -> None:
        self.stats: list[Sequence[Any]] = []
        self.waits: list[float] = []
        self.given: list[float] = []
        """When each was given to the cluster."""


class Measures:
    """Takes attempts that ended.

    Attributes
    ----------
    scale : Timescale or None
        None if levels are not wanted.
    queued, cpu, memory : Levels
        Tasks that were given to the cluster and did not run yet; cores and bytes that attempts used.
    cores_asked, memory_asked : Levels
        Cores and bytes that they had asked for.
    workers : dict
        By host and process.
    """

    def __init__(self) -> None:
        self.scale: Timescale | None = None
        self.queued, self.cpu, self.memory = Levels(), Levels(), Levels()
        self.cores_asked, self.memory_asked = Levels(), Levels()
        self.workers: dict[tuple[str, int], Worker] = {}
        self._buffers: dict[tuple[int, bool], tuple[Variant, _Buffer]] = {}

    def begin(self, moment: float, kinds: Iterable[Kind]) -> None:
        """Note levels from a moment on."""
        if self.scale is None:
            self.scale = Timescale(moment)
            self.scale.levels += [self.queued, self.cpu, self.memory, self.cores_asked, self.memory_asked]
            for kind in kinds:
                kind.running = self.scale.level()

    def kind(self, name: str, number: int) -> Kind:
        """Build a kind of tasks."""
        return Kind(name, number, self.scale.level() if self.scale else None)

    def add(
        self, number: int, variant: Variant, stats: Sequence[Any], wait: float, given: float, *, is_done: bool
    ) -> None:
        """Take an attempt.

        Parameters
        ----------
        number : int
            The variant's.
        variant : Variant
        stats : sequence
            The fields of `Stats`.
        wait : float
            Seconds.
        given : float
            When it was given to the cluster, in seconds since the epoch; 0 where that is not known.
        is_done : bool
            Whether it succeeded.
        """
        key = number, is_done
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = variant, _Buffer()
        buffer = found[1]
        buffer.stats.append(stats)
        buffer.waits.append(wait)
        buffer.given.append(given)
        if len(buffer.waits) >= _BLOCK:
            del self._buffers[key]
            self._flush(*variant, is_done, buffer)

    def flush(self) -> None:
        """Bring all attempts into the figures."""
        for (_, is_done), (variant, buffer) in self._buffers.items():
            self._flush(*variant, is_done, buffer)
        self._buffers.clear()

    def _flush(self, kind: Kind, asked: Resources, is_done: bool, buffer: _Buffer) -> None:
        columns = [*zip(*buffer.stats, strict=True), buffer.waits]
        kind.usage.add(columns, asked, are_done=is_done)
        if self.scale is None:
            return
        starts, walls, cpus, memories, hosts, processes = columns[:6]
        ends = [start + wall for start, wall in zip(starts, walls, strict=True)]
        used = [cpu / wall if wall else 0.0 for cpu, wall in zip(cpus, walls, strict=True)]
        assert kind.running is not None
        levels: list[tuple[Levels, Iterable[float]]] = [
            (kind.running, repeat(1.0)), (self.cpu, used), (self.memory, memories),
            (self.cores_asked, repeat(asked.cores)), (self.memory_asked, repeat(float(asked.memory))),
        ]  # fmt: skip
        self.scale.add(starts, ends, levels)
        if pairs := [pair for pair in zip(buffer.given, starts, strict=True) if 0 < pair[0] < pair[1]]:
            submitted, begun = zip(*pairs, strict=True)
            self.scale.add(submitted, begun, [(self.queued, repeat(1.0))])
        for key, members in _grouped(zip(hosts, processes, strict=True)):
            self._flush_worker(key, starts, ends, cpus, members, is_done)

    def _flush_worker(
        self, key: tuple[str, int], starts: Sequence[float], ends: Sequence[float], cpus: Sequence[float],
        members: Sequence[int], is_done: bool,
    ) -> None:  # fmt: skip
        assert self.scale is not None
        if key not in self.workers and len(self.workers) >= _MOST_WORKERS:
            key = key[0], 0  # all others of the host
        if key not in self.workers:
            self.workers[key] = Worker(*key, self.scale.level())
        worker = self.workers[key]
        own_starts, own_ends = [starts[n] for n in members], [ends[n] for n in members]
        self.scale.add(own_starts, own_ends, [(worker.levels, repeat(1.0))])
        worker.attempts += len(members)
        worker.failed += 0 if is_done else len(members)
        worker.busy += sum(own_ends) - sum(own_starts)
        worker.cpu += sum(cpus[n] for n in members)


def _grouped(keys: Iterable[tuple[str, int]]) -> Iterable[tuple[tuple[str, int], list[int]]]:
    groups: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return groups.items()
