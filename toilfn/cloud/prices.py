"""Sizes and prices of machine types from the offer file of a cloud, of which a cache is kept."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from toilfn.cloud.machines import MachineType
from toilfn.errors import ClusterError, InputError
from toilfn.units import parse_memory

__all__ = ["cache_file", "is_general", "kept_offers", "offered", "read_offers"]

_AWS = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv"
_FRESH = 30 * 86400.0
"""Seconds after which an offer file is downloaded again."""
_WANTED = {
    "TermType": "OnDemand", "Unit": "Hrs", "Currency": "USD", "Operating System": "Linux", "Tenancy": "Shared",
    "CapacityStatus": "Used", "Pre Installed S/W": "NA",
}  # fmt: skip
"""Columns and their values in the rows for Linux machines on demand without other software."""


def offered(region: str, source: str = "aws", *, now: float | None = None) -> dict[str, MachineType]:
    """Return the machine types that a cloud offers in a region, with their prices on demand.

    Parameters
    ----------
    region : str
        The region, such as ``"eu-central-1"``.
    source : str, optional
        ``"aws"`` for the file that AWS publishes, which is cached for 30 days; else the path of such a file.
    now : float, optional
        The time, in seconds since the epoch. Default: the current time.

    Raises
    ------
    ClusterError
        If the file cannot be downloaded.
    InputError
        If the file is not an offer file of AWS.
    """
    if source != "aws":
        try:
            with open(source, encoding="utf-8", newline="") as file:
                return read_offers(file, source)
        except OSError as error:
            raise InputError(f"{source}: the offer file cannot be read: {error.strerror}") from None
    moment = time.time() if now is None else now
    if kept := kept_offers(region, moment):
        return kept
    with _downloaded(region) as file:
        found = read_offers(file, f"the offer file of {region}")
    rows = [[kind.name, kind.cores, kind.memory, kind.price] for kind in found.values()]
    _keep(cache_file(region), json.dumps({"time": moment, "types": rows}))
    return found


def kept_offers(region: str, now: float) -> dict[str, MachineType]:
    """Return the cached offers of AWS in a region, if they are not older than 30 days, else an empty mapping."""
    try:
        kept = json.loads(cache_file(region).read_text(encoding="utf-8"))
        if now - kept["time"] < _FRESH:
            return {name: MachineType(name, cores, memory, 0, price) for name, cores, memory, price in kept["types"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def is_general(name: str) -> bool:
    """Return whether the name of a type of AWS suggests that it suits a pool with sizes only.

    Types with burstable performance, bare-metal types and types with ARM processors do not.

    >>> [name for name in ("c6i.large", "t3.large", "m7g.large", "c7gn.large", "m6i.metal") if is_general(name)]
    ['c6i.large']
    """
    family, _, size = name.partition(".")
    match = re.match(r"([a-z]+)\d+([a-z-]*)", family)
    return match is not None and match[1] not in ("a", "t") and "g" not in match[2] and not size.startswith("metal")


def cache_file(region: str) -> Path:
    """Return the file that caches the offers of a region."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "toilfn" / f"offers-aws-{region}.json"


def read_offers(lines: Iterable[str], source: str) -> dict[str, MachineType]:
    """Parse an offer file of AWS EC2 in CSV format, row by row, since such files have hundreds of megabytes.

    Raises
    ------
    InputError
        If no row has the price of a machine.
    """
    rows = csv.reader(lines)
    header = next((row for row in rows if "Instance Type" in row and "PricePerUnit" in row), None)
    if header is None:
        raise InputError(f"{source}: this is not an offer file of AWS EC2 (index.csv)")
    place = {name: index for index, name in enumerate(header)}
    wanted = [(place[name], value) for name, value in _WANTED.items() if name in place]
    found: dict[str, MachineType] = {}
    for row in rows:
        if len(row) == len(header) and all(row[index] == value for index, value in wanted):
            kind = _machine_type(row, place)
            if kind is not None:
                found[kind.name] = kind
    if not found:
        raise InputError(f"{source}: no row has the price of a Linux machine on demand")
    return found


def _machine_type(row: list[str], place: dict[str, int]) -> MachineType | None:
    try:
        memory = row[place["Memory"]].replace(",", "").replace(" GiB", "Gi")
        price = float(row[place["PricePerUnit"]])
        return MachineType(row[place["Instance Type"]], float(row[place["vCPU"]]), parse_memory(memory), 0, price)
    except (ValueError, KeyError):  # for example, bare-metal rows have NA instead of a number
        return None


@contextmanager
def _downloaded(region: str) -> Iterator[TextIO]:
    url = _AWS.format(region=region)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - https
            yield io.TextIOWrapper(answer, encoding="utf-8", newline="")
    except OSError as error:
        raise ClusterError(
            f"prices of {region}: {url} cannot be read: {error}",
            hint="add prices to the description's machines, or pass a file with --prices",
        ) from None


def _keep(cache: Path, text: str) -> None:
    """Write the cache. Errors are ignored: without a cache, the next plan downloads the offers again."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, cache)
    except OSError:
        return
