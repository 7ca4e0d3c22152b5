"""Decide how many machines each pool of a cluster should have.

`decide` is a pure function: it has no clock, and sends no requests to the cloud. It packs the queued tasks, largest
first, into the free resources of existing machines, and then into new machines, so that each task either starts at once
or ends within the target time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from toilfn.cloud.machines import MachineType, Pool, has_devices, shortfall, usable
from toilfn.cloud.packing import Amounts, Timeline, amounts_of
from toilfn.resources import Resources
from toilfn.units import format_duration, format_size

__all__ = [
    "Action", "Create", "Demand", "Drain", "Load", "Machine", "Memory", "Settings", "Terminate", "Undrain", "Unplaced",
    "decide", "note_created", "round_half_up",
]  # fmt: skip

_STEPS = 32
"""The remaining times of running tasks are rounded up to this fraction of the target time. Then many machines have
equal timelines, and are handled together."""
_ROUNDS = 16
"""Maximum number of times to pack the same tasks until the number of new machines no longer changes. Three are usually
enough, except for a pool at its maximum, where each packing may replace a machine of one type by another."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the scaler.

    Attributes
    ----------
    pools : tuple of Pool
        The pools. If costs are equal, the earlier pool is used.
    target_time : float
        Seconds within which all tasks that are queued now should be done.
    inertia : float
        From 0 to 0.9: the weight of earlier sizes in the moving average of a pool's size, by which it shrinks.
    compensation : float
        From 0 to 1: the number of on-demand machines to create for each spot machine that is not available.
    overhead : bool
        Whether some memory and disk space of a machine is reserved for its system.
    linger : float
        Seconds for which a machine must have been unneeded before it is drained.
    cooldown : float
        Seconds before a type is requested again in a pool after the cloud did not have it.
    """

    pools: tuple[Pool, ...]
    target_time: float = 1800.0
    inertia: float = 0.1
    compensation: float = 0.0
    overhead: bool = True
    linger: float = 300.0
    cooldown: float = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """A task that is running on a machine: the amounts that it uses, and its expected remaining time in seconds."""

    need: Amounts
    seconds: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is running or booting.

    Attributes
    ----------
    id : str
        The id of the machine in the cloud, or its name in the engine.
    pool, type : str
        The names of its pool and of its machine type.
    loads : tuple of Load
        The tasks that are running on it.
    draining : bool
        Whether the machine is drained and gets no new tasks.
    static : bool
        Whether the machine is never drained or terminated.
    """

    id: str
    pool: str
    type: str
    loads: tuple[Load, ...] = ()
    draining: bool = False
    static: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """Queued tasks of one shape.

    Attributes
    ----------
    resources : Resources
        The resources that each task requests.
    count : int
        The number of tasks.
    seconds : float
        The expected time of each task; infinite for services.
    """

    resources: Resources
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The state that one decision passes to the next.

    Attributes
    ----------
    averages : mapping
        The moving average of each pool's size, by the pool's name.
    cooling : mapping
        The time until which a type is not requested in a pool, by the names of pool and type.
    surplus_since : mapping
        The time since which a machine has been unneeded, by its id.
    compensating : mapping
        The number of on-demand machines that were created instead of spot machines, by the names of pool and type.
    """

    averages: Mapping[str, float] = field(default_factory=dict)
    cooling: Mapping[tuple[str, str], float] = field(default_factory=dict)
    surplus_since: Mapping[str, float] = field(default_factory=dict)
    compensating: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Create:
    """Create machines."""

    pool: str
    type: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain a machine, so that it gets no new tasks."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Use a drained machine for new tasks again."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Remove a machine that is drained and idle."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No machine can be provided for some tasks: none is large enough, or the pools have their maximum sizes."""

    resources: Resources
    count: int
    reason: str


