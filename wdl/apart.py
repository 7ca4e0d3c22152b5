"""Large values that many tasks have in common: one file of the store, which each process loads once."""

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
"""How many texts and numbers a value has that is kept apart."""


@dataclass(frozen=True)
class Apart(Once):
    """A value in a file of the store."""

    file: File
    digest: str

    def counts(self) -> str:
        """Return what identifies the value."""
        return self.digest


def apart(plain: Any) -> Any:
    """Return what stands for an encoded value in the arguments of many tasks, which is itself if it is small."""
    if _count(plain) < _LARGE:
        return plain
    with open_write("value.pickle") as stream:
        stream.write(pickle.dumps(plain, 5))
    return Apart(stream.file, value_identity(plain).hex())


def together(found: Any) -> Any:
    """Return the value that something from `apart` stands for."""
    return _load(found.file) if isinstance(found, Apart) else found


@functools.lru_cache(maxsize=16)
def _load(file: File) -> Any:
    return pickle.loads(file.read_bytes())


def _count(plain: Any) -> int:
    """Count what is in a value, as far as needed; the same for all values that are equal."""
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
