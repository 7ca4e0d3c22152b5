"""Finding the JSON in what a command printed: a site may have its own lines before and after it."""

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
"""In how many places of an answer its beginning is looked for."""


def json_values(text: str) -> Iterator[Any]:
    """Read each whole JSON object or array that begins at the beginning of a line."""
    text = _SURROGATE.sub(r"\\ufffd", text)  # halves of characters cannot be written anywhere
    for begin in itertools.islice(_BEGINNING.finditer(text), _PLACES):
        try:
            value, _ = _DECODER.raw_decode(text, begin.start(1))
        except (ValueError, RecursionError):
            continue
        yield value


def has_beginning(text: str) -> bool:
    """Return whether JSON begins anywhere in a text, whole or not."""
    return _BEGINNING.search(text) is not None
