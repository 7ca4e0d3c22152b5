"""Walk over the plain structures that may contain promises: containers, dataclasses, namedtuples."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from toilfn.errors import GraphError

__all__ = ["ATOMS", "LAZY", "SHOWN", "holds_shown", "is_collection", "items_of", "rebuild", "walk"]

ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None)})
"""Exact types whose values contain no other objects and never change."""

LAZY = frozenset({map, filter, zip, enumerate})
"""Iterators that call functions, and so may make promises, only when they are read."""

_MOST_ITEMS = 10**7
"""An iterator with more items is assumed to be infinite."""


SHOWN: set[str] = set()
"""The texts that stood for promises in this process, in messages or in an f-string."""


_EXPRESSION = re.compile(r"Delayed\('[^']+-(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'\)")
"""The text that dask shows for an expression such as ``promise + 1``, with its key."""


def holds_shown(text: str) -> bool:
    """Return whether a text contains one that stood for a promise, or for an expression over one."""
    if "Delayed('" in text and _EXPRESSION.search(text):
        return True
    return bool(SHOWN) and "<Promise of " in text and any(shown in text for shown in SHOWN)


def is_collection(value: Any) -> bool:
    """Return whether a value is a promise or another dask collection; xarray objects are, if dask holds their data."""
    if not hasattr(type(value), "__dask_graph__"):
        return False
    promises = sys.modules.get("toilfn.graph.promise")
    if promises is not None and isinstance(value, promises.Promise):
        return True
    from dask.base import is_dask_collection

    return bool(is_dask_collection(value))


def items_of(iterator: Iterable[Any]) -> list[Any]:
    """Read an iterator to its end.

    Raises
    ------
    GraphError
        If it seems to be infinite.
    """
    items = list(islice(iterator, _MOST_ITEMS))
    if len(items) == _MOST_ITEMS:
        raise GraphError(
            f"a {type(iterator).__name__} has more than {_MOST_ITEMS - 1} items, or is infinite",
            hint="pass a list of the items that the task needs",
        )
    return items


def rebuild(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Copy a structure, with every leaf replaced.

    Lists, tuples, sets and dicts are always copied, so that what the caller does to the
    original later has no effect; dataclasses and namedtuples only where a leaf changed.

    Parameters
    ----------
    value : object
        Lists, tuples, sets, frozensets, dicts (values and keys), dataclass instances and namedtuples
        are entered, anything else is a leaf. So are dataclasses with ``__toilfn_leaf__ = True``, which
        neither change nor hold promises. A generator, `map`, `filter`, `zip` or `enumerate` becomes a list.
    replace : callable
        Gets each leaf and returns what stands in its place.

    Returns
    -------
    object
        The copy.

    Raises
    ------
    GraphError
        If the structure contains itself, or is nested too deeply to be stored.
    """
    try:
        return _rebuild(value, replace, set())
    except RecursionError:
        raise GraphError(f"a {type(value).__name__} is nested too deeply") from None


def _rebuild(value: Any, replace: Callable[[Any], Any], path: set[int]) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return replace(value)
    copier = _copier(value, kind)
    if copier is None:
        return replace(value)
    if id(value) in path:
        raise GraphError(f"a {kind.__name__} contains itself: it cannot be an argument or a result of a task")
    path.add(id(value))
    result = copier(value, lambda item: _rebuild(item, replace, path))
    path.remove(id(value))
    return result


def _copier(value: Any, kind: type) -> Callable[[Any, Callable[[Any], Any]], Any] | None:
    known = _COPIERS.get(kind)
    if known is not None:
        return known
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _copy_namedtuple
    if dataclasses.is_dataclass(kind) and not getattr(kind, "__toilfn_leaf__", False):
        return _copy_dataclass
    return None


def _copy_namedtuple(value: Any, inner: Callable[[Any], Any]) -> Any:
    items = [inner(item) for item in value]
    unchanged = all(new is old for new, old in zip(items, value, strict=True))
    return value if unchanged else type(value)._make(items)


def _copy_dataclass(value: Any, inner: Callable[[Any], Any]) -> Any:
    changed = {}
    for name in _field_names(type(value)):
        if hasattr(value, name):
            old = getattr(value, name)
            new = inner(old)
            if new is not old:
                changed[name] = new
    if not changed:
        return value
    result = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(result, name, item)
    return result


def _field_names(kind: type) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(field.name for field in dataclasses.fields(kind))
    return _FIELDS[kind]


_FIELDS: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()
"""The names of the fields of dataclasses that were met: `dataclasses.fields` takes as long as all the rest."""


def _copy_dict(value: dict[Any, Any], inner: Callable[[Any], Any]) -> dict[Any, Any]:
    return {inner(key): inner(item) for key, item in value.items()}


_COPIERS: dict[type, Callable[[Any, Callable[[Any], Any]], Any]] = {
    list: lambda value, inner: [inner(item) for item in value],
    tuple: lambda value, inner: tuple([inner(item) for item in value]),
    set: lambda value, inner: {inner(item) for item in value},
    frozenset: lambda value, inner: frozenset(inner(item) for item in value),
    dict: _copy_dict,
    **dict.fromkeys((*LAZY, types.GeneratorType), lambda value, inner: [inner(item) for item in items_of(value)]),
}


def walk(value: Any) -> Iterator[Any]:
    """Iterate over the leaves of a structure, as `rebuild` sees them."""
    leaves: list[Any] = []

    def note(leaf: Any) -> Any:
        leaves.append(leaf)
        return leaf

    rebuild(value, note)
    return iter(leaves)
