"""Values that many calls have in common: pickled once, and loaded once by each process."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from typing import Any, ClassVar

from toilfn.graph.identity import value_identity

__all__ = ["Once"]


@dataclasses.dataclass(frozen=True)
class Once:
    """A frozen dataclass that holds no promises; a scatter gives the same one to all of its calls."""

    __toilfn_leaf__: ClassVar[bool] = True

    def counts(self) -> object:
        """Return what of it makes another result."""
        raise NotImplementedError

    def __toilfn_identity__(self) -> str:
        """Return a digest of what counts."""
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
