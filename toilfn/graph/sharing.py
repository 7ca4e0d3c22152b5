"""Large arguments: stored once, however many calls they are given to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from toilfn.graph.task import LARGE, task

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise

__all__ = ["is_large", "shared"]

_promises: WeakValueDictionary[int, Promise] = WeakValueDictionary()


def is_large(value: Any) -> bool:
    """Return whether a value is large enough to be stored apart; containers count without what is in them."""
    size = getattr(value, "nbytes", 0)  # what an array shows of another's memory is not in its own size
    return sys.getsizeof(value, 0) > LARGE or (isinstance(size, int) and size > LARGE)


@task(name="shared", cores=0.1)
def _shared(value: Any) -> Any:
    return value


def shared(value: Any) -> Promise:
    """Return the promise of a large value: the same one for the same object, as long as a call holds it."""
    from toilfn.graph.promise import Promise

    promise = _promises.get(id(value))
    if promise is None:
        promise = _promises[id(value)] = Promise(_shared, (value,), {})
    return promise
