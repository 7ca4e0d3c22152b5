"""Store large values that many tasks share in one file, which each process loads once."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from toilfn.files.file import File, open_write
from toilfn.graph.identity import value_identity
from toilfn.wdl.once import Once

__all__ = ["Apart", "apart", "together"]

_LARGE = 200
"""Number of texts and numbers from which on a value is stored in a file."""


@dataclass(frozen=True)
class Apart(Once):
    """A value in a file in the store."""

    file: File
    digest: str

    def counts(self) -> str:
        """Return the digest of the value."""
        return self.digest


def apart(plain: Any) -> Any:
    """Return the representation of an encoded value in the arguments of many tasks: itself, if it is small."""
    if _count(plain) < _LARGE:
        return plain
    with open_write("value.pickle") as stream:
        stream.write(pickle.dumps(plain, 5))
    return Apart(stream.file, value_identity(plain).hex())


def together(found: Any) -> Any:
    """Return the value for a result of `apart`."""
    return _load(found.file) if isinstance(found, Apart) else found


@functools.lru_cache(maxsize=16)
def _load(file: File) -> Any:
    return pickle.loads(file.read_bytes())


def _count(plain: Any) -> int:
    """Count the items in a value, up to the limit; the count is the same for equal values."""
    count, stack = 0, [plain]
    while stack and count < _LARGE:
        found = stack.pop()
        if isinstance(found, dict):
            stack.extend(found.values())
        elif isinstance(found, (list, tuple)):
            stack.extend(found)
        elif is_dataclass(found):
            stack.extend(getattr(found, field.name) for field in fields(found))
        count += 1 + (len(found) // 100 if isinstance(found, str) else 0)
    return count
