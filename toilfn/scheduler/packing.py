"""The shapes of tasks, and the pool from which batches take their resources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias
from weakref import WeakValueDictionary

from toilfn.resources import Accelerator, Capacity, Resources

__all__ = ["Devices", "Pool", "Shape", "Shapes"]

Devices: TypeAlias = tuple[tuple[Accelerator, int], ...]
"""Accelerators taken from a pool: the sort of each (whose own count does not matter), and the number."""


class Shape:
    """Resources in a form that is quick to calculate with. Shapes are compared by identity: see `Shapes`."""

    __slots__ = ("__weakref__", "cores", "disk", "is_service", "memory", "resources")

    def __init__(self, resources: Resources, *, is_service: bool = False) -> None:
        self.resources = resources
        self.is_service = is_service
        #: Thousandths, so that sums are exact.
        self.cores = math.ceil(round(resources.cores * 1000, 3))
        self.memory = resources.memory
        self.disk = resources.disk

    @property
    def walltime(self) -> float:
        """The longest one attempt may take, in seconds."""
        return math.inf if self.resources.walltime is None else self.resources.walltime

    def fits_in(self, limit: Shape) -> bool:
        """Return whether a task of this shape can run with the resources of another; the walltime does not matter."""
        if self.cores > limit.cores or self.memory > limit.memory or self.disk > limit.disk:
            return False
        wanted = self.resources.accelerators
        return not wanted or _choose(wanted, _sorts(limit.resources)) is not None

    def can_join(self, other: Shape) -> bool:
        """Return whether a task of this shape can run in a batch that was started for another."""
        if self.is_service or other.is_service:
            return False
        if self is other:
            return True
        own, given = self.resources, other.resources
        same_place = own.local == given.local and own.preemptible >= given.preemptible
        return same_place and self.walltime <= other.walltime and self.fits_in(other)


class Shapes:
    """Keeps one shape for all tasks that request the same resources, and another one for services, while any exist."""

    def __init__(self, shapes: Iterable[Shape] = ()) -> None:
        self._of_tasks: WeakValueDictionary[Resources, Shape] = WeakValueDictionary()
        self._of_services: WeakValueDictionary[Resources, Shape] = WeakValueDictionary()
        for shape in shapes:
            self._known(shape.is_service)[shape.resources] = shape

    def of(self, resources: Resources, *, is_service: bool = False) -> Shape:
        """Return the shape that stands for these resources."""
        known = self._known(is_service)
        shape = known.get(resources)
        if shape is None:
            shape = known[resources] = Shape(resources, is_service=is_service)
        return shape

    def _known(self, is_service: bool) -> WeakValueDictionary[Resources, Shape]:
        return self._of_services if is_service else self._of_tasks

    def __reduce__(self) -> tuple[type[Shapes], tuple[list[Shape]]]:
        return Shapes, ([*self._of_tasks.values(), *self._of_services.values()],)


class Pool:
    """The capacity of a cluster, and how much of it is taken.

    Parameters
    ----------
    capacity : Capacity
    """

    def __init__(self, capacity: Capacity) -> None:
        self._batches = self._cores = self._memory = self._disk = 0
        #: How many services run, on nodes that are not preemptible and on those that are.
        self._services = [0, 0]
        self._devices: dict[Accelerator, int] = {}
        self.resize(capacity)

    def resize(self, capacity: Capacity) -> None:
        """Change the capacity; resources in use stay in use, even if they exceed it."""
        self._most_batches = math.inf if capacity.batches is None else capacity.batches
        limits = (capacity.services, capacity.preemptible_services)
        self._most_services = tuple(math.inf if limit is None else limit for limit in limits)
        self._total = None if capacity.total is None else Shape(capacity.total)
        self._largest = self._total if capacity.largest is None else Shape(capacity.largest)
        self._most_cores = math.inf if capacity.cores is None else math.floor(round(capacity.cores * 1000, 3))
        self._most_memory = math.inf if capacity.memory is None else capacity.memory
        self._most_disk = math.inf if capacity.disk is None else capacity.disk

    @property
    def is_queue(self) -> bool:
        """Whether the cluster has its own queue, so that a batch given to it need not have started."""
        return self._total is None

    @property
    def batches(self) -> int:
        """The number of batches on the cluster, without services."""
        return self._batches

    @property
    def largest(self) -> Resources | None:
        """The most resources that one batch may have; None where that is not known."""
        return None if self._largest is None else self._largest.resources

    @property
    def longest(self) -> float:
        """The longest time that a batch may take, in seconds."""
        return math.inf if self._largest is None else self._largest.walltime

    @property
    def most_memory(self) -> float:
        """The most memory that one batch may have, in bytes."""
        return min(self._most_memory, math.inf if self._largest is None else self._largest.memory)

    def can_ever(self, shape: Shape) -> bool:
        """Return whether the cluster may ever be able to offer this shape, and the user's limits allow it."""
        if not self._is_allowed(shape):
            return False
        if self._largest is None:
            return True
        is_short = shape.resources.walltime is None or shape.walltime <= self.longest
        return is_short and shape.fits_in(self._largest)

    def _is_allowed(self, shape: Shape) -> bool:
        """Return whether the user's limits leave room for this shape when nothing else runs."""
        return shape.cores <= self._most_cores and shape.memory <= self._most_memory and shape.disk <= self._most_disk

    def can_when_empty(self, shape: Shape) -> bool:
        """Return whether there is room for this shape once all batches have ended."""
        has_slot = self._most_batches > 0 and self._is_allowed(shape)
        return has_slot and (self._total is None or shape.fits_in(self._total))

    def can_hold(self, services: Sequence[Shape], task: Shape) -> bool:
        """Return whether these services and one task beside them can run at the same time when nothing else runs."""
        for preemptible, most in enumerate(self._most_services):
            if sum(shape.resources.preemptible == preemptible for shape in services) > most:
                return False
        together = _sum([*services, task])
        return self._is_allowed(together) and (self._total is None or together.fits_in(self._total))

    def has_room(self, shape: Shape) -> bool:
        """Return whether a batch of this shape can be started now."""
        if self._slots_left(shape) <= 0 or not self._is_within_limits(shape):
            return False
        total = self._total
        if total is None:
            return True
        return (
            self._cores + shape.cores <= total.cores
            and self._memory + shape.memory <= total.memory
            and self._disk + shape.disk <= total.disk
            and (not shape.resources.accelerators or self._pick(total, shape) is not None)
        )

    def _is_within_limits(self, shape: Shape) -> bool:
        """Return whether the user's limits leave room for this shape beside the resources in use."""
        return (
            self._cores + shape.cores <= self._most_cores
            and self._memory + shape.memory <= self._most_memory
            and self._disk + shape.disk <= self._most_disk
        )

    def slots(self, shape: Shape) -> float:
        """Estimate how many more batches can be started now; accelerators are not looked at."""
        counts = [self._slots_left(shape)]
        limits = (self._most_cores, self._most_memory, self._most_disk)
        taken, wanted = (self._cores, self._memory, self._disk), (shape.cores, shape.memory, shape.disk)
        counts += [(most - has) // needs for most, has, needs in zip(limits, taken, wanted, strict=True) if needs]
        total = self._total
        if total is not None:
            free = (total.cores - self._cores, total.memory - self._memory, total.disk - self._disk)
            asked = (shape.cores, shape.memory, shape.disk)
            counts += [has // needs for has, needs in zip(free, asked, strict=True) if needs]
        return min(counts)

    def _slots_left(self, shape: Shape) -> float:
        if shape.is_service:
            preemptible = shape.resources.preemptible
            return self._most_services[preemptible] - self._services[preemptible]
        return math.inf if self._is_beside(shape) else self._most_batches - self._batches

    def _is_beside(self, shape: Shape) -> bool:
        """Return whether a batch runs beside the leader and not on the cluster, which then has a queue of its own."""
        return shape.resources.local and self.is_queue

    def take(self, shape: Shape) -> Devices:
        """Take the resources of one batch, for which there must be room; return its devices."""
        self._add(shape, 1)
        if self._total is None or not shape.resources.accelerators:
            return ()
        devices = tuple((self._pick(self._total, shape) or {}).items())
        for sort, count in devices:
            self._devices[sort] = self._devices.get(sort, 0) + count
        return devices

    def give_back(self, shape: Shape, devices: Devices) -> None:
        """Return what `take` took."""
        self._add(shape, -1)
        for sort, count in devices:
            self._devices[sort] -= count

    def _add(self, shape: Shape, times: int) -> None:
        if shape.is_service:
            self._services[shape.resources.preemptible] += times
        elif not self._is_beside(shape):
            self._batches += times
        self._cores += times * shape.cores
        self._memory += times * shape.memory
        self._disk += times * shape.disk

    def _pick(self, total: Shape, shape: Shape) -> dict[Accelerator, int] | None:
        free = {sort: count - self._devices.get(sort, 0) for sort, count in _sorts(total.resources).items()}
        return _choose(shape.resources.accelerators, free)


def _sum(shapes: Sequence[Shape]) -> Shape:
    """Add up the resources of shapes."""
    asked = [shape.resources for shape in shapes]
    cores = sum(shape.cores for shape in shapes) / 1000
    devices = tuple(device for one in asked for device in one.accelerators)
    return Shape(Resources(cores, sum(one.memory for one in asked), sum(one.disk for one in asked), devices))


def _sorts(resources: Resources) -> dict[Accelerator, int]:
    """Count devices of each sort."""
    counts: dict[Accelerator, int] = {}
    for device in resources.accelerators:
        sort = replace(device, count=1)
        counts[sort] = counts.get(sort, 0) + device.count
    return counts


def _choose(wanted: Iterable[Accelerator], free: Mapping[Accelerator, int]) -> dict[Accelerator, int] | None:
    """Choose devices for all wishes; None if there are too few.

    The wishes that name most choose first, and devices of which least is known go first.
    """
    left = dict(free)
    taken: dict[Accelerator, int] = {}
    for wish in sorted(wanted, key=_named, reverse=True):
        missing = wish.count
        for sort in sorted((sort for sort in left if _serves(sort, wish)), key=_named):
            count = max(0, min(missing, left[sort]))
            left[sort] -= count
            missing -= count
            taken[sort] = taken.get(sort, 0) + count
        if missing:
            return None
    return taken


def _named(sort: Accelerator) -> int:
    return sum(field is not None for field in (sort.model, sort.brand, sort.api))


def _serves(device: Accelerator, wish: Accelerator) -> bool:
    wishes = ((wish.model, device.model), (wish.brand, device.brand), (wish.api, device.api))
    return wish.kind == device.kind and all(asked in (None, has) for asked, has in wishes)
