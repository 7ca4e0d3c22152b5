"""How many machines of which pool a cluster should have: one pure function.

`decide` has no clock and talks to no cloud. It packs the queued tasks, largest first, into what is free on the machines
that there are and into new ones, so that each task either starts at once or ends within the target time.
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
"""The remaining times of running tasks are rounded up to this part of the target time, so that timelines are alike."""
_ROUNDS = 16
"""How often the same tasks are packed at most, to find how many new machines they need. It is seldom more than three
times, except in a pool at its maximum, where each packing may exchange a machine of one type for one of another."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to scale.

    Attributes
    ----------
    pools : tuple of Pool
        Where machines come from; the earlier one is taken where costs are equal.
    target_time : float
        Seconds within which all that is queued now should be done.
    inertia : float
        From 0 to 0.9: how much the last sizes count against the new ones when a pool shrinks.
    compensation : float
        From 0 to 1: how many machines on demand stand in for each spot machine that is not available.
    overhead : bool
        Whether the system on a machine keeps some of its memory and disk.
    linger : float
        Seconds for which a machine must have been unneeded before it is drained.
    cooldown : float
        Seconds for which a type is not tried again in a pool after the cloud had none of it.
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
    """A task that runs on a machine: its amounts, and the seconds that it is expected to need still."""

    need: Amounts
    seconds: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that exists or boots.

    Attributes
    ----------
    id : str
        The cloud's or the engine's name for it.
    pool, type : str
        Names of its pool and of its machine type.
    loads : tuple of Load
        The tasks that run on it.
    draining : bool
        Whether it takes no new tasks.
    static : bool
        Whether it stays whatever happens.
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
        The resources of each.
    count : int
        How many there are.
    seconds : float
        How long each is expected to take; infinite for services.
    """

    resources: Resources
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The state that one round hands to the next.

    Attributes
    ----------
    averages : mapping
        Pool to the moving average of its size.
    cooling : mapping
        Pool and type to the time until which the type is not tried there.
    surplus_since : mapping
        Machine to the time since which it has been unneeded.
    compensating : mapping
        Pool on demand and type to how many machines were made there in place of spot machines.
    """

    averages: Mapping[str, float] = field(default_factory=dict)
    cooling: Mapping[tuple[str, str], float] = field(default_factory=dict)
    surplus_since: Mapping[str, float] = field(default_factory=dict)
    compensating: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Create:
    """Make machines."""

    pool: str
    type: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a machine take no new tasks."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Let a machine take tasks again."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Remove a machine, which is drained and idle."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Nothing is done for some tasks, because no machine is large enough or no more may be made."""

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
    """Decide what to do about the sizes of all pools.

    Parameters
    ----------
    settings : Settings
        How to scale.
    machines : sequence of Machine
        All that exist or boot.
    demand : iterable of Demand
        The tasks that are queued and have no machine yet.
    memory : Memory
        The memory that the last round returned; ``Memory()`` for the first.
    now : float
        The time, in seconds since any epoch.

    Returns
    -------
    actions : list of Action
        What to do, each with its reason.
    memory : Memory
        For the next round. `note_created` adds to it what the cloud could not do.
    """
    machines = sorted(machines, key=lambda machine: machine.id)  # the answer does not depend on the order
    packed = _settled(settings, machines, sorted(_merged(demand), key=_size_order, reverse=True), memory, now)
    compensating = packed.compensate()
    return _Outcome(settings, machines, memory, now, packed, compensating).decide()


