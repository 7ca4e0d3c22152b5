"""Machine types of AWS: those that suit pools, current prices of spot machines, and types for pools with sizes only."""

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
"""Spot prices are requested for this many types: the smallest ones that are large enough."""
_DEVICES = {"GpuInfo", "FpgaInfo", "InferenceAcceleratorInfo", "MediaAcceleratorInfo", "NeuronInfo"}


def spot_prices(cloud: AmazonCloud, types: Iterable[str], zones: Sequence[str] = ()) -> dict[str, float]:
    """Return the current price of a spot machine of each type, per hour, in the cheapest zone.

    Parameters
    ----------
    cloud : AmazonCloud
        The access to a region.
    types : iterable of str
        Machine types. Types without spot machines are left out of the result.
    zones : sequence of str, optional
        The zones to consider. Default: all.
    """
    wanted = sorted(set(types))
    if not wanted:
        return {}
    history = cloud.pages(
        "describe_spot_price_history", "SpotPriceHistory", InstanceTypes=wanted, ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.now(timezone.utc),  # returns only the current prices
    )  # fmt: skip
    found: dict[str, float] = {}
    for entry in history:
        if not zones or entry["AvailabilityZone"] in zones:
            kind, price = entry["InstanceType"], float(entry["SpotPrice"])
            found[kind] = min(price, found.get(kind, price))
    return found


def offers(cloud: AmazonCloud, *, spot: bool) -> list[MachineType]:
    """Return the region's types for pools with sizes only: current ones with 64-bit Intel or AMD processors.

    Types with burstable performance and bare-metal types are left out. So are types with accelerators, which are
    expensive; a pool that needs them must name its types.

    Parameters
    ----------
    cloud : AmazonCloud
        The access to a region.
    spot : bool
        Whether the types must be available as spot machines.
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
        The access to a region.
    description : Description
        A cluster.
    prices : mapping
        On-demand prices, as far as they are known: machine types by name.

    Raises
    ------
    InputError
        If no type is large enough, or all cost more than the pool's limit.
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
    raise InputError(f"cluster {cloud.name}: it has no pool {pool.name!r} with sizes instead of types")
