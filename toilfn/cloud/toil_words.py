"""Parse pools in the notation of Toil: the options ``--nodeTypes`` and ``--workers``."""

from __future__ import annotations

import re
from typing import Any

from toilfn.cloud.description import MACHINE
from toilfn.errors import InputError

__all__ = ["from_words", "parse_node_types", "parse_workers"]


def parse_node_types(text: str) -> list[dict[str, Any]]:
    """Parse the pools in a value of ``--nodeTypes``.

    >>> parse_node_types("c5.4xlarge/c5a.4xlarge:0.42,t2.large")[0]
    {'name': 'pool1', 'types': ['c5.4xlarge', 'c5a.4xlarge'], 'spot': True, 'max_price': 0.42}

    Raises
    ------
    InputError
        If a bid is not a number, or a type has no name.
    """
    pools: list[dict[str, Any]] = []
    for number, part in enumerate(text.split(","), 1):
        types, colon, bid = part.strip().partition(":")
        names = [name.strip() for name in types.split("/")]
        if not all(MACHINE.fullmatch(name) for name in names):
            raise InputError(
                f"{part!r} is not a node type", hint="write TYPE/TYPE:BID, such as c5.4xlarge/c5a.4xlarge:0.42"
            )
        pool: dict[str, Any] = {"name": f"pool{number}", "types": names}
        if colon:
            pool["spot"] = True
        if bid.strip():
            try:
                pool["max_price"] = float(bid)
            except ValueError:
                raise InputError(f"{part!r}: {bid!r} is not a price for an hour") from None
        pools.append(pool)
    return pools


def parse_workers(text: str) -> list[tuple[int, int]]:
    """Parse the numbers of machines in a value of ``--workers``.

    >>> parse_workers("0-2,5")
    [(0, 2), (5, 5)]

    Raises
    ------
    InputError
        If a part is neither a number nor a range.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{part!r} is not a number of workers", hint="write numbers or ranges, such as 0-2,5")
        found.append((int(match[1]), int(match[2] or match[1])))
    return found


def from_words(node_types: str, workers: str | None) -> list[dict[str, Any]]:
    """Build the pools for the values of both options.

    Raises
    ------
    InputError
        If the options do not have the same number of items.
    """
    pools = parse_node_types(node_types)
    if workers is None:
        return pools
    ranges = parse_workers(workers)
    if len(ranges) != len(pools):
        raise InputError(
            f"there are {len(pools)} node types but {len(ranges)} numbers of workers", hint="pass one number for each"
        )
    return [pool | {"min": least, "max": most} for pool, (least, most) in zip(pools, ranges, strict=True)]
