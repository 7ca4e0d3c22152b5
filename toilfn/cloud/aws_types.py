"""The machine types that AWS has for pools, what spot machines cost now, and the types of pools that name sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from toilfn.cloud.aws import TYPES, AmazonCloud, machine_type, tags_of
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.machines import MachineType, choose_types
from toilfn.errors import InputError

__all__ = ["launched_types", "offers", "spot_prices", "with_types"]

_CANDIDATES = 100
"""For so many of the smallest types that fit, spot prices are asked."""
_DEVICES = {"GpuInfo", "FpgaInfo", "InferenceAcceleratorInfo", "MediaAcceleratorInfo", "NeuronInfo"}


def spot_prices(cloud: AmazonCloud, types: Iterable[str], zones: Sequence[str] = ()) -> dict[str, float]:
    """Return what a spot machine of each type costs now for an hour, in the zone where it costs least.

    Parameters
    ----------
    cloud : AmazonCloud
        Whose region is asked.
    types : iterable of str
        Machine types. Those that are not sold as spot machines are left out of the result.
    zones : sequence of str, optional
        The zones that count; all if there are none.
    """
    wanted = sorted(set(types))
    if not wanted:
        return {}
    history = cloud.pages(
        "describe_spot_price_history", "SpotPriceHistory", InstanceTypes=wanted, ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.now(timezone.utc),  # only the prices that are in effect now
    )  # fmt: skip
    found: dict[str, float] = {}
    for entry in history:
        if not zones or entry["AvailabilityZone"] in zones:
            kind, price = entry["InstanceType"], float(entry["SpotPrice"])
            found[kind] = min(price, found.get(kind, price))
    return found


def offers(cloud: AmazonCloud, *, spot: bool) -> list[MachineType]:
    """Return the types of the region that a pool may consist of: current ones of 64-bit Intel and AMD processors.

    Types without steady speed and whole hosts are left out, and so are types with accelerators, which cost more and
    which a pool should name.

    Parameters
    ----------
    cloud : AmazonCloud
        Whose region is asked.
    spot : bool
        Whether the machines are spot machines.
    """
    filters = {
        "current-generation": "true", "bare-metal": "false", "burstable-performance-supported": "false",
        "processor-info.supported-architecture": "x86_64",
    }  # fmt: skip
    asked = [{"Name": name, "Values": [value]} for name, value in filters.items()]
    usage = "spot" if spot else "on-demand"
    return [
        machine_type(kind)
        for kind in cloud.pages("describe_instance_types", "InstanceTypes", Filters=asked)
        if usage in kind["SupportedUsageClasses"] and not _DEVICES & kind.keys()
    ]


def with_types(cloud: AmazonCloud, description: Description, prices: Mapping[str, MachineType]) -> Description:
    """Return the description with the cheapest types for each pool that names sizes.

    Parameters
    ----------
    cloud : AmazonCloud
        Where the types are.
    description : Description
        A cluster.
    prices : mapping
        Types with their prices on demand, as far as they are known.

    Raises
    ------
    InputError
        If no type is large enough, or each costs more than the pool's limit.
    """
    pools = [pool if pool.types else _with_types(cloud, description, pool, prices) for pool in description.pools]
    return replace(description, pools=tuple(pools))


def _with_types(
    cloud: AmazonCloud, description: Description, pool: PoolDescription, prices: Mapping[str, MachineType]
) -> PoolDescription:
    own = {name: sizes.price for name, sizes in description.machines.items()}
    known = {name: kind.price for name, kind in prices.items()} | {k: v for k, v in own.items() if v is not None}
    found = offers(cloud, spot=pool.spot)
    if pool.spot:
        fitting = sorted((kind for kind in found if pool.fits(kind.cores, kind.memory)), key=MachineType.cost)
        known = dict(spot_prices(cloud, [kind.name for kind in fitting[:_CANDIDATES]], description.zones))
    priced = [replace(kind, price=known.get(kind.name)) for kind in found]
    return replace(pool, types=choose_types(pool, priced))


def launched_types(cloud: AmazonCloud, pool: PoolDescription) -> PoolDescription:
    """Return a pool with the types that were chosen when its cluster was launched.

    Raises
    ------
    InputError
        If the cluster has no such pool.
    """
    name = f"toilfn-{cloud.name}-{pool.name}"
    for template in cloud.mine("describe_launch_templates", "LaunchTemplates"):
        if template["LaunchTemplateName"] == name and (types := tags_of(template).get(TYPES)):
            return replace(pool, types=tuple(types.split()))
    raise InputError(f"cluster {cloud.name}: it was launched without a pool {pool.name!r} of these sizes")
