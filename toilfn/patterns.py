"""Translate file name patterns of bash and POSIX to patterns for `glob.glob`, which supports fewer constructs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

__all__ = ["expand_braces", "from_posix"]

_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": " \t", "digit": "0-9", "lower": "a-z", "space": " \t\n\r\v\f",
    "upper": "A-Z", "word": "a-zA-Z0-9_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip

_SEQUENCE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")

_ESCAPED_OR_BRACKETS = re.compile(r"\\(.)|\[([!^]?)(\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", re.DOTALL)


def from_posix(pattern: str) -> str:
    r"""Translate a pattern to one for `glob.glob`.

    It may have classes such as ``[[:digit:]]``, a circumflex in ``[^a]``, and characters after a backslash.

    Examples
    --------
    >>> from_posix(r"[^a][[:digit:]]\*")
    '[!a][0-9][*]'
    """
    return _ESCAPED_OR_BRACKETS.sub(_translate, pattern)


def _translate(found: re.Match[str]) -> str:
    escaped, negation, members = found.groups()
    if escaped is not None:
        return f"[{escaped}]" if escaped in "*?[" else escaped
    if not members:
        return found[0]
    plain = re.sub(r"\[:(\w+):\]", lambda name: _CLASSES.get(name[1], name[0]), members)
    plain = re.sub(r"\\(.)", r"\1", plain)
    return f"[{'!' if negation else ''}{plain}]"


def expand_braces(pattern: str) -> list[str]:
    """Expand alternatives in braces to patterns, as bash does.

    Examples
    --------
    >>> expand_braces("x.{bam,bam.bai}")
    ['x.bam', 'x.bam.bai']
    >>> expand_braces("{1..3}{a}")
    ['1{a}', '2{a}', '3{a}']
    """
    for start in _plain(pattern, "{"):
        found = _alternatives(pattern, start)
        if found is not None:
            alternatives, end = found
            rest = expand_braces(pattern[end:])
            return [pattern[:start] + middle + last for middle in alternatives for last in rest]
    return [pattern]


def _plain(pattern: str, characters: str, start: int = 0) -> Iterator[int]:
    """Yield the indexes at which a pattern has one of some characters without a backslash before it."""
    position = start
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] in characters:
            yield position
        position += 1


def _alternatives(pattern: str, start: int) -> tuple[list[str], int] | None:
    """Return the alternatives in the braces at a position, and the position after the braces.

    The result is None if the braces are plain characters.
    """
    depth, borders = 0, [start]
    for position in _plain(pattern, "{,}", start):
        depth += {"{": 1, "}": -1, ",": 0}[pattern[position]]
        if depth == 0:
            borders.append(position)
            break
        if depth == 1 and pattern[position] == ",":
            borders.append(position)
    else:
        return None
    parts = [pattern[first + 1 : last] for first, last in pairwise(borders)]
    if len(parts) > 1:
        return [inner for part in parts for inner in expand_braces(part)], borders[-1] + 1
    sequence = _SEQUENCE.fullmatch(parts[0])
    return None if sequence is None else (_numbers(*sequence.groups()), borders[-1] + 1)


def _numbers(first: str, last: str, step: str | None) -> list[str]:
    width = max(len(first), len(last)) if re.match(r"-?0\d", first) or re.match(r"-?0\d", last) else 0
    start, end, size = int(first), int(last), abs(int(step or 1)) or 1
    numbers = range(start, end + 1, size) if start <= end else range(start, end - 1, -size)
    return [str(number).zfill(width) for number in numbers]
