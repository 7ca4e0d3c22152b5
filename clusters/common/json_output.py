"""Find JSON in the output of a command: a site may print lines of its own before and after it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["has_beginning", "json_values"]

_DECODER = json.JSONDecoder(strict=False)
_BEGINNING = re.compile(r"^[ \t]*([\[{])", re.MULTILINE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_PLACES = 20
"""Maximum number of lines at which to try to parse JSON."""


def json_values(text: str) -> Iterator[Any]:
    """Yield each complete JSON object or array that begins on a new line."""
    text = _SURROGATE.sub(r"\\ufffd", text)  # lone surrogates cannot be encoded
    for begin in itertools.islice(_BEGINNING.finditer(text), _PLACES):
        try:
            value, _ = _DECODER.raw_decode(text, begin.start(1))
        except (ValueError, RecursionError):
            continue
        yield value


def has_beginning(text: str) -> bool:
    """Return whether a text contains the beginning of a JSON value, complete or not."""
    return _BEGINNING.search(text) is not None
