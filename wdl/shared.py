"""Values that many calls share: pickled once, stored in one file if large, and loaded once by each process."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

from toilfn.files.file import File, open_write
from toilfn.graph.identity import value_identity

__all__ = ["SharedValue", "StoredValue", "plain_value", "stored_value"]


@dataclasses.dataclass(frozen=True)
class SharedValue:
    """A frozen dataclass without promises; a scatter passes the same instance to all its calls."""

    __toilfn_leaf__: ClassVar[bool] = True

    def counts(self) -> object:
        """Return the parts that affect results."""
        raise NotImplementedError

    def __toilfn_identity__(self) -> str:
        """Return a digest of `counts`."""
        return self._identity

    @functools.cached_property
    def _identity(self) -> str:
        return value_identity(self.counts()).hex()

    def __reduce__(self) -> Any:
        return _load, (self._pickled,)

    @functools.cached_property
    def _pickled(self) -> bytes:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return pickle.dumps((type(self), fields), 5)


@functools.lru_cache(maxsize=1024)
def _load(data: bytes) -> Any:
    kind, values = pickle.loads(data)
    return kind(**values)


_LARGE = 200
"""Number of texts and numbers from which on a value is stored in a file."""


@dataclass(frozen=True)
class StoredValue(SharedValue):
    """A value in a file in the store."""

    file: File
    digest: str

    def counts(self) -> str:
        """Return the digest of the value."""
        return self.digest


def stored_value(plain: Any) -> Any:
    """Return the representation of an encoded value in the arguments of many tasks: itself, if it is small."""
    if _count(plain) < _LARGE:
        return plain
    with open_write("value.pickle") as stream:
        stream.write(pickle.dumps(plain, 5))
    return StoredValue(stream.file, value_identity(plain).hex())


def plain_value(found: Any) -> Any:
    """Return the value for a result of `stored_value`."""
    return _load_file(found.file) if isinstance(found, StoredValue) else found


@functools.lru_cache(maxsize=16)
def _load_file(file: File) -> Any:
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
