"""Parse and format sizes and durations.

The suffixes of sizes are those of Toil (its manual, "Resource Options"): ``K``, ``M``, ``G``, ``T``, ``P`` and ``E``
are powers of 1000, and ``Ki``, ``Mi``, ``Gi``, ... are powers of 1024. Case, a ``B`` at the end and spaces make no
difference.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from math import isfinite
from numbers import Real

from toilfn.errors import ResourceError

__all__ = [
    "format_duration", "format_size", "parse_disk", "parse_duration", "parse_memory", "parse_size",
    "parse_time_limit",
]  # fmt: skip

_NUMBER = r"(\d[\d_]*\.?\d*|\.\d+)(?:e([+-]?\d{1,2}))?"
_SIZE = re.compile(rf"{_NUMBER}\s*([kmgtpe]?)(i?)b?", re.IGNORECASE)
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(604800),
}
_WORDS = {"sec": "s", "second": "s", "min": "m", "minute": "m", "hr": "h", "hour": "h", "day": "d", "week": "w"}
_PART = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+)", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")

_MEBIBYTE = 2**20
_NO_SIZE = 2**63
_SIZE_HELP = "write a number of bytes, or a number with K, M, G, T, P, E (powers of 1000) or Ki, Mi, Gi, ... (of 1024)"
_DURATION_HELP = "write a number of seconds, or for example '30s', '90m', '1h30m', '2d' or '01:30:00'"


def parse_size(size: str | float) -> int:
    """Parse a size.

    Parameters
    ----------
    size : str, int or float
        ``"2G"`` is 2 * 10**9, ``"512Mi"`` is 512 * 2**20; a plain number is bytes.

    Returns
    -------
    int
        The size in bytes, rounded down.

    Raises
    ------
    ResourceError
        If it is not a size, is negative, or is more than 8 EiB.
    """
    amount = _size(size)
    if amount >= _NO_SIZE:
        raise ResourceError(f"{size!r} is too large: a size must be at most 8 EiB", hint=_SIZE_HELP)
    return amount


def _size(size: str | float) -> int:
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None or (match[4] and not match[3]):
            raise ResourceError(f"{size!r} is not a size", hint=_SIZE_HELP)
        digits, exponent, power, binary = match.groups()
        unit = (1024 if binary else 1000) ** ("kmgtpe".index(power.lower()) + 1 if power else 0)
        return int(Decimal(f"{digits}e{exponent or 0}") * unit)
    return size if type(size) is int and size >= 0 else int(_plain(size, "size", _SIZE_HELP))


def parse_memory(size: str | float) -> int:
    """Parse an amount of memory as `parse_size` does; refuse one that was most likely meant in another unit.

    Raises
    ------
    ResourceError
        If it is not a size, or less than a mebibyte.
    """
    return _in_bytes(size, "memory", 1)


def parse_disk(size: str | float) -> int:
    """Parse an amount of disk as `parse_size` does; refuse one that was most likely meant in another unit.

    Raises
    ------
    ResourceError
        If it is not a size, or less than a mebibyte but not 0.
    """
    return _in_bytes(size, "disk", 0)


def _in_bytes(size: str | float, what: str, least: int) -> int:
    amount = parse_size(size)
    if amount < _MEBIBYTE and (amount or least):
        raise ResourceError(
            f"{size!r} is {amount} bytes of {what}, less than a mebibyte",
            hint="a number without a unit is in bytes; for gigabytes or megabytes, write for example '8G' or '500M'",
        )
    return amount


def format_size(size: float) -> str:
    """Format a size in bytes for users, with units that are powers of 1024: ``"1.5 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(size) < 1023.95 or unit == "PiB":
            break
        size /= 1024
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"


def parse_duration(duration: str | float | timedelta) -> float:
    """Parse a duration.

    Parameters
    ----------
    duration : str, int, float or timedelta
        ``"30s"``, ``"1h30m"``, ``"2 days"``, ``"[[days-]hours:]minutes:seconds"``; a plain number is seconds.

    Returns
    -------
    float
        The duration in seconds.

    Raises
    ------
    ResourceError
        If it is not a duration, or is negative.
    """
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if not isinstance(duration, str):
        return _plain(duration, "duration", _DURATION_HELP)
    text = duration.strip()
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + seconds
    if re.fullmatch(_NUMBER, text, re.IGNORECASE):
        return float(text)
    return _with_units(duration, text)


def parse_time_limit(duration: str | float | timedelta) -> float:
    """Parse a time limit as `parse_duration` parses a duration; refuse 0, since no task could finish.

    Raises
    ------
    ResourceError
        If it is not a duration, or is 0.
    """
    seconds = parse_duration(duration)
    if not seconds:
        raise ResourceError(f"{duration!r} is not a time limit", hint="write a time above 0, or leave it out")
    return seconds


def format_duration(seconds: float) -> str:
    """Format a duration for users: ``"0.25s"``, ``"12.5s"``, ``"3m 20s"``, ``"2h 05m"``, ``"3d 04h"``."""
    if seconds < 59.95:
        return f"{seconds:.{1 if seconds >= 1 else 3}f}".rstrip("0").rstrip(".") + "s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {whole:02d}s"


def _plain(number: object, what: str, help: str) -> float:
    """Check a size or duration that is given as a number, and return it."""
    if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number) or number < 0:
        raise ResourceError(f"{number!r} is not a {what}", hint=help)
    return float(number)


def _with_units(original: str, text: str) -> float:
    total, end = Decimal(0), 0
    while match := _PART.match(text, end):
        word = match[2].lower()
        unit = _SECONDS.get(word) or _SECONDS.get(_WORDS.get(word.removesuffix("s"), ""))
        if unit is None:
            break
        total += Decimal(match[1]) * unit
        end = match.end()
    if not end or end != len(text):
        raise ResourceError(f"{original!r} is not a duration", hint=_DURATION_HELP)
    return float(total)
