"""Values that many calls share: pickled only once, and loaded only once by each process."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from typing import Any, ClassVar

from toilfn.graph.identity import value_identity

__all__ = ["Once"]


@dataclasses.dataclass(frozen=True)
class Once:
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
