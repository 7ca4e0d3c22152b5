"""Reads what people write as settings: each function takes a value and gives it as toilfn uses it, or a ValueError."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any


def boolean(value: object) -> bool:
    """Read a yes or a no."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("write true or false")


def one_of(*choices: str) -> Callable[[object], str]:
    """Build a parser that takes one of some words, in any case, and gives it as it is spelled here."""

    def parse(value: object) -> str:
        for choice in choices:
            if str(value).lower() == choice.lower():
                return choice
        raise ValueError(f"choose from {', '.join(choices)}")

    return parse


def link_kind(value: object) -> str:
    """Read the way in which files are imported: a kind of link, or yes for a symbolic one and no for a copy."""
    try:
        return "symlink" if boolean(value) else "copy"
    except ValueError:
        return one_of("copy", "reflink", "hard", "symlink", "reference")(value)


def place(value: Any) -> str:
    """Read a path or a URL."""
    path: str = os.fspath(value)
    if not path:
        raise ValueError("it is empty: write a path, '.' for the current directory, or leave it out")
    return path


def whole(least: int) -> Callable[[Any], int]:
    """Build a parser of whole numbers that are not below `least`."""

    def parse(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = -1
        if number < least:
            raise ValueError(f"write a whole number, not below {least}")
        return number

    return parse


def cores(value: Any) -> float:
    """Read a number above 0."""
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("write a number above 0")
    return number


count, positive_count = whole(0), whole(1)


def port(value: Any) -> int:
    """Read the number of a port; 0 is any that is free."""
    number = count(value)
    if number > 65535:
        raise ValueError("write the number of a port, from 0 to 65535")
    return number


def probability(value: Any) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("write a number from 0 to 1")
    return number


def environment(value: Any) -> dict[str, str]:
    """Read variables: a mapping, ``NAME=VALUE``, ``NAME`` for the value it has here, or a list of these."""
    if isinstance(value, Mapping):
        return {str(name): str(text) for name, text in value.items()}
    if not isinstance(value, str):
        return {name: text for item in value for name, text in environment(item).items()}
    name, equals, text = value.partition("=")
    if not name or not (equals or name in os.environ):
        raise ValueError("write NAME=VALUE, or the name of a variable that is set")
    return {name: text if equals else os.environ[name]}


def names(value: Any) -> list[str]:
    """Read one name, or a list of them."""
    found = [value] if isinstance(value, str | os.PathLike) else list(value)
    if not all(isinstance(name, str | os.PathLike) and os.fspath(name) for name in found):
        raise ValueError("write a name, or a list of names")
    return [os.fspath(name) for name in found]


def hook(value: Any) -> str | list[str]:
    """Read a command, as a line for the shell or as a list of its words, or a URL."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
        return list(value)
    raise ValueError("write a command, as a text or as a list of words, or an http or https URL")


def sections(value: Any) -> dict[str, dict[str, Any]]:
    """Read sections: a mapping of names to mappings of settings."""
    if not isinstance(value, Mapping) or not all(isinstance(own, Mapping) for own in value.values()):
        raise ValueError("write a mapping of clusters to mappings of their settings")
    return {str(name): {str(key).replace("-", "_"): item for key, item in own.items()} for name, own in value.items()}


def named_values(value: Any) -> dict[str, Any]:
    """Read options: a mapping, also as JSON; ``NAME=VALUE`` where the value may be JSON; or a list of these."""
    if isinstance(value, str) and value.startswith("{"):
        return named_values(json.loads(value))
    if isinstance(value, Mapping):
        return {str(name).replace("-", "_"): part for name, part in value.items()}
    if not isinstance(value, str):
        return {name: part for item in value for name, part in named_values(item).items()}
    name, equals, text = value.partition("=")
    if not name or not equals:
        raise ValueError("write NAME=VALUE")
    try:
        return {name.replace("-", "_"): json.loads(text)}
    except ValueError:
        return {name.replace("-", "_"): text}
