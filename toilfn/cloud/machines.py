"""Machine types, pools of machines, and the resources of a machine that tasks can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from toilfn.cloud.description import PoolDescription
from toilfn.cloud.packing import Amounts, amounts_of
from toilfn.errors import InputError
from toilfn.resources import Accelerator, Resources
from toilfn.units import format_size

__all__ = ["MachineType", "Pool", "choose_types", "has_devices", "shortfall", "usable"]

_MIB, _GIB = 2**20, 2**30

_EVICTION = 100 * _MIB
"""Bytes of memory that the engine on a node, such as Kubernetes, keeps free."""
_BANDS = ((4 * _GIB, 0.25), (8 * _GIB, 0.20), (16 * _GIB, 0.10), (128 * _GIB, 0.06), (float("inf"), 0.02))
"""The shares of a node's memory that are reserved for the system: pairs of a size, and the share of the memory between
the previous size and this one."""
_SMALL = (1 * _GIB, 255 * _MIB)
"""On a machine with less memory than the first value, the second value is reserved."""
_SYSTEM_DISK, _DISK_SHARE = 5 * _GIB, 0.05
_DEARER, _MOST_TYPES = 1.25, 6
"""For a pool with sizes only: the maximum price of a type, as a multiple of the cheapest type's, and the maximum number
of types."""


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type of a cloud.

    Attributes
    ----------
    name : str
        The cloud's name for it, such as ``"c5.4xlarge"``.
    cores : float
        Number of virtual CPUs.
    memory, disk : int
        Memory in bytes, and the size of its volume or its own disk in bytes.
    price : float or None
        Price for an hour, in the cloud's currency; None if it is unknown.
    accelerators : tuple of Accelerator
        The accelerators of a machine.
    """

    name: str
    cores: float
    memory: int
    disk: int
    price: float | None = None
    accelerators: tuple[Accelerator, ...] = ()

    def cost(self) -> float:
        """Return the price, or, if it is unknown, a number in proportion to the size."""
        return self.price if self.price is not None else self.cores + self.memory / (8 * _GIB)


@dataclass(frozen=True, slots=True)
class Pool:
    """Machines that are treated alike.

    Attributes
    ----------
    name : str
        The name of the pool, which is unique in the cluster.
    types : tuple of MachineType
        The machine types. For new machines, the type that is cheapest for the queued tasks is used.
    spot : bool
        Whether the machines are spot machines.
    min, max : int
        The minimum and maximum number of machines.
    """

    name: str
    types: tuple[MachineType, ...]
    spot: bool = False
    min: int = 0
    max: int = 10
    by_name: dict[str, MachineType] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the types."""
        object.__setattr__(self, "by_name", {kind.name: kind for kind in self.types})

    def admits(self, resources: Resources) -> bool:
        """Return whether a task may run on these machines: only preemptible tasks may run on spot machines."""
        return resources.preemptible or not self.spot


def usable(kind: MachineType, *, overhead: bool = True) -> Amounts:
    """Return the resources of a machine that tasks can use: those not reserved for its system, engine and image.

    Parameters
    ----------
    kind : MachineType
        The type of the machine.
    overhead : bool, optional
        Whether to subtract the reserved resources. Default: true.
    """
    devices = sum(accelerator.count for accelerator in kind.accelerators)
    if not overhead:
        return Amounts(kind.cores, kind.memory, kind.disk, devices)
    memory = max(0.0, kind.memory - _kept_memory(kind.memory) - _EVICTION)
    disk = max(0.0, kind.disk - _SYSTEM_DISK - _DISK_SHARE * kind.disk)
    return Amounts(kind.cores, memory, disk, devices)


def _kept_memory(memory: float) -> float:
    if memory < _SMALL[0]:
        return _SMALL[1]
    kept, below = 0.0, 0.0
    for limit, share in _BANDS:
        kept += share * max(0.0, min(memory, limit) - below)
        below = limit
    return kept


def has_devices(kind: MachineType, resources: Resources) -> bool:
    """Return whether a machine has the accelerators that a task requests."""
    return all(any(_matches(own, asked) for own in kind.accelerators) for asked in resources.accelerators)


def _matches(own: Accelerator, asked: Accelerator) -> bool:
    pairs = ((own.model, asked.model), (own.brand, asked.brand), (own.api, asked.api))
    alike = all(wanted is None or had is None or had == wanted for had, wanted in pairs)
    return own.kind == asked.kind and own.count >= asked.count and alike


def shortfall(kind: MachineType, resources: Resources, *, overhead: bool = True) -> tuple[float, str]:
    """Return by which factor a task exceeds a machine, and a description of that limit; 0 if it can run there."""
    need, have = amounts_of(resources), usable(kind, overhead=overhead)
    if not has_devices(kind, resources):
        return float("inf"), f"{kind.name} does not have the accelerators"
    limits = [
        (need.cores, have.cores, f"{need.cores:g} cores, and {kind.name} has {have.cores:g}"),
        (need.memory, have.memory, f"{_size(need.memory)} of memory, and {kind.name} has {_size(have.memory)}"),
        (need.disk, have.disk, f"{_size(need.disk)} of disk, and {kind.name} has {_size(have.disk)}"),
    ]
    missing = [(wanted / had if had else float("inf"), text) for wanted, had, text in limits if wanted > had + 1e-9]
    return max(missing, default=(0.0, ""))


def _size(amount: float) -> str:
    return format_size(round(amount))


def choose_types(pool: PoolDescription, offers: Sequence[MachineType]) -> tuple[str, ...]:
    """Return the cheapest types that have the sizes of a pool, the cheapest one first.

    The result has several types if others cost about as much, so that the cloud can use another one if it lacks the
    first. Types with a known price are preferred; without any prices, smaller types count as cheaper.

    Parameters
    ----------
    pool : PoolDescription
        A pool with cores, memory, or both instead of types.
    offers : sequence of MachineType
        The types to choose from.

    Raises
    ------
    InputError
        If no type is large enough, or all cost more than the pool's limit.
    """
    asked = [f"{pool.cores:g} cores"] if pool.cores is not None else []
    asked += [f"{_size(pool.memory)} of memory"] if pool.memory is not None else []
    fitting = [kind for kind in offers if pool.fits(kind.cores, kind.memory)]
    if not fitting:
        raise InputError(f"pool {pool.name}: no machine type has {' and '.join(asked)}", hint=_nearest(offers))
    ranked = sorted([kind for kind in fitting if kind.price is not None] or fitting, key=lambda k: (k.cost(), k.name))
    most = _DEARER * ranked[0].cost()
    if pool.max_price is not None and ranked[0].price is not None:
        most = min(most, pool.max_price)
        if ranked[0].price > pool.max_price:
            raise InputError(
                f"pool {pool.name}: the cheapest type with {' and '.join(asked)}, {ranked[0].name}, costs "
                f"{ranked[0].price:.4g} an hour now, which is more than max_price {pool.max_price:g}"
            )
    return tuple(kind.name for kind in ranked[:_MOST_TYPES] if kind.cost() <= most)


def _nearest(offers: Sequence[MachineType]) -> str:
    if not offers:
        return "add machine types with their sizes to the description's machines, or list types for the pool"
    largest = max(offers, key=lambda kind: (kind.cores, kind.memory))
    roomiest = max(offers, key=lambda kind: (kind.memory, kind.cores))
    ends = [f"{kind.name} has {kind.cores:g} cores and {_size(kind.memory)}" for kind in (largest, roomiest)]
    return "; ".join(dict.fromkeys(ends))
