"""Strict reading of options: one that the manual page does not have, or that the fake does not honour, is refused."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from tests.servers.fake.engine import RefusedError


def parse(words: Sequence[str], valued: Sequence[str], flags: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the options with their values, and the rest. Options are whole words (``-J name``)."""
    options: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option in flags:
            options.setdefault(option, [])
        elif option in valued and rest:
            options.setdefault(option, []).append(rest.pop(0))
        else:
            raise RefusedError(f"illegal option {option}")
    return options, rest


def directives(script: str, prefix: str) -> list[str]:
    """Return the words of a script's directives, which end at the first command."""
    words: list[str] = []
    for line in script.splitlines()[1:]:
        if line.startswith(prefix):
            words += shlex.split(line.removeprefix(prefix))
        elif line and not line.startswith("#"):
            break
    return words


def only(options: Mapping[str, list[str]], name: str, default: str = "") -> str:
    """Return the last value of an option."""
    return (options.get(name) or [default])[-1]