def _settled(
    settings: Settings, machines: Sequence[Machine], groups: Sequence[Demand], memory: Memory, now: float
) -> _Packing:
    """Return a packing that stays the same in the next round, when the new machines exist.

    New machines are opened group by group, and a later group may fill what an earlier one has left: packed once more
    into all of them, the same tasks may need fewer.
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
    """Return the memory with what became of a `Create`.

    A type of which the cloud had too few cools down: other types are tried meanwhile, and spot machines that no type
    can give are compensated for.
    """
    cooling = {key: until for key, until in memory.cooling.items() if until > now}
    if got < wanted.count:
        cooling[wanted.pool, wanted.type] = now + settings.cooldown
    return replace(memory, cooling=cooling)


def _merged(demand: Iterable[Demand]) -> list[Demand]:
    """Return one group for all tasks of the same shape and time."""
    counts: dict[tuple[Resources, float], int] = {}
    for group in demand:
        if group.count > 0:
            key = (group.resources, group.seconds)
            counts[key] = counts.get(key, 0) + group.count
    return [Demand(resources, count, seconds) for (resources, seconds), count in counts.items()]


def _size_order(group: Demand) -> tuple[object, ...]:
    """Sort by what is hardest to place: tasks that need a machine of their own kind, then the large ones."""
    need = amounts_of(group.resources)
    return (not group.resources.preemptible, need.accelerators, need.memory, need.cores, need.disk, group.seconds)


@dataclass(slots=True)
class _Bin:
    """Machines with equal timelines: some that exist, by their ids, or a number of new ones."""

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
        """Return a part of so many machines, and the rest."""
        first = replace(self, machines=self.machines[:count], new=min(count, self.new))
        rest = replace(self, machines=self.machines[count:], new=max(0, self.new - count))
        return first, rest


class _Packing:
    """The queued tasks in machines that exist, then in new ones."""

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
        """Return what exists or is planned: the fullest machines first, and at the end those that drain."""
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
        """Count the new machines that tasks were placed on, by pool and type."""
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
        """Place what fits into equal machines, one after the other; return their parts, and how many tasks are left."""
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
        """Open machines of the type that is cheapest for these tasks; return how many tasks they take."""
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
        """Yield the types that could take tasks, with what a task would cost there and how many a machine takes."""
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
        """Return where new machines for a task may be made.

        A task that may be preempted gets spot machines wherever there is a pool of them that could run it: machines on
        demand stand in for those only as far as the compensation says.
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
            return f"every pool that could run them has as many machines as it may have: {names}"
        admitting = [
            (pool, kind) for pool in self.settings.pools if pool.admits(group.resources) for kind in pool.types
        ]
        if not admitting:
            return "they must not be preempted, and all pools have spot machines"
        overhead = self.settings.overhead
        nearest = min(admitting, key=lambda home: shortfall(home[1], group.resources, overhead=overhead)[0])
        return f"each requests {shortfall(nearest[1], group.resources, overhead=overhead)[1]} (pool {nearest[0].name})"

    def compensate(self) -> dict[tuple[str, str], int]:
        """Open machines on demand for some spot machines that are not available; return how many there are now."""
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
    """The actions that lead from the machines that exist to those that are wanted."""

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
        """Return the actions of all pools and the next memory."""
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
        """Return the moving average of the pool's size; at least one while anything is wanted."""
        inertia = self._settings.inertia
        average = (1 - inertia) * wanted + inertia * self._memory.averages.get(pool.name, wanted)
        self._averages[pool.name] = average
        return max(round_half_up(average), 1 if wanted else 0)

    def _drain(self, pool: Pool, kept: Sequence[Machine], target: int) -> list[Action]:
        """Drain what has been unneeded for long enough, the emptiest first, and whatever is above the maximum."""
        removable = sorted((m for m in kept if not m.static), key=lambda m: (self._packed.fullness(m), m.id))
        over = len(kept) - pool.max
        forced = removable[: max(0, over)]
        actions: list[Action] = [Drain(m.id, f"pool {pool.name} may have {pool.max} machines at most") for m in forced]
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
            return f"{stands_in} in place of spot machines of type {kind} that cannot be had"
        room = self._packed._room[pool.name, kind]
        within = format_duration(self._settings.target_time)
        size = f"{room.cores:g} cores, {format_size(room.memory)} for tasks"
        return f"queued tasks need them to be done within {within} ({size})"