Action = Create | Drain | Undrain | Terminate | Unplaced


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, a half away from zero.

    >>> round_half_up(0.5), round_half_up(2.5), round_half_up(-0.5)
    (1, 3, -1)
    """
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def decide(
    settings: Settings, machines: Sequence[Machine], demand: Iterable[Demand], memory: Memory, now: float
) -> tuple[list[Action], Memory]:
    """Decide how to change the sizes of all pools.

    Parameters
    ----------
    settings : Settings
        The settings.
    machines : sequence of Machine
        All machines that are running or booting.
    demand : iterable of Demand
        The queued tasks, which have no machine yet.
    memory : Memory
        The memory that the previous decision returned; ``Memory()`` for the first decision.
    now : float
        The time in seconds, on a scale that is the same for all decisions.

    Returns
    -------
    actions : list of Action
        The actions, each with its reason.
    memory : Memory
        The memory for the next decision. Pass it to `note_created` with the result of each `Create`.
    """
    machines = sorted(machines, key=lambda machine: machine.id)  # the result must not depend on the caller's order
    packed = _settled(settings, machines, sorted(_merged(demand), key=_size_order, reverse=True), memory, now)
    compensating = packed.compensate()
    return _Outcome(settings, machines, memory, now, packed, compensating).decide()


def _settled(
    settings: Settings, machines: Sequence[Machine], groups: Sequence[Demand], memory: Memory, now: float
) -> _Packing:
    """Return a packing that would be the same in the next decision, when the new machines exist.

    New machines are added group by group, and a later group may fill the gaps of an earlier one. If the same tasks are
    then packed into all these machines again, fewer may be enough. So packing is repeated until the number of new
    machines no longer changes.
    """
    planned: dict[tuple[str, str], int] = {}
    for _ in range(_ROUNDS):
        packed = _Packing(settings, machines, memory, now, planned)
        for group in groups:
            packed.add(group)
        wanted = packed.created()
        if wanted == planned:
            break
        planned = wanted
    return packed


def note_created(settings: Settings, memory: Memory, wanted: Create, got: int, now: float) -> Memory:
    """Return the memory with the result of a `Create` action.

    If the cloud had too few machines of a type, that type is not requested again for ``cooldown`` seconds. Meanwhile,
    other types are used. If no type of spot machines is available, on-demand machines compensate for them.
    """
    cooling = {key: until for key, until in memory.cooling.items() if until > now}
    if got < wanted.count:
        cooling[wanted.pool, wanted.type] = now + settings.cooldown
    return replace(memory, cooling=cooling)


def _merged(demand: Iterable[Demand]) -> list[Demand]:
    """Merge the groups of tasks with the same shape and expected time."""
    counts: dict[tuple[Resources, float], int] = {}
    for group in demand:
        if group.count > 0:
            key = (group.resources, group.seconds)
            counts[key] = counts.get(key, 0) + group.count
    return [Demand(resources, count, seconds) for (resources, seconds), count in counts.items()]


def _size_order(group: Demand) -> tuple[object, ...]:
    """Return a sort key that is larger for tasks that are harder to place.

    Tasks that are not preemptible have fewer pools to choose from; then accelerators and sizes decide.
    """
    need = amounts_of(group.resources)
    return (not group.resources.preemptible, need.accelerators, need.memory, need.cores, need.disk, group.seconds)


@dataclass(slots=True)
class _Bin:
    """Machines with equal timelines: either existing machines, or a number of new ones."""

    pool: Pool
    kind: MachineType
    timeline: Timeline
    machines: list[Machine]
    new: int = 0
    is_missing: bool = False
    """Whether these are spot machines that are not available now."""
    is_used: bool = False

    @property
    def count(self) -> int:
        return len(self.machines) or self.new

    def split(self, count: int) -> tuple[_Bin, _Bin]:
        """Split off `count` machines; return them, and the rest."""
        first = replace(self, machines=self.machines[:count], new=min(count, self.new))
        rest = replace(self, machines=self.machines[count:], new=max(0, self.new - count))
        return first, rest


class _Packing:
    """Packs queued tasks into existing machines, then into new ones."""

    def __init__(
        self, settings: Settings, machines: Sequence[Machine], memory: Memory, now: float,
        planned: Mapping[tuple[str, str], int],
    ) -> None:  # fmt: skip
        self.settings = settings
        self.pools = {pool.name: pool for pool in settings.pools}
        self.sizes = {name: sum(machine.pool == name for machine in machines) for name in self.pools}
        self.unplaced: list[Unplaced] = []
        self._machines = machines
        self._memory = memory
        self._now = now
        self._room = {(pool.name, kind.name): usable(kind, overhead=settings.overhead)
                      for pool in settings.pools for kind in pool.types}  # fmt: skip
        self._ranks = {key: rank for rank, key in enumerate(self._room)}
        self.bins = self._existing(planned)

    def _existing(self, planned: Mapping[tuple[str, str], int]) -> list[_Bin]:
        """Return existing and planned machines: the fullest ones first, and those that are draining last."""
        known = [m for m in self._machines if (m.pool, m.type) in self._room]
        alike: dict[object, _Bin] = {}
        for machine in sorted(known, key=self._preference):
            timeline = Timeline(self._room[machine.pool, machine.type])
            for load in machine.loads:
                timeline.take(load.need, self._rounded(load.seconds))
            key = (machine.pool, machine.type, machine.draining, timeline.key())
            pool = self.pools[machine.pool]
            alike.setdefault(key, _Bin(pool, pool.by_name[machine.type], timeline, [])).machines.append(machine)
        ranked = [(self._preference(bin_.machines[0])[:3], bin_) for bin_ in alike.values()]
        for (name, kind), count in planned.items():
            pool, room = self.pools[name], self._room[name, kind]
            new = _Bin(pool, pool.by_name[kind], Timeline(room), [], count)
            ranked.append(((False, 0.0, self._ranks[name, kind]), new))
            self.sizes[name] += count
        return [bin_ for _, bin_ in sorted(ranked, key=itemgetter(0))]

    def _preference(self, machine: Machine) -> tuple[bool, float, int, str]:
        return machine.draining, -self.fullness(machine), self._ranks[machine.pool, machine.type], machine.id

    def created(self) -> dict[tuple[str, str], int]:
        """Return the number of new machines with tasks, by pool and type."""
        counts: dict[tuple[str, str], int] = {}
        for bin_ in self.bins:
            if bin_.new and bin_.is_used and not bin_.is_missing:
                key = bin_.pool.name, bin_.kind.name
                counts[key] = counts.get(key, 0) + bin_.new
        return counts

    def fullness(self, machine: Machine) -> float:
        """Return the share of a machine that is in use."""
        room = self._room.get((machine.pool, machine.type))
        return max((Amounts(*map(sum, zip(*(load.need.values() for load in machine.loads), strict=True))).share_of(room)
                    if room and machine.loads else 0.0), 0.0)  # fmt: skip

    def _rounded(self, seconds: float) -> float:
        step = max(self.settings.target_time, 1.0) / _STEPS
        return math.ceil(max(seconds, 1.0) / step) * step if math.isfinite(seconds) else seconds

    def add(self, group: Demand) -> None:
        """Place tasks of one shape."""
        left = self._into_bins(group, group.count)
        while left:
            placed = self._into_new(group, left)
            if not placed:
                self.unplaced.append(Unplaced(group.resources, left, self._why_not(group)))
                return
            left -= placed

    def _into_bins(self, group: Demand, left: int) -> int:
        need, bins = amounts_of(group.resources), []
        for index, bin_ in enumerate(self.bins):
            if not left:
                bins += self.bins[index:]
                break
            if not bin_.pool.admits(group.resources) or not has_devices(bin_.kind, group.resources):
                bins.append(bin_)
                continue
            parts, left = self._fill(bin_, need, group.seconds, left)
            bins += parts
        self.bins = bins
        return left

    def _fill(self, bin_: _Bin, need: Amounts, seconds: float, left: int) -> tuple[list[_Bin], int]:
        """Place tasks on equal machines, one after another.

        Returns
        -------
        tuple
            The machines, grouped by their new timelines; and the number of tasks that are left.
        """
        filled = bin_.timeline.copy()
        each = filled.place(need, seconds, left, self.settings.target_time)
        if not each:
            return [bin_], left
        full, rest = bin_.split(min(bin_.count, left // each))
        parts = [replace(full, timeline=filled, is_used=True)]
        left -= each * full.count
        if left and rest.count:
            partly, rest = rest.split(1)
            timeline = bin_.timeline.copy()
            left -= timeline.place(need, seconds, left, self.settings.target_time)
            parts.append(replace(partly, timeline=timeline, is_used=True))
        return [*parts, *([rest] if rest.count else [])], left

    def _into_new(self, group: Demand, left: int) -> int:
        """Add new machines of the type that is cheapest for these tasks; return how many tasks fit on them."""
        choice = min(self._offers(group, left), default=None, key=lambda offer: offer[0])
        if choice is None:
            return 0
        _, pool, kind, each, is_missing = choice
        wanted = max(1, left // each)
        count = min(wanted, pool.max - self.sizes[pool.name])
        timeline = Timeline(self._room[pool.name, kind.name])
        placed = timeline.place(amounts_of(group.resources), group.seconds, left, self.settings.target_time)
        self.bins.append(_Bin(pool, kind, timeline, [], count, is_missing, is_used=True))
        self.sizes[pool.name] += count
        return min(left, placed * count)

    def _offers(self, group: Demand, left: int) -> Iterable[tuple[tuple[float, ...], Pool, MachineType, int, bool]]:
        """Yield the types on which the tasks can run.

        Each comes with the cost of a task, its pool, the number of tasks that fit on a machine, and whether it is not
        available at present.
        """
        need = amounts_of(group.resources)
        homes = self._homes(group.resources)
        for order, (pool, kind) in enumerate(homes):
            each = Timeline(self._room[pool.name, kind.name]).place(
                need, group.seconds, left, self.settings.target_time
            )
            is_missing = self._memory.cooling.get((pool.name, kind.name), 0.0) > self._now
            if each and self.sizes[pool.name] < pool.max:
                yield (float(is_missing), kind.cost() / each, -each, order), pool, kind, each, is_missing

    def _homes(self, resources: Resources) -> list[tuple[Pool, MachineType]]:
        """Return the pools and types of new machines for a task.

        A preemptible task gets spot machines if any pool of spot machines can run it. On-demand machines replace them
        only as far as ``compensation`` allows, if they are not available.
        """
        overhead = self.settings.overhead
        admitting = [(pool, kind) for pool in self.settings.pools if pool.admits(resources) for kind in pool.types]
        homes = [
            home for home in admitting if home[0].max > 0 and not shortfall(home[1], resources, overhead=overhead)[0]
        ]
        spot = [(pool, kind) for pool, kind in homes if pool.spot]
        return spot or homes

    def _why_not(self, group: Demand) -> str:
        if homes := self._homes(group.resources):
            names = ", ".join(dict.fromkeys(f"{pool.name} ({pool.max})" for pool, _ in homes))
            return f"every pool that could run them has its maximum number of machines: {names}"
        admitting = [
            (pool, kind) for pool in self.settings.pools if pool.admits(group.resources) for kind in pool.types
        ]
        if not admitting:
            return "they must not be preempted, and all pools have spot machines"
        overhead = self.settings.overhead
        nearest = min(admitting, key=lambda home: shortfall(home[1], group.resources, overhead=overhead)[0])
        return f"each requests {shortfall(nearest[1], group.resources, overhead=overhead)[1]} (pool {nearest[0].name})"

    def compensate(self) -> dict[tuple[str, str], int]:
        """Add on-demand machines for a share of the spot machines that are not available.

        Return the number of such on-demand machines, including earlier ones, by pool and type.
        """
        missing: dict[str, int] = {}
        for bin_ in self.bins:
            if bin_.is_missing:
                missing[bin_.kind.name] = missing.get(bin_.kind.name, 0) + bin_.new
        found: dict[tuple[str, str], int] = {}
        for pool in self.settings.pools:
            for kind in () if pool.spot else pool.types:
                there = sum(m.pool == pool.name and m.type == kind.name for m in self._machines)
                made = min(self._memory.compensating.get((pool.name, kind.name), 0), there)
                wanted = round_half_up(self.settings.compensation * (missing.pop(kind.name, 0) + made))
                extra = max(0, min(wanted - made, pool.max - self.sizes[pool.name]))
                if extra:
                    self.bins.append(
                        _Bin(pool, kind, Timeline(self._room[pool.name, kind.name]), [], extra, is_used=True)
                    )
                    self.sizes[pool.name] += extra
                if made + extra:
                    found[pool.name, kind.name] = made + extra
        return found


class _Outcome:
    """Determines the actions that change the existing machines to the required ones."""

    def __init__(
        self, settings: Settings, machines: Sequence[Machine], memory: Memory, now: float, packed: _Packing,
        compensating: Mapping[tuple[str, str], int],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._machines = machines
        self._memory = memory
        self._now = now
        self._packed = packed
        self._compensating = compensating
        self._used = {machine.id for bin_ in packed.bins if bin_.is_used for machine in bin_.machines}
        self._averages: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def decide(self) -> tuple[list[Action], Memory]:
        """Return the actions for all pools, and the memory for the next decision."""
        actions: list[Action] = []
        for pool in self._settings.pools:
            actions += self._pool(pool)
        cooling = {key: until for key, until in self._memory.cooling.items() if until > self._now}
        memory = Memory(self._averages, cooling, self._since, self._compensating)
        return [*actions, *self._packed.unplaced], memory

    def _pool(self, pool: Pool) -> list[Action]:
        machines = [m for m in self._machines if m.pool == pool.name]
        new = [
            bin_
            for bin_ in self._packed.bins
            if bin_.pool is pool and bin_.new and bin_.is_used and not bin_.is_missing
        ]
        needed = [m for m in machines if m.id in self._used or m.loads or m.static]
        wanted = max(pool.min, min(pool.max, len(needed) + sum(bin_.new for bin_ in new)))
        average = self._smooth(pool, wanted)
        active = [m for m in machines if not m.draining]
        again = [m for m in machines if m.draining and m.id in self._used][: max(0, pool.max - len(active))]
        actions: list[Action] = [Undrain(m.id, "queued tasks fit on it") for m in again]
        kept = active + again
        actions += self._drain(pool, kept, max(average, wanted))
        going = [m for m in machines if m.draining and m not in again]
        back = going[: max(0, pool.min - len(kept))]
        actions += [Undrain(m.id, f"pool {pool.name} keeps at least {pool.min} machines") for m in back]
        actions += [Terminate(m.id, "it is drained and idle") for m in going
                    if not (m.loads or m.static or m in back or m.id in self._used)]  # fmt: skip
        return actions + self._create(pool, new, len(kept) + len(back), len(machines))

    def _smooth(self, pool: Pool, wanted: int) -> int:
        """Return the moving average of the pool's size, rounded; at least 1 if any machine is required."""
        inertia = self._settings.inertia
        average = (1 - inertia) * wanted + inertia * self._memory.averages.get(pool.name, wanted)
        self._averages[pool.name] = average
        return max(round_half_up(average), 1 if wanted else 0)

    def _drain(self, pool: Pool, kept: Sequence[Machine], target: int) -> list[Action]:
        """Drain machines that were unneeded for ``linger`` seconds, the emptiest first, and those above the maximum."""
        removable = sorted((m for m in kept if not m.static), key=lambda m: (self._packed.fullness(m), m.id))
        over = len(kept) - pool.max
        forced = removable[: max(0, over)]
        actions: list[Action] = [Drain(m.id, f"pool {pool.name} may have at most {pool.max} machines") for m in forced]
        spare = len(kept) - len(forced) - target
        idle = [m for m in removable if not m.loads and m.id not in self._used and m not in forced]
        for machine in idle[: max(0, spare)]:
            since = self._memory.surplus_since.get(machine.id, self._now)
            if self._now - since >= self._settings.linger:
                lasted = format_duration(self._now - since)
                actions.append(
                    Drain(machine.id, f"nothing has needed it for {lasted}; pool {pool.name} wants {target}")
                )
            else:
                self._since[machine.id] = since
        return actions

    def _create(self, pool: Pool, new: Sequence[_Bin], kept: int, existing: int) -> list[Action]:
        counts: dict[str, int] = {}
        for bin_ in new:
            counts[bin_.kind.name] = counts.get(bin_.kind.name, 0) + bin_.new
        actions: list[Action] = []
        for name, count in counts.items():
            actions.append(Create(pool.name, name, count, self._why(pool, name)))
        missing = min(pool.min - kept - sum(counts.values()), pool.max - existing - sum(counts.values()))
        if missing > 0:
            kinds = [k for k in pool.types if self._memory.cooling.get((pool.name, k.name), 0.0) <= self._now]
            cheapest = min(kinds, key=MachineType.cost, default=None)
            if cheapest is not None:
                reason = f"pool {pool.name} keeps at least {pool.min} machines"
                actions.append(Create(pool.name, cheapest.name, missing, reason))
        return actions

    def _why(self, pool: Pool, kind: str) -> str:
        stands_in = self._compensating.get((pool.name, kind), 0) - self._memory.compensating.get((pool.name, kind), 0)
        if stands_in > 0 and not pool.spot:
            return f"{stands_in} in place of spot machines of type {kind} that are not available"
        room = self._packed._room[pool.name, kind]
        within = format_duration(self._settings.target_time)
        size = f"{room.cores:g} cores, {format_size(room.memory)} for tasks"
        return f"queued tasks need them to be done within {within} ({size})"
