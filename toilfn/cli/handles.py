"""Finding file handles in pickled values without the classes of the user's, and without running any code.

Every class and function that a payload names is replaced by one that takes everything and does
nothing, but for `toilfn.File`: the fields of each one are noted.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

__all__ = ["Handle", "find_handles", "plain"]


class Handle(NamedTuple):
    """The identity, name and size of a `toilfn.File`."""

    id: str
    """The name of its content in the store."""
    name: str
    size: int
    checksum: str
    executable: bool
    modified: int | None = None


def find_handles(payload: bytes, *, only_own: bool = False) -> list[Handle]:
    """List the files that a pickled value refers to, each once.

    With `only_own`, those in the stores of other workflows are left out; the value must then come from a store.
    """
    if b"toilfn.files.file" not in payload:
        return []
    reader = _Reader(io.BytesIO(payload), only_own)
    reader.load()
    return list(dict.fromkeys(reader.found))


def plain(payload: bytes) -> Any:
    """Load a pickled value of built-in types; a placeholder stands for each object of another type."""
    return _Reader(io.BytesIO(payload), only_own=True).load()


class _Nothing(type):
    """Makes the class of which everything is an instance and a call: itself."""

    def __call__(cls, *_: object, **__: object) -> Any:
        return cls

    def __setitem__(cls, *_: object) -> None: ...


class _Ignored(metaclass=_Nothing):
    def __new__(cls, *_: object, **__: object) -> Any:
        return cls

    @classmethod
    def _take(cls, *_: object) -> None: ...

    __setstate__ = append = extend = add = update = _take


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, only_own: bool) -> None:
        super().__init__(stream)
        self._only_own = only_own
        self.found: list[Handle] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("toilfn.files.file", "File"):
            return _Ignored
        found, only_own = self.found, self._only_own

        class Noted:
            def __setstate__(self, state: list[Any]) -> None:
                store = state[5] if len(state) > 5 else ""
                if not only_own or not store or store.startswith("="):
                    found.append(Handle(*state[:5], *state[6:7]))

        return Noted

    def persistent_load(self, pid: Any) -> Any:
        return _Ignored
